"""Ids in predictions: those of the COCO file that the model was trained on."""

import contextlib
import io
import json
from pathlib import Path

import pytest

from exports import coco, cvat_coco_subsets, roboflow_coco, scenes, write_json, yolo
from patchpack.data.sources.objects import SourceIds
from patchpack.inference.model_spec import ModelSpec
from patchpack.serialization import from_json, to_json
from patchpack.tasks.detection.file_ids import choose_ids
from test_cli import patchpack

WORDS = ("--preset", "navit_ti16", "--model.patch-size", "4", "--model.depth", "1",
         "--model.dim", "32", "--model.num-heads", "2", "--model.mlp-dim", "64",
         "--train.steps", "40", "--train.eval-every", "40", "--data.loader.workers", "0",
         "--optim.lr", "3e-3", "task:detection-config")  # fmt: skip


def train(capsys, source: Path, run: Path) -> Path:
    status, _, err = patchpack(capsys, "train", source, "--out", run, *WORDS)
    assert status == 0, err
    return run


def predict(capsys, run: Path, images: list[Path], output: Path) -> tuple[dict, str]:
    status, _, err = patchpack(
        capsys, "predict", run, *images, "-o", output, "--score-threshold", "0"
    )
    assert status == 0, err
    return json.loads(output.read_text()), err


def library_ap(truth: Path, found: dict, image_ids: list[int]) -> float:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO(str(truth))
        evaluator = COCOeval(known, known.loadRes(found["annotations"]), "bbox")
        evaluator.params.imgIds = image_ids
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return float(evaluator.stats[0])


def test_pycocotools_gives_the_ap_of_eval_on_the_file_as_predicted(tmp_path, capsys):
    """Images have ids 1000, 1007, …, categories 3 and 90, in another order than the alphabet's."""
    items = scenes(24, 6, 6)
    for scene in items:
        scene.write(tmp_path / "data" / "images" / scene.name)
    content = coco(items, ids=(90, 3))
    for image, scene in zip(content["images"], items, strict=True):
        image["split"] = scene.split
    truth = write_json(tmp_path / "data" / "boxes.json", content)
    run = train(capsys, truth, tmp_path / "run")
    _, out, _ = patchpack(capsys, "eval", run, "--json")
    ap = json.loads(out)["budgets"][0]["ap"]
    test = [scene.name for scene in items if scene.split == "test"]
    images = [tmp_path / "data" / "images" / name for name in reversed(test)]
    found, err = predict(capsys, run, images, tmp_path / "found.json")
    ids = {i["file_name"]: i["id"] for i in content["images"]}
    assert [i["id"] for i in found["images"]] == [ids[path.name] for path in images] and not err
    assert [(c["id"], c["name"]) for c in found["categories"]] == [(90, "bolt"), (3, "nut")]
    assert found["info"]["description"] == "ids of images are those of boxes.json"
    assert ap > 0
    assert library_ap(truth, found, [ids[name] for name in test]) == pytest.approx(ap, abs=1e-5)


def test_ids_of_the_split_that_is_predicted_and_of_other_images(tmp_path, capsys):
    """Every split has its own file, and all of them use the same ids."""
    items = scenes(8, 3, 3)
    root = cvat_coco_subsets(tmp_path / "data", items)
    run = train(capsys, root, tmp_path / "run")
    val = sorted((root / "images" / "val").iterdir())
    found, err = predict(capsys, run, val, tmp_path / "val.json")
    assert [i["id"] for i in found["images"]] == [1000, 1007, 1014] and not err
    assert found["info"]["description"].endswith("those of annotations/instances_val.json")
    elsewhere = tmp_path / "elsewhere" / "new.png"
    items[0].write(elsewhere)
    found, err = predict(capsys, run, [val[0], elsewhere], tmp_path / "more.json")
    assert [i["id"] for i in found["images"]] == [1000, 1015]
    assert "instances_val.json; 1 other images have new ones" in err
    mixed = [val[0], root / "images" / "train" / "train0.png"]
    found, err = predict(capsys, run, mixed, tmp_path / "mixed.json")
    assert [i["id"] for i in found["images"]] == [1, 2]
    assert "ids of images are 1, 2, …: they are not those of the training data" in err
    assert [c["id"] for c in found["categories"]] == [3, 90]


def test_other_sources_number_from_one(tmp_path, capsys):
    root = yolo(tmp_path / "data", scenes(8, 3, 3))
    run = train(capsys, root, tmp_path / "run")
    images = sorted((root / "images" / "val").iterdir())
    found, err = predict(capsys, run, images, tmp_path / "found.json")
    assert [i["id"] for i in found["images"]] == [1, 2, 3] and not err
    assert [c["id"] for c in found["categories"]] == [1, 2]


def test_equal_names_in_several_folders_are_matched_by_their_paths():
    sources = [
        SourceIds("a.json", {"x": 1}, {"train/1.png": 5, "train/2.png": 6}),
        SourceIds("b.json", {"x": 1}, {"valid/1.png": 5, "valid/3.png": "k"}),
    ]

    def ids(*paths: str, names=("x",)):
        chosen = choose_ids(sources, [Path(path) for path in paths], names)
        return list(chosen.images), list(chosen.classes), chosen.files

    assert ids("/d/valid/1.png", "/d/valid/3.png") == ([5, "k"], [1], ("b.json",))
    assert ids("/e/1.png") == ([1], [1], ())  # either
    assert ids("/e/2.png", "/e/3.png") == ([6, "k"], [1], ("a.json", "b.json"))
    assert ids("/d/train/1.png", "/d/valid/1.png") == ([1, 2], [1], ())  # one id for two
    assert ids("/d/train/2.png", "/other/2.png") == ([6, 7], [1], ("a.json",))
    assert ids("/e/2.png", "/f/2.png", names=("x", "new")) == ([1, 2], [1, 2], ())
    sources[1] = SourceIds("b.json", {"x": 2}, {"valid/1.png": 9})
    assert ids("/e/2.png", "/d/valid/1.png") == ([1, 2], [1], ())  # classes disagree
    assert ids("/d/valid/1.png") == ([9], [2], ("b.json",))
    assert choose_ids((), [Path("a"), Path("b")], ("x", "y"))[:2] == ([1, 2], [1, 2])


def test_ids_are_kept_in_the_model_spec_and_specs_without_them_load(tmp_path, capsys):
    run = train(capsys, roboflow_coco(tmp_path / "data", scenes(8, 3, 3)), tmp_path / "run")
    (checkpoint,) = (run / "checkpoints").glob("best-*")
    texts = [path.read_text() for path in checkpoint.glob("*.json")]
    spec = next(json.loads(text)["model_spec"] for text in texts if "model_spec" in text)
    read = from_json(ModelSpec, spec)
    assert [ids.file for ids in read.source_ids] == [
        f"{split}/_annotations.coco.json" for split in ("test", "train", "valid")
    ]
    assert read.source_ids[0].classes == {"parts": 0, "bolt": 3, "nut": 90}
    assert read.source_ids[0].images["test/test0.png"] == 1000 and to_json(read) == spec
    del spec["source_ids"]
    assert from_json(ModelSpec, spec).source_ids == ()
