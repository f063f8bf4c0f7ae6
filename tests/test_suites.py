"""Suites from the command: reports that agree with eval, kept outputs, choices that are used."""

import json
import shutil
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

import patchpack as pp
from conftest import write_folder
from pairs import tiny_pairs, write_pairs
from patchpack.evaluation import output_cache as cache
from patchpack.run import start
from patchpack.tasks.classification.model import ClassificationConfig
from runs import tiny
from scenes import tiny_segmenter, write_scenes
from test_cli import patchpack
from test_detecting import tiny_detector, write_coco

SPLITS = {"train": 8, "val": 2, "test": 2}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    sizes = {"train": 16, "val": 8, "test": 8}
    return write_folder(tmp_path_factory.mktemp("data") / "images", sizes)


@pytest.fixture(scope="module")
def run(root, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    start(tiny(root, out, steps=40, eval_every=40, ema=0.0), live=False)
    return out


def test_all_suites_make_one_report(capsys, run, tmp_path):
    status, out, err = patchpack(
        capsys, "eval", run, "--suite", "cost,calibration,robustness,fewshot", "--budgets", 9, 36,
        "--severities", 2, "--robustness-tokens", 9, "--out", tmp_path, "--json",
    )  # fmt: skip
    found = json.loads(out)
    assert status == 0 and "24 images at 9 tokens" in err
    plain = json.loads(patchpack(capsys, "eval", run, "--budgets", 9, 36, "--json")[1])["budgets"]
    for budget, expected in zip(("9", "36"), plain, strict=True):
        measured = found["calibration"]["budgets"][budget]
        assert measured["top1"] == pytest.approx(expected["top1"])
        point = found["cost"]["points"][f"{budget} tokens"]
        assert point["top1"] == pytest.approx(expected["top1"])
        assert point["gflops"] == pytest.approx(expected["gflops_per_image"])
    assert len(found["robustness"]["corrupted"]) == 15 and found["robustness"]["tokens"] == 9
    assert found["fewshot"]["36"]["10"]["classes"] == 3
    html = (tmp_path / "report-test.html").read_text()
    assert html.count("<section>") == 4 and "http" not in html  # works offline
    markdown = (tmp_path / "report-test.md").read_text()
    for line in markdown.splitlines():
        if line.startswith("!["):
            assert (tmp_path / line.partition("](")[2].rstrip(")")).exists()
    assert json.loads((tmp_path / "report-test.json").read_text())["cost"] == found["cost"]


@pytest.mark.parametrize("kind", ["segmentation", "detection"])
def test_feature_suites_take_any_task_and_others_are_refused_by_name(capsys, root, tmp_path, kind):
    """A linear probe needs vectors, and labels in the data; cost needs scores of labels."""
    if kind == "segmentation":
        config = tiny_segmenter(write_scenes(tmp_path / "data", SPLITS), tmp_path / "run", steps=1)
    else:
        config = tiny_detector(write_coco(tmp_path / "data", SPLITS), tmp_path / "run", steps=1)
    start(config, live=False)
    words = ("eval", config.out, "--data", root, "--budgets", 36, "--out", tmp_path, "--json")
    status, out, _ = patchpack(capsys, *words, "--suite", "fewshot")
    assert status == 0 and json.loads(out)["fewshot"]["36"]["5"]["classes"] == 3
    status, _, err = patchpack(capsys, *words, "--suite", "cost")
    assert status == 2
    assert "suite cost needs scores of labels, which classification, contrastive give" in err
    copy = shutil.copytree(config.out, tmp_path / "copy")
    status, _, err = patchpack(capsys, "compare", config.out, copy, "--out", tmp_path / "compare")
    assert status == 2 and "suite calibration needs scores of labels" in err


def test_outputs_are_cached_and_not_computed_again(capsys, run, tmp_path, monkeypatch):
    words = ("eval", run, "--suite", "calibration", "--budgets", 4, "--json")
    first = patchpack(capsys, *words)
    kept = sorted((run / cache.FOLDER).iterdir())
    second = patchpack(capsys, *words)
    assert first[1] == second[1] and "images at 4 tokens" in first[2] and second[2] == ""
    for path in kept:
        path.write_bytes(path.read_bytes()[:50])  # damaged: asked again
    assert patchpack(capsys, *words)[1] == first[1]


def test_an_image_that_cannot_be_read_is_named_in_the_report(capsys, run, root, tmp_path):
    images = tmp_path / "images"
    shutil.copytree(root, images)
    damaged = sorted((images / "test").rglob("*.png"))[3]
    damaged.write_bytes(damaged.read_bytes()[:90])
    words = (
        "eval", run, "--data", images, "--suite", "calibration", "--budgets", 4,
        "--out", tmp_path, "--max-bad-fraction", "0.1",
    )  # fmt: skip
    for _ in range(2):  # the second time from what was kept
        for report in tmp_path.glob("report-test*"):
            shutil.rmtree(report) if report.is_dir() else report.unlink()
        assert patchpack(capsys, *words)[0] == 1
        lead = (tmp_path / "report-test.md").read_text().splitlines()[2]
        assert damaged.name in lead and "cannot be read (1)" in lead


def test_sigmoids_are_judged_by_the_probabilities_that_predict_says(capsys, root, tmp_path):
    config = tiny(root, tmp_path / "run", steps=40, eval_every=40, ema=0.0)
    start(replace(config, task=ClassificationConfig(loss="sigmoid")), live=False)
    words = ("eval", tmp_path / "run", "--suite", "calibration", "--budgets", 36, "--json")
    found = json.loads(patchpack(capsys, *words)[1])["calibration"]["budgets"]["36"]
    images = sorted((root / "test").rglob("*.png"))
    said = pp.load(tmp_path / "run").predict(images, max_tokens=36)
    mean = np.mean([p.probability for p in said])
    assert found["confidence"] == pytest.approx(mean, abs=1e-5) and mean < 0.9


def test_a_choice_is_kept_and_used(capsys, run, root, tmp_path):
    images = sorted((root / "test").rglob("*.png"))
    before = pp.load(run).predict(images)
    status, out, _ = patchpack(
        capsys, "eval", run, "--min-accuracy", "0.3", "--budgets", 4, 9, 36, "--out", tmp_path
    )
    operating_point = json.loads((run / "operating_point.json").read_text())
    assert status == 0 and "chosen on val" in out and operating_point["max_tokens"] in (4, 9, 36)
    (weights,) = run.glob("checkpoints/best-*/model.safetensors")
    assert operating_point["weights"] == sha256(weights.read_bytes()).hexdigest()
    chosen = pp.load(run)
    assert [p.label for p in chosen.predict(images)] == [
        p.label for p in cascade_by_hand(chosen, images, operating_point)
    ]
    assert [p.label for p in chosen.predict(images, max_tokens=64)] == [p.label for p in before]
    status, _, err = patchpack(capsys, "eval", run, "--max-gflops", "1e-9", "--budgets", 4)
    assert status == 2 and "no token budget is within the limits" in err
    for other, refused in (("0" * 64, True), (None, False)):  # those of another run, of any run
        text = json.dumps({**operating_point, "weights": other})
        (run / "operating_point.json").write_text(text)
        status, _, err = patchpack(capsys, "predict", run, images[0])
        assert (status == 2 and "chosen for other weights" in err) == refused
    (run / "operating_point.json").write_text("{")
    assert "operating_point.json is damaged" in patchpack(capsys, "predict", run, images[0])[2]
    (run / "operating_point.json").unlink()


def cascade_by_hand(model, images, operating_point):
    first = model.predict(images, max_tokens=operating_point["max_tokens"])
    if operating_point["second_pass_tokens"] is None:
        return first
    second = model.predict(images, max_tokens=operating_point["second_pass_tokens"])
    return [
        b if a.probability < operating_point["threshold"] else a
        for a, b in zip(first, second, strict=True)
    ]


def test_a_cascade_shows_again_what_it_is_not_sure_of(run, root):
    images = sorted((root / "test").rglob("*.png"))
    model = pp.load(run)
    sure = [p.probability for p in model.predict(images, max_tokens=4)]
    model.operating_point = replace(
        model.operating_point, max_tokens=4, second_pass_tokens=36, threshold=float(np.median(sure))
    )
    found = model.predict(images)
    few, many = (model.predict(images, max_tokens=n) for n in (4, 36))
    for i, p in enumerate(found):
        expected = many[i] if sure[i] < model.operating_point.threshold else few[i]
        assert p.label == expected.label
        assert p.probability == pytest.approx(expected.probability, abs=1e-5)


def test_a_fitted_temperature_changes_probabilities_and_no_label(capsys, run, root, tmp_path):
    images = sorted((root / "test").rglob("*.png"))
    before = pp.load(run).predict(images)
    status, out, _ = patchpack(capsys, "eval", run, "--fit-temperature", "--budgets", 36,
                               "--out", tmp_path, "--json")  # fmt: skip
    temperature = json.loads(out)["calibration"]["temperature"]
    after = pp.load(run).predict(images)
    assert status == 0 and temperature != 1
    assert [p.labels for p in before] == [p.labels for p in after]
    assert any(
        abs(a.probability - b.probability) > 1e-3 for a, b in zip(before, after, strict=True)
    )
    (run / "operating_point.json").unlink()


def test_compare(capsys, run, root, tmp_path):
    other = tmp_path / "other"
    start(tiny(root, other, steps=3), live=False)
    options = ["--budgets", 9, 36, "--severities", 1, "--json"]
    suites = ("--suite", "calibration,robustness", "--out", tmp_path / "report")
    found = json.loads(patchpack(capsys, "compare", run, other, *suites, *options)[1])
    corrupted = []
    for each in (run, other):
        _, out, _ = patchpack(capsys, "eval", each, "--suite", "robustness", *options)
        corrupted.append(json.loads(out)["robustness"]["corrupted"])
    first, second = corrupted
    ratios = [(1 - second[k]["1"]) / (1 - v["1"]) for k, v in first.items() if v["1"] < 1]
    assert found["robustness"]["mce"]["run"] == 1
    assert found["robustness"]["mce"]["other"] == pytest.approx(np.mean(ratios))
    assert [point["tokens"] for point in found["cost"]["other"]] == [9, 36]
    assert (tmp_path / "report/compare.html").exists()
    status, _, err = patchpack(capsys, "compare", run)
    assert status == 2 and "two runs or more" in err


def test_fairness_and_zero_shot_suites_of_two_towers(capsys, tmp_path):
    manifest = write_pairs(tmp_path / "data", {"train": 40, "val": 16, "test": 40})
    start(tiny_pairs(manifest, tmp_path / "run", steps=20), live=False)
    status, out, _ = patchpack(
        capsys, "eval", tmp_path / "run", "--suite", "fairness,calibration", "--budgets", 16,
        "--attributes", "side", "--json",
    )  # fmt: skip
    found = json.loads(out)
    assert status == 0 and set(found["fairness"]["probes"]) == {"16 ridge", "16 logistic"}
    assert set(found["fairness"]["groups"]["side"]) == {"side 0", "side 1"}
    assert "may not be used to" in (tmp_path / "run/report-test.html").read_text()
    assert 0 <= found["calibration"]["budgets"]["16"]["top1"] <= 1


def test_label_maps(capsys, run, root, tmp_path):
    """Another folder's classes, told which of the model's they are; the others are not judged."""
    other = tmp_path / "other"
    for split in ("train", "val", "test"):
        (other / split).mkdir(parents=True)
        for new, old in (("rows", "across"), ("columns", "along"), ("dots", "plain")):
            (other / split / new).symlink_to(root / split / old)
    words = ["eval", run, "--suite", "calibration", "--budgets", 36, "--data", other, "--json"]
    assert "with --label-map" in patchpack(capsys, *words)[2]
    names = tmp_path / "map.json"
    names.write_text(json.dumps({"rows": "across", "columns": "along", "dots": "plain"}))
    status, out, _ = patchpack(capsys, *words, "--label-map", names)
    own = json.loads(patchpack(capsys, *words[:6], "--json")[1])
    (mapped,), (expected,) = (
        found["calibration"]["budgets"].values() for found in (json.loads(out), own)
    )
    assert status == 0 and mapped == pytest.approx(expected)
    names.write_text("[]")
    assert "must be a JSON object of strings" in patchpack(capsys, *words, "--label-map", names)[2]


WRONG = [
    (["--suite", "speed"], "there is no suite 'speed': choose among cost, calibration"),
    (["--suite", "fairness"], "needs --attributes"),
    (["--suite", "fairness", "--attributes", "age"], "no column 'age'; it has none"),
    (["--suite", "cost", "--budgets", "0"], "budgets must be at least 1"),
    (["--suite", "robustness", "--severities", "7"], "severities must be among 1 to 5"),
    (["--suite", "robustness", "--severities"], "severities must be among 1 to 5"),
    (["--suite", "cost", "--severities", "2"], "--severities is for the suite robustness"),
    (["--suite", "cost", "--attributes", "age"], "--attributes is for the suite fairness"),
    (["--suite", "robustness", "--shifted-data", "nowhere"], "neither a folder nor a manifest"),
    (["--suite", "cost", "--split", "tset"], "did you mean 'test'"),
]


@pytest.mark.parametrize(("words", "says"), WRONG, ids=lambda w: str(w)[:40])
def test_wrong_requests_say_what_to_do(capsys, run, words, says):
    status, _, err = patchpack(capsys, "eval", run, *words)
    last = [line for line in err.splitlines() if " images at " not in line]
    assert status == 2 and len(last) == 1 and says in last[0]


def test_wrong_comparisons_and_outputs_are_refused_before_the_work(capsys, root, run, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "e.npz").write_text("kept")
    image = next((root / "test").rglob("*.png"))
    for words, message in (
        (("compare", run, run), "a run is given twice"),
        (("compare", run, tmp_path, "--suite", "fewshot"), "compare has no suite 'fewshot'"),
        (("eval", run, "--suite", "cost", "--out", tmp_path / "file"), "is a file: name a folder"),
        (("embed", run, image, "-o", tmp_path / "e"), "e.npz exists, and is not overwritten"),
        (("inspect", tmp_path, "--picture", tmp_path / "file"), "a picture ends in .png"),
    ):
        status, _, err = patchpack(capsys, *words)
        assert status == 2 and message in err and len(err.splitlines()) == 1
    assert (tmp_path / "e.npz").read_text() == "kept"
