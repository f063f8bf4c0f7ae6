"""Weights of other libraries through the commands and functions that a user types."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import patchpack as pp
from conftest import write_folder
from patchpack.cli import main
from patchpack.data.config import DataConfig
from patchpack.data.images import decode
from patchpack.data.index import build_index
from patchpack.data.pipeline import training_batches
from patchpack.inference.measure import EvalData, view_batches, view_of
from patchpack.pretrained.errors import PretrainedError
from patchpack.run import load_config, start
from patchpack.tasks.initialize import best_of_run
from pretrained_fixtures import relative, write_source
from runs import tiny
from test_cli import patchpack


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    sizes = {"train": 8, "val": 4, "test": 4}
    return write_folder(tmp_path_factory.mktemp("data") / "images", sizes)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return write_source("dinov2", tmp_path_factory.mktemp("sources") / "dinov2")


@pytest.fixture(scope="module")
def folder(source, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("converted") / "dinov2"
    with pytest.raises(SystemExit) as stop:
        main(["convert", str(source), "-o", str(out)])
    assert stop.value.code == 0
    return out


def files(root: Path) -> list[Path]:
    return sorted((root / "test").rglob("*.png"))


def test_convert_prints_family_parameters_and_check(source, tmp_path, capsys):
    status, out, _ = patchpack(capsys, "convert", source, "-o", tmp_path / "a")
    assert status == 0 and "DINOv2: 5,920 parameters" in out and "check: " in out
    assert "left out: 1 tensors (embeddings.mask_token)" in out
    status, out, _ = patchpack(capsys, "convert", source, "-o", tmp_path / "b", "--json")
    record = json.loads(out)
    assert record["family"] == "DINOv2" and record["check"]["tokens"] < 1e-5
    saved = json.loads((tmp_path / "b" / "conversion.json").read_text())
    assert len(saved["files"]["model.safetensors"]) == 64 and saved["left_out"]


def test_convert_overwrites_nothing_and_leaves_nothing_behind(source, tmp_path, capsys):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "notes.txt").write_text("x")
    status, _, err = patchpack(capsys, "convert", source, "-o", tmp_path / "a")
    assert status == 2 and "exists, and is not overwritten" in err
    broken = write_source("dinov2", tmp_path / "broken", hidden_act="x")
    status, _, err = patchpack(capsys, "convert", broken, "-o", tmp_path / "b")
    assert status == 2 and err.count("\n") == 1 and "hidden_act 'x'" in err
    assert not (tmp_path / "b").exists()


def test_a_converted_folder_and_its_source_give_the_same_vectors(
    root, source, folder, tmp_path, capsys
):
    images = files(root)
    expected = pp.load(source).embed(images)
    assert np.array_equal(pp.load(folder).embed(images), expected)
    output = tmp_path / "v.npz"
    for name in (folder, source):
        output.unlink(missing_ok=True)
        assert patchpack(capsys, "embed", name, *images, "-o", output)[0] == 0
        assert np.array_equal(np.load(output)["vectors"], expected)


def test_a_model_without_classes_predicts_and_evaluates_nothing(root, folder, capsys):
    status, _, err = patchpack(capsys, "predict", folder, *files(root))
    assert status == 2 and "has no classes" in err and "--init" in err
    status, _, err = patchpack(capsys, "eval", folder, "--data", root)
    assert status == 2 and "has no classes" in err


def test_suites_of_features_take_a_converted_folder(root, folder, tmp_path, capsys):
    words = ["eval", folder, "--data", root, "--suite", "fewshot", "--out", tmp_path / "report"]
    status, _, err = patchpack(capsys, *words)
    assert status == 0, err
    status, _, err = patchpack(capsys, "eval", folder, "--data", root, "--suite", "cost")
    assert status == 2 and "is a model of feature vectors" in err
    status, _, err = patchpack(capsys, "eval", folder)
    assert status == 2 and "does not name its data" in err


def test_eval_and_train_name_the_folder_that_they_need(root, source, folder, tmp_path, capsys):
    for name in (source, "hf-hub:someone/model"):
        status, _, err = patchpack(capsys, "eval", name, "--data", root)
        assert status == 2 and f"patchpack convert {name} -o FOLDER" in err
    status, _, err = patchpack(capsys, "train", root, "--out", folder, "--train.steps", 1)
    assert status == 2 and "holds trained weights" in err


def test_a_file_of_weights_with_its_config_beside_it_is_a_source(root, source):
    images = files(root)[:2]
    vectors = pp.load(source / "model.safetensors").embed(images)
    assert np.array_equal(vectors, pp.load(source).embed(images))


def test_a_classifier_of_the_source_predicts_its_classes(root, tmp_path, capsys):
    source = write_source("vit", tmp_path / "vit")
    status, out, _ = patchpack(capsys, "predict", source, *files(root)[:2], "--json")
    assert status == 0
    labels = {entry["label"] for entry in json.loads(out.splitlines()[0])["labels"]}
    assert labels == {"cat", "dog", "bird"}


def test_training_starts_from_the_weights_and_takes_their_architecture(
    root, source, folder, tmp_path, capsys
):
    before = best_of_run(folder).tensors
    for number, init in enumerate((source, folder)):
        out = tmp_path / f"run{number}"
        words = [
            "train",
            root,
            "--init",
            init,
            "--out",
            out,
            "--train.steps",
            1,
            "--optim.lr",
            1e-12,
            "--train.ema",
            0,
            "--train.precision",
            "float32",
            "--optim.warmup",
            0,
        ]
        status, _, err = patchpack(capsys, *words)
        assert status == 0, err
        config = load_config(out)
        assert config.model.dim == 16 and config.model.pooling == "first"
        assert str(config.data.resolution) == "FixedArea(side=16, upscale=True)"
        after = best_of_run(out).tensors
        for name, tensor in before.items():
            torch.testing.assert_close(after[name], tensor, atol=1e-6, rtol=1e-5)
        assert not after["head.weight"].abs().max() > 1e-6


def test_a_model_that_is_given_must_fit_the_weights(root, folder, tmp_path):
    config = replace(tiny(root, tmp_path / "run", steps=1), init=folder)
    with pytest.raises(ValueError, match=r"another architecture .*give .*--model.bias"):
        start(config, live=False)


def test_create_model_takes_the_weights_of_a_named_size(tmp_path, monkeypatch):
    from patchpack.model import presets

    source = write_source("dinov2", tmp_path / "a")
    tiny = replace(
        pp.model_config("navit_ti16"), dim=16, depth=2, num_heads=2, mlp_dim=32, patch_size=4
    )
    monkeypatch.setitem(presets.PRESETS, "navit_tiny4", tiny)
    model = pp.create_model("navit_tiny4", pretrained=source, num_classes=10, drop_path=0.1)
    assert model.backbone.config.drop_path == 0.1 and model.head.out_features == 10
    loaded, expected = model.backbone.state_dict(), pp.load(source).model.backbone.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())
    with pytest.raises(ValueError, match="holds no navit_s14: dim 16, not 384"):
        pp.create_model("navit_s14", pretrained=source)
    with pytest.raises(ValueError, match=r"another architecture .*qk_norm"):
        pp.create_model("navit_tiny4", pretrained=source, qk_norm=True)
    classifier = write_source("vit", tmp_path / "b")
    same = pp.create_model("navit_tiny4", pretrained=classifier, num_classes=3)
    assert same.head.weight.abs().max() > 0.1


def test_every_path_resizes_with_the_filter_of_the_model(tmp_path):
    """Training, evaluation and files of a user give the patches of a bilinear resize."""
    root = write_folder(tmp_path / "images", {"train": 2, "val": 1, "test": 1})
    predictor = pp.load(write_source("siglip2_naflex", tmp_path / "source"))
    spec, index = predictor.spec, build_index(root).split("test")
    paths = {index.keys[row]: index.path(row) for row in range(len(index))}

    def check(batch, paths) -> None:
        parts = batch.patches.split(list(batch.lengths))
        for key, grid, patches in zip(batch.keys, batch.grids.tolist(), parts, strict=True):
            pixels = torch.from_numpy(decode(paths[key], key=key)).permute(2, 0, 1)[None]
            size = [4 * side for side in grid]
            resized = F.interpolate(pixels, size, mode="bilinear", antialias=True)[0]
            cells = resized.unfold(1, 4, 4).unfold(2, 4, 4).permute(1, 2, 3, 4, 0)
            assert torch.equal(patches, cells.reshape(len(patches), -1)), key

    for batch in predictor.packs(list(paths.values()), None):
        check(batch, {str(path): path for path in paths.values()})
    unreadable = EvalData(index, 0.0).unreadable()
    for batch in view_batches(predictor, index, view_of(predictor, spec.eval_tokens), unreadable):
        check(batch, paths)
    data = DataConfig(resolution=spec.resolution, trim_to_fill=False)
    train = build_index(root).split("train")
    paths = {train.keys[row]: train.path(row) for row in range(len(train))}
    batches = training_batches(train, data, spec.input, seed=0)
    check(next(batches).batch, paths)


def test_the_filter_of_the_source_matters(tmp_path):
    """So that the test above can fail: another filter moves the vectors."""
    predictor = pp.load(write_source("siglip2_naflex", tmp_path / "source"))
    noise = np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8)
    image = tmp_path / "a.png"
    Image.fromarray(noise).save(image)
    expected = torch.from_numpy(predictor.embed([image]))
    model = replace(predictor.spec.model, resize_filter="bicubic")
    predictor.spec = replace(predictor.spec, model=model)
    assert relative(torch.from_numpy(predictor.embed([image])), expected) > 1e-3


@pytest.fixture
def hub(monkeypatch, source):
    """A module huggingface_hub whose cache holds one repository."""
    module, calls = ModuleType("huggingface_hub"), []

    def snapshot_download(repository, revision=None, allow_patterns=None):
        calls.append((repository, revision, allow_patterns))
        if repository != "someone/dinov2":
            raise FileNotFoundError(f"no {repository} in the cache\nmore lines")
        return str(source)

    module.snapshot_download = snapshot_download
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return calls


def test_a_repository_of_the_hub_is_a_source(hub, root, source, tmp_path, capsys):
    images = files(root)
    vectors = pp.load("hf-hub:someone/dinov2@abc").embed(images)
    assert np.array_equal(vectors, pp.load(source).embed(images))
    assert hub == [("someone/dinov2", "abc", ["*.json", "*.safetensors", "merges.txt"])]
    words = ["embed", "hf-hub:someone/dinov2", *images, "-o", tmp_path / "v.npz"]
    assert patchpack(capsys, *words)[0] == 0
    words = [
        "train",
        root,
        "--init",
        "hf-hub:someone/dinov2",
        "--out",
        tmp_path / "run",
        "--train.steps",
        1,
    ]
    assert patchpack(capsys, *words)[0] == 0
    assert load_config(tmp_path / "run").init == Path("hf-hub:someone/dinov2")
    with pytest.raises(
        PretrainedError, match=r"hf-hub:a/b cannot be fetched: no a/b in the cache$"
    ):
        pp.load("hf-hub:a/b")


def test_without_the_extra_a_repository_is_rejected_by_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(PretrainedError, match=r"pip install 'patchpack\[hub\]'"):
        pp.load("hf-hub:a/b")


def test_an_image_text_model_predicts_searches_and_embeds_texts(root, tmp_path, capsys):
    source, out = write_source("clip_with_text", tmp_path / "clip"), tmp_path / "folder"
    assert patchpack(capsys, "convert", source, "-o", out)[0] == 0
    images = files(root)
    words = ["predict", out, *images[:2], "--labels", "cat", "mat", "--json"]
    status, printed, err = patchpack(capsys, *words)
    assert status == 0, err
    assert {e["label"] for e in json.loads(printed.splitlines()[0])["labels"]} == {"cat", "mat"}
    words = ["search", out, root / "test", "a red heart", "--json"]
    status, printed, err = patchpack(capsys, *words)
    assert status == 0 and len(json.loads(printed)["images"]) == 8, err
    (tmp_path / "texts.txt").write_text("a cat\na mat\n")
    words = ["embed", out, *images, "--texts", tmp_path / "texts.txt", "-o", tmp_path / "v.npz"]
    assert patchpack(capsys, *words)[0] == 0
    arrays = np.load(tmp_path / "v.npz")
    norms = np.linalg.norm(arrays["text_vectors"], axis=1)
    assert arrays["vectors"].shape == (12, 8) and norms == pytest.approx([1, 1], abs=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace('"</s>":39', '"</s>":44'), "has 45 tokens, the text tower 40"),
        (lambda text: json.dumps(json.loads(text) | {"post_processor": None}),
         "must end with token 39"),
        (lambda text: "{}", "tokenizer.json"),
    ],
)  # fmt: skip
def test_a_tokenizer_of_another_model_is_rejected(change, message, tmp_path):
    source = write_source("clip_with_text", tmp_path / "clip")
    path = source / "tokenizer.json"
    text = json.dumps(json.loads(path.read_text()), separators=(",", ":"))
    path.write_text(change(text))
    with pytest.raises(PretrainedError, match=message):
        pp.load(source)
