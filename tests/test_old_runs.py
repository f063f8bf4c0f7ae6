"""Runs of before the renames load, serve and resume through the one table of old names."""

import json
import shutil
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import patchpack as pp
from conftest import write_folder
from films import write_films
from pairs import write_pairs
from patchpack.cli import main
from patchpack.config import load_recipe
from patchpack.inference.operating_point import read_operating_point
from patchpack.old_names import PYTHON, renamed_options
from patchpack.run import load_config, resume
from patchpack.serialization import ConfigError
from patchpack.tasks.registry import task_of
from scenes import write_scenes
from test_cli import patchpack
from test_detecting import write_coco

OLD_RUNS = Path(__file__).parent / "old_runs"
EXPECTED = json.loads((OLD_RUNS / "expected.json").read_text())
TASKS = {"classifier": "classification", "clips": "classification", "detector": "detection",
         "segmenter": "segmentation", "towers": "contrastive"}  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """The runs beside the data that they were trained on."""
    folder = tmp_path_factory.mktemp("old")
    write_folder(folder / "DATA/images", {"train": 16, "val": 4, "test": 4})
    write_pairs(folder / "DATA/pairs", {"train": 16, "val": 8, "test": 8})
    write_scenes(folder / "DATA/scenes", {"train": 8, "val": 4, "test": 4})
    write_coco(folder / "DATA/coco", {"train": 8, "val": 4, "test": 4})
    write_films(folder / "DATA/films", {"train": 8, "val": 4, "test": 4})
    shutil.copytree(OLD_RUNS, folder / "RUNS")
    for config in folder.glob("RUNS/*/config.json"):
        text = config.read_text().replace('"DATA/', f'"{folder}/DATA/')
        config.write_text(text.replace('"RUNS/', f'"{folder}/RUNS/'))
    return folder / "RUNS"


def example(name: str) -> np.ndarray:
    shape = (8, 20, 24, 3) if name == "clips" else (24, 18, 3)
    return (np.arange(np.prod(shape)) % 251).astype(np.uint8).reshape(shape)


@pytest.mark.parametrize("name", TASKS)
def test_an_old_run_loads_and_computes_the_same(runs, name):
    predictor = pp.load(runs / name)
    assert task_of(predictor.spec.task).name == TASKS[name]
    assert task_of(load_config(runs / name).task).name == TASKS[name]
    (vector,) = predictor.embed([example(name)])
    np.testing.assert_allclose(vector, EXPECTED[name]["embedding"], atol=1e-5)


@pytest.mark.parametrize("name", TASKS)
def test_an_old_run_resumes_with_the_same_losses(runs, name, tmp_path):
    run = shutil.copytree(runs / name, tmp_path / name)
    config = run / "config.json"
    config.write_text(config.read_text().replace('"steps": 2', '"steps": 4'))
    assert resume(run, live=False).step == 4
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    np.testing.assert_allclose(losses, EXPECTED[name]["losses"], rtol=1e-4)


def test_an_old_operating_point_is_used(runs):
    point = read_operating_point(runs / "classifier")
    assert point is not None and point.max_tokens == 16 and point.second_pass_tokens is None
    assert pp.load(runs / "classifier").operating_point == point


def test_an_old_detector_finds_other_classes(runs):
    detector = pp.load(runs / "detector")
    boxes = detector.predict([example("detector")], ["bolt"], score_threshold=0.0)[0]
    assert {box.label for box in boxes} == {"bolt"}


def test_old_options_fail_with_the_new_name(capsys):
    assert renamed_options(["--task.text.heads", "--data.augment.crop-aspect=2", "task:x"]) == [
        ("--task.text.heads", "--task.text.num-heads"),
        ("--data.augment.crop-aspect", "--data.augment.max-crop-aspect"),
    ]
    assert not renamed_options(["--model.bias", "--model.dim", "alpha", "--task.iou"])
    words = ("train", "images", "data.frames:at-rate", "--optim.clip", "1")
    with pytest.raises(SystemExit):
        main(words)
    err = capsys.readouterr().err
    assert "--optim.clip is now --optim.grad-clip-norm" in err
    assert "data.frames:at-rate is now data.frames:fixed-fps" in err
    status, _, err = patchpack(capsys, "predict", "run", "a.jpg", "--windowed")
    assert status == 2 and "--windowed is now --sliding-window" in err


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("from patchpack.recipe import load_recipe", "is now 'patchpack.config'"),
        ("from patchpack.train.config import RunConfig", "is now 'patchpack.config.RunConfig'"),
        ("from patchpack.train.optim import OptimConfig\nOptimConfig(clip=1)", "'grad_clip_norm'"),
    ],
)
def test_old_recipes_fail_with_the_new_name(tmp_path, code, message):
    recipe = tmp_path / "recipe.py"
    recipe.write_text(code)
    with pytest.raises(ConfigError, match=message):
        load_recipe(recipe)


def test_old_public_names_fail_with_the_new_name():
    with pytest.raises(AttributeError, match="it is now ImageTextPredictor"):
        pp.Matcher  # noqa: B018


@pytest.mark.parametrize("name", sorted(set(PYTHON.values())))
def test_new_names_in_messages_exist(name):
    module, _, attribute = name.rpartition(".")
    if attribute[0].isupper():
        assert getattr(import_module(module or "patchpack"), attribute)
    else:
        assert import_module(name)
