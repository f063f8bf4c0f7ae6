"""Detectors that tell classes by their names, as two towers read them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import patchpack as pp
from pairs import tiny_pairs, write_pairs
from patchpack.checkpoint import CheckpointError
from patchpack.data.records import BadDataset
from patchpack.run import start
from patchpack.tasks.detection.model import DetectionConfig
from runs import assert_resumes_exactly
from test_cli import patchpack
from test_detecting import tiny_detector, write_coco


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data") / "coco"
    return write_coco(root, {"train": 40, "val": 6, "test": 6})


@pytest.fixture(scope="module")
def towers(tmp_path_factory) -> Path:
    root = write_pairs(tmp_path_factory.mktemp("pairs"), {"train": 16, "val": 8})
    out = tmp_path_factory.mktemp("runs") / "towers"
    start(tiny_pairs(root, out, steps=4), live=False)
    return out


def config_of(source: Path, towers: Path, out: Path, steps: int = 6):
    model = pp.load(towers).spec.model
    config = replace(tiny_detector(source, out, steps), model=model, init=towers)
    return replace(config, task=DetectionConfig(open_vocabulary=True))


@pytest.fixture(scope="module")
def run(source, towers, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    start(config_of(source, towers, out, steps=60), live=False)
    return out


def test_classes_are_the_vectors_of_their_names_and_the_text_side_stays(run, towers):
    reader, model = pp.load(towers), pp.load(run)
    scores = model.model.head.scores
    expected = reader.embed_texts(["box", "disc"])
    np.testing.assert_allclose(scores.names.numpy(), expected, atol=1e-5)
    before = reader.model.state_dict()
    for part in ("text", "text_projection"):
        for name, tensor in getattr(scores, part).state_dict().items():
            assert torch.equal(tensor, before[f"{part}.{name}"])
    assert not torch.equal(scores.projection.weight, before["image_projection.weight"])


def test_scores_are_cosines_at_a_learned_scale(run):
    module = pp.load(run).model
    x = torch.randn(5, module.backbone.config.dim, generator=torch.Generator().manual_seed(0))
    scores = module.head.scores
    assert scores.log_scale.exp() != 10.0
    cosines = F.normalize(scores.projection(x), dim=-1) @ scores.names.T
    torch.testing.assert_close(scores(x), cosines * scores.log_scale.exp() + scores.bias)


def test_weights_that_lack_a_reader_are_refused(run):
    module = pp.load(run).model
    tensors = {n: t for n, t in module.state_dict().items() if "text_projection" not in n}
    with pytest.raises(KeyError, match="text_projection"):
        module.head.scores.load_text_tower(tensors, None)


def test_a_run_of_bfloat16_is_asked_for_other_names(source, towers, tmp_path):
    config = config_of(source, towers, tmp_path / "run", steps=2)
    start(replace(config, train=replace(config.train, precision="bfloat16")), live=False)
    image = next((source.parent / "images").glob("test*.png"))
    (found,) = pp.load(tmp_path / "run").predict([image], ["stripes"], score_threshold=0.0)
    assert {box.label for box in found} == {"stripes"}


def test_it_is_asked_for_other_names(capsys, run, source):
    images = sorted((source.parent / "images").glob("test*.png"))
    model = pp.load(run)
    own = model.predict(images, score_threshold=0.0)
    same = model.predict(images, ["disc", "box"], score_threshold=0.0)
    for mine, theirs in zip(own, same, strict=True):
        assert [(b.label, round(b.score, 4)) for b in mine][:5] == [
            (b.label, round(b.score, 4)) for b in theirs
        ][:5]
    words = (
        "predict",
        run,
        images[0],
        "--labels",
        "red stripes",
        "--score-threshold",
        "0",
        "--json",
    )
    status, out, _ = patchpack(capsys, *words)
    assert status == 0 and {b["label"] for b in json.loads(out)["boxes"]} == {"red stripes"}
    words = ("predict", run, images[0], "--labels", "bolt", "bolt")
    assert "class names must be unique: 'bolt' repeats" in patchpack(capsys, *words)[2]
    with pytest.raises(ValueError, match="is empty"):
        model.predict(images, ["box", " "])


def test_resuming_needs_nothing_but_the_run(source, towers, tmp_path):
    config = config_of(source, towers, tmp_path, steps=4)
    assert_resumes_exactly(config, tmp_path, **{str(towers): "/nowhere"})


def test_a_detector_hands_its_reader_on(run, source, tmp_path):
    config = replace(config_of(source, run, tmp_path / "next", steps=2), init=run)
    text = source.read_text().replace('"disc"', '"circle"')
    (tmp_path / "boxes.json").write_text(text)
    (tmp_path / "images").symlink_to(source.parent / "images")
    config = replace(config, data=replace(config.data, root=tmp_path / "boxes.json"))
    start(config, live=False)
    assert pp.load(tmp_path / "next").classes == ("box", "circle")


def test_what_reads_no_names_is_refused(source, towers, run, tmp_path):
    config = config_of(source, towers, tmp_path / "run")
    with pytest.raises(BadDataset, match="needs --init"):
        start(replace(config, init=None), live=False)
    plain = replace(config, out=tmp_path / "plain", init=None, task=DetectionConfig())
    start(replace(plain, train=replace(plain.train, steps=1)), live=False)
    with pytest.raises(BadDataset, match="has no text tower"):
        start(replace(config, init=tmp_path / "plain"), live=False)
    with pytest.raises(ValueError, match="has fixed classes, and takes no --labels: box, disc"):
        pp.load(tmp_path / "plain").predict([np.zeros((9, 9, 3), np.uint8)], ["dog"])
    with pytest.raises(CheckpointError, match=r"no valid checkpoint"):
        start(replace(config, init=tmp_path / "nothing"), live=False)
