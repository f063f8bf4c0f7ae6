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
        packed, logits = module.encode(batch), module(batch)
    parts = packed.tokens.split(list(batch.lengths))
    for number, (tokens, output) in enumerate(zip(parts, expected, strict=True)):
        values = {"tokens": weighted_sum(tokens), "pooled": packed.pooled[number]}
        if predictor.classes:
            values["logits"] = logits[number]
        assert values.keys() == output.keys()
        for key, value in values.items():
            deviation = relative(value, torch.tensor(output[key]))
            assert deviation < TOLERANCE, (key, GRIDS[number], deviation)


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
