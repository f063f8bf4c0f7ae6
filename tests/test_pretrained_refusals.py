"""Sources that are incomplete, damaged, contradictory or unknown are rejected by name."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import patchpack as pp
from patchpack.checkpoint import CheckpointError
from patchpack.pretrained.errors import PretrainedError
from patchpack.pretrained.registry import convert_source
from patchpack.pretrained.source import read_source
from pretrained_fixtures import NAMES, write_source


def convert(folder: Path) -> object:
    return convert_source(read_source(folder))


def change_tensors(folder: Path, change) -> Path:
    """Rewrite the tensors of a source with a function of all of them."""
    (path,) = folder.glob("*.safetensors")
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    return folder


def transpose(tensors, name):
    tensors[name] = tensors[name].T.contiguous()


def block_weight(tensors, ending: str) -> str:
    """The name of a weight in a block that ends like this."""
    return next(name for name in sorted(tensors) if name.endswith(ending) and ".0." in name)


@pytest.mark.parametrize("name", NAMES)
def test_every_tensor_is_needed(name, tmp_path):
    """Of the backbone: dropping any of them, one after the other, is an error that names it."""
    folder = write_source(name, tmp_path)
    source = read_source(folder)
    left_out = set(convert_source(source).left_out)
    for key in set(source.tensors) - left_out:
        tensors = {k: v for k, v in source.tensors.items() if k != key}
        with pytest.raises(PretrainedError):
            convert_source(type(source)(**{**vars(source), "tensors": tensors}))


def test_the_names_of_missing_and_unexpected_tensors_are_listed(tmp_path):
    def rename(tensors):
        tensors["encoder.layer.0.norm9.weight"] = tensors.pop("encoder.layer.0.norm1.weight")

    folder = change_tensors(write_source("dinov2", tmp_path), rename)
    with pytest.raises(PretrainedError, match=r"missing \(encoder.layer.0.norm1.weight.*norm9"):
        pp.load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: transpose(t, "encoder.layer.1.mlp.fc1.weight"),
         r"another shape.*encoder.layer.1.mlp.fc1.weight: \[16, 32\] for \[32, 16\]"),
        (lambda t: t["layernorm.bias"].fill_(torch.nan), "unusable.*layernorm.bias: not finite"),
        (lambda t: t["encoder.layer.0.mlp.fc2.weight"].zero_(), "fc2.weight: all zeros"),
        (lambda t: t.update({"layernorm.bias": t["layernorm.bias"].long()}), "bias: int64"),
        (lambda t: t.update({"lora_A.weight": torch.ones(2)}), "unexpected.*lora_A.weight"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_rejected(tmp_path, change, message):
    with pytest.raises(PretrainedError, match=message):
        convert(change_tensors(write_source("dinov2", tmp_path), change))


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("dinov2", {"hidden_act": "swish2"}, "hidden_act 'swish2'; did you mean 'swish'"),
        ("dinov2", {"use_swiglu_ffn": True}, "use_swiglu_ffn True; supported: False"),
        ("dinov2", {"hidden_size": 24}, r"query.weight: \[16, 16\] for \[24, 24\]"),
        ("dinov2", {"num_hidden_layers": 3}, "missing.*encoder.layer.2"),
        ("dinov2", {"num_hidden_layers": 1}, "unexpected.*encoder.layer.1"),
        ("dinov2", {"num_attention_heads": 3}, "dim 16 is not a multiple of num_heads 3"),
        ("dinov2", {"image_size": 32}, "position_embeddings"),
        ("dinov2", {"patch_size": [4, 8]}, "patch_size"),
        ("dinov2", {"num_channels": 1}, "num_channels 1"),
        ("dinov2", {"position_embedding_type": "rope"}, "'position_embedding_type', which"),
        ("dinov2", {"hidden_size": "16"}, "hidden_size '16'"),
        ("dinov2", {"model_type": "dinov2_with_registers"}, "missing.*register_tokens"),
        ("dinov2", {"model_type": "dinov3_vit"}, "'dinov3_vit' of transformers is not supported.*"
         "did you mean"),
        ("dinov2", {"model_type": "vit"}, "config has 'apply_layernorm'"),
        ("siglip", {"vision_use_head": False}, "vision_use_head False"),
        ("siglip2_naflex", {"num_patches": 26}, "26 positions is not square"),
        ("vit", {"id2label": {"0": "a"}}, "names 1 classes, the head has 3"),
        ("timm_deit", {"architecture": "resnet50"}, "'resnet50' is not supported"),
        ("timm_deit", {"architecture": "vit_tiny_patch16_rope_224"}, "is not supported"),
        ("timm_deit", {"global_pool": "avgmax", "model_args": {}}, "'avgmax' is not supported"),
        ("timm_deit", {"model_args": {"qk_norm": True}}, "'qk_norm', which this family"),
        ("timm_deit", {"num_classes": 4}, r"head.weight: \[3, 16\] for \[4, 16\]"),
        ("timm_naflex_gap", {"architecture": "naflexvit_base_patch16_axialrope"}, "not supported"),
        ("timm_naflex_gap", {"architecture": "naflexvit_base_patch16_parfac_gap"}, "pos_embed_y"),
        ("clip", {"hidden_act": "relu"}, "hidden_act 'relu'"),
    ],
)  # fmt: skip
def test_a_config_that_is_unknown_or_contradicts_the_tensors_is_rejected(
    name, config, message, tmp_path
):
    with pytest.raises(ValueError, match=message):
        convert(write_source(name, tmp_path, **config))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resample": 1}, "resample 1 is not supported"),
        ({"image_mean": [0.5]}, "image_mean must be 3 numbers"),
        ({"image_std": [0.0, 1.0, 1.0]}, "image_std must be 3 numbers"),
        ({"size": {"height": 20, "width": 24}}, "is no square"),
        ({"do_resize": False}, "do_resize False"),
        ({"do_thumbnail": True}, "'do_thumbnail', which"),
    ],
)
def test_preprocessing_that_is_not_supported_is_rejected(change, message, tmp_path):
    folder = write_source("siglip", tmp_path)
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(PretrainedError, match=message):
        convert(folder)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "model.safetensors").unlink(), "half a download, or has no weights"),
        (lambda f: (f / "config.json").unlink(), "holds no config.json"),
        (lambda f: cut(f / "model.safetensors"), "model.safetensors is damaged or cut off"),
        (lambda f: (f / "model.safetensors").write_bytes(b""), "model.safetensors is damaged"),
        (lambda f: (f / "config.json").write_text('{"model_type": '), "config.json is not JSON"),
        (lambda f: (f / "config.json").write_text("[]"), "is no JSON object"),
        (lambda f: (f / "config.json").write_text("{}"), "it is of neither"),
        (lambda f: (f / "preprocessor_config.json").write_text("x"), "is not JSON"),
        (lambda f: (f / "model.safetensors").write_bytes(
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
         "Git LFS pointer"),
        (lambda f: (f / "model.safetensors.index.json").write_text(
            json.dumps({"weight_map": {"a": "model-2-of-2.safetensors"}})),
         "model-2-of-2.safetensors of 1 files are missing"),
        (lambda f: (f / "model.safetensors.index.json").write_text(
            json.dumps({"weight_map": {"a": "../a.safetensors"}})), "which is no file beside it"),
        (lambda f: (f / "model.safetensors.index.json").write_text(
            json.dumps({"weight_map": {"a": "model.safetensors"}})), "lists 'a', which no file"),
    ],
)  # fmt: skip
def test_half_a_download_is_rejected(damage, message, tmp_path):
    folder = write_source("ijepa", tmp_path)
    damage(folder)
    with pytest.raises(PretrainedError, match=message):
        convert(folder)


def test_nothing_is_unpickled_unless_allowed_and_then_only_tensors(tmp_path):
    folder = write_source("ijepa", tmp_path / "a")
    expected = convert_source(read_source(folder)).tensors
    path = folder / "model.safetensors"
    torch.save(load_file(path), folder / "pytorch_model.bin")
    path.unlink()
    with pytest.raises(PretrainedError, match=r"is a pickle, which is not read.*--allow-pickle"):
        pp.load(folder)
    allowed = convert_source(read_source(folder, allow_pickle=True)).tensors
    assert all(torch.equal(allowed[name], tensor) for name, tensor in expected.items())
    torch.save({"a": Path("x")}, folder / "pytorch_model.bin")
    with pytest.raises(PretrainedError, match="holds more than tensors"):
        read_source(folder, allow_pickle=True)


def test_a_file_of_another_family_is_rejected(tmp_path):
    folder = write_source("dinov2", tmp_path / "a")
    other = write_source("timm_dinov2", tmp_path / "b")
    (folder / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
    with pytest.raises(PretrainedError, match="of another family than its config names"):
        convert(folder)


def test_folders_that_are_no_source_are_rejected(tmp_path):
    with pytest.raises(CheckpointError, match="is not a run"):
        pp.load(tmp_path)
    with pytest.raises(CheckpointError, match=r"google/x does not exist.*named hf-hub:google/x$"):
        pp.load("google/x")
    np.savez(tmp_path / "x.npz", a=np.array([{}], dtype=object))
    with pytest.raises(PretrainedError, match=r"x\.npz is damaged"):
        read_source(tmp_path / "x.npz")
