"""How files are read is part of a model: train keeps it, and every verb reads by it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import patchpack as pp
from image_files import encode
from patchpack.cli import main
from patchpack.data.reading import ReadingConfig
from patchpack.data.transforms.augment import Augment
from patchpack.evaluation import data_of, evaluate
from patchpack.inference.model_spec import ModelSpec
from patchpack.run import start
from patchpack.serialization import from_json, to_json
from runs import tiny

CAMERA = (0.0, 4095.0)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Classes of 12-bit images in 16-bit files, a few of them wider than the others."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for split, count in {"train": 6, "val": 2, "test": 2}.items():
        for label, level in {"dark": 500, "light": 3500}.items():
            (folder / split / label).mkdir(parents=True)
            for number in range(count):
                values = rng.integers(level - 400, level + 400, (12, 20)).astype(np.uint16)
                (folder / split / label / f"{number}.png").write_bytes(encode(values, "PNG"))
    return folder


@pytest.fixture(scope="module")
def run(root, tmp_path_factory) -> Path:
    config = tiny(root, tmp_path_factory.mktemp("runs") / "run", steps=4)
    reading = ReadingConfig(intensity_range=CAMERA, max_pixels=10_000)
    data = replace(config.data, augment=Augment(), reading=reading)
    start(replace(config, data=data), live=False)
    return config.out


def command(capsys, *words: object) -> tuple[int, str]:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return stop.value.code, capsys.readouterr().err


def test_a_model_reads_as_it_was_trained(root, run):
    model = pp.load(run)
    assert model.spec.reading == ReadingConfig(intensity_range=CAMERA, max_pixels=10_000)
    path = root / "test" / "light" / "0.png"
    values = np.asarray(Image.open(path)).astype(float)
    scaled = np.floor(values * (255 / 4095) + 0.5).astype(np.uint8)
    vectors = model.embed([path, scaled, Image.open(path)])
    np.testing.assert_array_equal(vectors[0], vectors[1])
    np.testing.assert_array_equal(vectors[0], vectors[2])
    ((cost, _),) = evaluate(model, data_of(run, split="test"), budgets=(64,))
    assert not cost.unreadable


def test_limits_of_a_run_are_replaced_by_options(root, run, capsys, tmp_path):
    path = root / "test" / "dark" / "0.png"
    assert command(capsys, "predict", run, path) == (0, "")  # no notice: the range is set
    for words in (
        ("predict", run, path), ("embed", run, path, "-o", tmp_path / "v.npz"),
        ("eval", run, "--out", tmp_path / "e"), ("inspect", root),
    ):  # fmt: skip
        status, shown = command(capsys, *words, "--max-pixels", "99")
        assert status in (1, 2) and "the 99 allowed by max_pixels" in shown, words
    large = tmp_path / "large.png"
    large.write_bytes(encode(np.zeros((101, 100), np.uint8), "PNG"))
    status, shown = command(capsys, "predict", run, large)
    assert status == 1 and "the 10,000 allowed by max_pixels" in shown
    assert command(capsys, "predict", run, large, "--max-pixels", "10100") == (0, "")


def test_a_spec_without_reading_has_the_defaults(run):
    record = to_json(pp.load(run).spec)
    del record["reading"]
    assert from_json(ModelSpec, record).reading == ReadingConfig()


def test_training_prints_the_notice(root, tmp_path, capsys):
    config = tiny(root, tmp_path / "run", steps=1)
    start(config, live=False)
    assert "8 of 8 sampled 16-bit images hold no value above" in capsys.readouterr().err
