"""Weights of other libraries give the outputs of the original models, in packs, at any size.

The expected outputs are frozen; `make test-parity` compares with the originals themselves.
"""

import json

import numpy as np
import pytest
import torch

import patchpack as pp
from patchpack.batch import PackedBatch, collate
from patchpack.data.patchify import patchify
from patchpack.pretrained.folds import fold_normalization, quick_gelu_to_silu
from patchpack.pretrained.registry import convert_source
from patchpack.pretrained.source import read_source
from patchpack.pretrained.weights import Affine
from pretrained_fixtures import (
    GRIDS,
    NAMES,
    SENTENCES,
    fixture,
    make_image,
    relative,
    weighted_sum,
    write_source,
)

TOLERANCE = 1e-5  # of the largest value


def pack(grids: tuple[tuple[int, int], ...], patch: int) -> PackedBatch:
    images = [np.asarray(make_image(h * patch, w * patch)) for h, w in grids]
    return collate([patchify(image, patch) for image in images], patch**2 * 3)


@pytest.mark.parametrize("name", NAMES)
def test_outputs_equal_those_of_the_original(name, tmp_path):
    predictor = pp.load(write_source(name, tmp_path))
    module, expected = predictor.model, fixture(name)["outputs"]
    batch = pack(GRIDS, predictor.spec.model.patch_size)
    with torch.inference_mode():
        packed = module.encode(batch)
        logits = module.head(packed.pooled) if predictor.classes else packed.pooled
    parts = packed.tokens.split(list(batch.lengths))
    for number, (tokens, output) in enumerate(zip(parts, expected, strict=True)):
        values = {"tokens": weighted_sum(tokens), "pooled": packed.pooled[number]}
        if predictor.classes:
            values["logits"] = logits[number]
        assert values.keys() == output.keys()
        for key, value in values.items():
            deviation = relative(value, torch.tensor(output[key]))
            assert deviation < TOLERANCE, (key, GRIDS[number], deviation)


def test_embeddings_of_images_and_texts_equal_those_of_the_original(tmp_path):
    name = "clip_with_text"
    predictor, expected = pp.load(write_source(name, tmp_path)), fixture(name)
    texts = torch.from_numpy(predictor.embed_texts(SENTENCES))
    assert relative(texts, torch.tensor(expected["text_embeddings"])) < TOLERANCE
    images = predictor.vectors(pack(GRIDS, 4))
    assert relative(images, torch.tensor(expected["image_embeddings"])) < TOLERANCE


@pytest.mark.parametrize("name", NAMES)
def test_an_image_has_the_same_outputs_in_a_pack_and_by_itself(name, tmp_path):
    predictor = pp.load(write_source(name, tmp_path))
    patch = predictor.spec.model.patch_size
    with torch.inference_mode():
        packed = predictor.model.encode(pack(GRIDS, patch)).pooled
        for number, grid in enumerate(GRIDS):
            single = predictor.model.encode(pack((grid,), patch)).pooled[0]
            assert relative(packed[number], single) < TOLERANCE


def test_normalization_per_channel_is_folded_exactly():
    torch.manual_seed(0)
    embedding, pixels = Affine(torch.randn(5, 12), torch.randn(5)), torch.rand(7, 12) * 255
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    normalized = (pixels.unflatten(1, (4, 3)) / 255 - torch.tensor(mean)) / torch.tensor(std)
    expected = normalized.flatten(1) @ embedding.weight.T + embedding.bias
    folded = fold_normalization(embedding, mean, std)
    outputs = (pixels - 127.5) / 127.5 @ folded.weight.T + folded.bias
    torch.testing.assert_close(outputs, expected, atol=1e-5, rtol=1e-5)


def test_quick_gelu_is_silu_of_a_scaled_mlp():
    torch.manual_seed(0)
    up, down = Affine(torch.randn(9, 4), torch.randn(9)), Affine(torch.randn(4, 9), torch.randn(4))
    x = torch.randn(6, 4)
    hidden = x @ up.weight.T + up.bias
    expected = hidden * torch.sigmoid(1.702 * hidden) @ down.weight.T + down.bias
    up, down = quick_gelu_to_silu(up, down)
    hidden = torch.nn.functional.silu(x @ up.weight.T + up.bias)
    torch.testing.assert_close(hidden @ down.weight.T + down.bias, expected)


def test_preprocessing_of_the_source_becomes_part_of_the_model(tmp_path):
    naflex = convert_source(read_source(write_source("siglip2_naflex", tmp_path / "a"))).spec
    assert str(naflex.resolution) == "NaFlex(tokens=30)" and naflex.eval_tokens == 30
    assert naflex.input.resize_filter == "bilinear"
    cropped = convert_source(read_source(write_source("dinov2", tmp_path / "b"))).spec
    assert cropped.resolution.side == 16 and cropped.eval_tokens == 16  # pixels; patches of 4
    assert cropped.input.resize_filter == "bicubic"


def test_other_rescale_and_normalization_values_are_read(tmp_path):
    """Pixels x / 127.5 - 1 are those of mean 0.5 and deviation 0.5."""
    folder = write_source("siglip", tmp_path)
    expected = convert_source(read_source(folder)).tensors["backbone.embedding.bias"]
    path = folder / "preprocessor_config.json"
    values = json.loads(path.read_text())
    changes = {"rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3}
    path.write_text(json.dumps(values | changes))
    bias = convert_source(read_source(folder)).tensors["backbone.embedding.bias"]
    torch.testing.assert_close(bias, expected)
    path.write_text(json.dumps(values | {"do_normalize": False}))
    unnormalized = convert_source(read_source(folder)).tensors["backbone.embedding.bias"]
    assert relative(unnormalized, expected) > 0.1


def test_class_names_come_from_the_config(tmp_path):
    assert pp.load(write_source("vit", tmp_path / "a")).classes == ("cat", "dog", "bird")
    assert pp.load(write_source("timm_deit", tmp_path / "b")).classes == ("0", "1", "2")


def test_half_precision_and_shards_are_read(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = write_source("ijepa", tmp_path)
    expected = convert_source(read_source(folder)).tensors
    path = folder / "model.safetensors"
    tensors = {name: tensor.half() for name, tensor in load_file(path).items()}
    names = sorted(tensors)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, keys in shards.items():
        save_file({key: tensors[key] for key in keys}, folder / file)
    weight_map = {key: file for file, keys in shards.items() for key in keys}
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    path.unlink()
    sharded = convert_source(read_source(folder)).tensors
    assert all(torch.equal(sharded[name], tensor) for name, tensor in expected.items())


def flax_arrays(tensors: dict[str, torch.Tensor], heads: int, stacked: bool) -> dict[str, object]:
    """Tensors of transformers' SigLIP 2 NaFlex as big_vision's arrays."""
    dim = tensors["post_layernorm.weight"].numel()
    attention, arrays = "MultiHeadDotProductAttention_0", {}

    def add(name: str, layer: str, shape: tuple[int, ...] | None = None) -> None:
        kernel = tensors[f"{layer}.weight"].T
        arrays[f"{name}/kernel"] = kernel.reshape(shape or kernel.shape)
        bias = tensors[f"{layer}.bias"]
        arrays[f"{name}/bias"] = bias.reshape(heads, -1) if shape and shape[0] == dim else bias

    def add_norm(name: str, layer: str) -> None:
        arrays[f"{name}/scale"] = tensors[f"{layer}.weight"]
        arrays[f"{name}/bias"] = tensors[f"{layer}.bias"]

    split, joined = (dim, heads, dim // heads), (heads, dim // heads, dim)
    for i in range(2):
        block, layer = f"Transformer/encoderblock_{i}", f"encoder.layers.{i}"
        add_norm(f"{block}/LayerNorm_0", f"{layer}.layer_norm1")
        add_norm(f"{block}/LayerNorm_1", f"{layer}.layer_norm2")
        for name in ("query", "key", "value"):
            add(f"{block}/{attention}/{name}", f"{layer}.self_attn.{name[0]}_proj", split)
        add(f"{block}/{attention}/out", f"{layer}.self_attn.out_proj", joined)
        add(f"{block}/MlpBlock_0/Dense_0", f"{layer}.mlp.fc1")
        add(f"{block}/MlpBlock_0/Dense_1", f"{layer}.mlp.fc2")
    for part, name in enumerate(("query", "key", "value")):
        rows = slice(part * dim, (part + 1) * dim)
        kernel = tensors["head.attention.in_proj_weight"][rows].T
        arrays[f"MAPHead_0/{attention}/{name}/kernel"] = kernel.reshape(split)
        bias = tensors["head.attention.in_proj_bias"][rows]
        arrays[f"MAPHead_0/{attention}/{name}/bias"] = bias.reshape(heads, -1)
    add(f"MAPHead_0/{attention}/out", "head.attention.out_proj", joined)
    add_norm("MAPHead_0/LayerNorm_0", "head.layernorm")
    add("MAPHead_0/MlpBlock_0/Dense_0", "head.mlp.fc1")
    add("MAPHead_0/MlpBlock_0/Dense_1", "head.mlp.fc2")
    add_norm("Transformer/encoder_norm", "post_layernorm")
    add("embedding", "embeddings.patch_embedding")
    arrays["pos_embedding"] = tensors["embeddings.position_embedding.weight"].reshape(5, 5, dim)
    arrays["MAPHead_0/probe"] = tensors["head.probe"]
    if stacked:
        first = [name for name in arrays if "encoderblock_0" in name]
        for name in first:
            parts = [arrays.pop(name), arrays.pop(name.replace("block_0", "block_1"))]
            arrays[name.replace("encoderblock_0", "encoderblock")] = torch.stack(parts)
    named = {f"params/img/{name}": array.numpy() for name, array in arrays.items()}
    return named | {"params/t": np.zeros(1), "params/txt/head/bias": np.zeros(3)}


@pytest.mark.parametrize("stacked", [False, True])
def test_arrays_of_big_vision_are_those_of_transformers(stacked, tmp_path):
    expected = read_source(write_source("siglip2_naflex", tmp_path))
    arrays = flax_arrays(dict(expected.tensors), 2, stacked)
    np.savez(tmp_path / "siglip2.npz", **arrays)
    converted = convert_source(read_source(tmp_path / "siglip2.npz"))
    assert converted.left_out == ("t", "txt/head/bias")
    tensors = convert_source(expected).tensors
    assert converted.tensors.keys() == tensors.keys()
    assert all(torch.equal(converted.tensors[name], t) for name, t in tensors.items())
    assert converted.model == convert_source(expected).model
    for name in [n for n in arrays if n.startswith("params/img/")]:
        np.savez(tmp_path / "less.npz", **{k: v for k, v in arrays.items() if k != name})
        with pytest.raises(ValueError):
            convert_source(read_source(tmp_path / "less.npz"))
