"""Every verb, as a user types it: the right answer, or one line that says what to do."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import patchpack as pp
from conftest import write_folder
from films import write_films
from patchpack.cli import main
from patchpack.run import start
from runs import tiny


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    sizes = {"train": 16, "val": 4, "test": 4}
    return write_folder(tmp_path_factory.mktemp("data") / "images", sizes)


@pytest.fixture(scope="module")
def run(root, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    start(tiny(root, out, steps=30, eval_every=30, ema=0.0), live=False)
    return out


def patchpack(capsys, *words: object) -> tuple[int, str, str]:
    """Status, stdout and stderr of a command."""
    try:
        main([str(word) for word in words])
        status = 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 1
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_inspect(capsys, root, tmp_path):
    status, out, _ = patchpack(
        capsys, "inspect", root, "--patch-size", 4, "--max-tokens", 300,
        "--picture", tmp_path / "pack.png", "--json",
    )  # fmt: skip
    found = json.loads(out)
    assert status == 0 and found["images"] == 72 and 0.9 < found["fill"] <= 1
    with Image.open(tmp_path / "pack.png") as drawn:
        assert drawn.width > 50
    status, out, _ = patchpack(capsys, "inspect", root, "--patch-size", 4)
    assert status == 0 and "72 images in 3 classes" in out and "saved" in out


def test_inspect_surveys_clips_when_told_which_frames_are_shown(capsys, tmp_path):
    films = write_films(tmp_path / "films", {"train": 6})
    words = ["inspect", films, "--patch-size", 8]
    status, out, _ = patchpack(capsys, *words, "frames:uniform-frames", "--frames.frames", 4)
    assert status == 0 and "6 clips in 2 classes" in out and "seconds" in out
    status, out, _ = patchpack(
        capsys, *words, "--json", "frames:uniform-frames", "--frames.frames", 4
    )
    found = json.loads(out)
    assert 6 <= found["frames"][0] <= found["frames"][-1] <= 14
    assert 6 / 25 <= found["seconds"][0] < found["seconds"][-1] <= 14 / 10
    tokens = found["tokens"]  # two tubelets long, and 2 or 3 by 2 or 3 in space
    assert 2 * 4 <= tokens[0] <= tokens[-1] <= 2 * 16 and tokens[0] % 2 == 0
    status, _, err = patchpack(
        capsys, *words, "frames:uniform-frames", "--picture", tmp_path / "p.png"
    )
    assert status == 2 and "not of clips" in err
    for number in (2, 5):  # without the folders of frames, nothing in it is an image
        shutil.rmtree(films / "train" / ("left", "right")[number % 2] / f"{number:03d}")
    status, _, err = patchpack(capsys, *words)
    assert status == 2 and "but 4 clips" in err and "frames:uniform-frames" in err


def test_train_from_a_folder_with_overrides_and_resume(capsys, root, tmp_path):
    out = tmp_path / "run"
    words = ["train", root, "--out", out, "--preset", "navit_ti8", "--model.depth", 1,
             "--model.dim", 24, "--model.mlp-dim", 24, "--data.max-tokens", 300,
             "data.dropping:beta-drop", "--data.dropping.mean", "0.2", "--data.dropping.max", "0.5",
             "--train.steps", 3, "--train.precision", "float32", "--json"]  # fmt: skip
    status, printed, _ = patchpack(capsys, *words)
    assert status == 0 and json.loads(printed)["step"] == 3
    saved = json.loads((out / "config.json").read_text())
    assert saved["model"]["depth"] == 1 and saved["model"]["patch_size"] == 8
    assert saved["data"]["dropping"] == {"type": "BetaDrop", "mean": 0.2, "max": 0.5}
    assert patchpack(capsys, *words)[0] == 2
    assert patchpack(capsys, "train", "--resume", out)[0] == 0


def test_a_run_can_be_judged_from_another_folder(capsys, root, tmp_path, monkeypatch):
    monkeypatch.chdir(root.parent)
    start(tiny(Path(root.name), tmp_path / "run", steps=2), live=False)
    monkeypatch.chdir(tmp_path)
    assert patchpack(capsys, "eval", "run")[0] == 0


def test_train_from_a_recipe(capsys, root, tmp_path):
    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        "from pathlib import Path\nfrom runs import tiny\n"
        f"config = tiny(Path({str(root)!r}), Path({str(tmp_path / 'run')!r}), steps=50)\n"
    )
    status, out, _ = patchpack(capsys, "train", recipe, "--train.steps", 2)
    assert status == 0 and "2 steps" in out


@pytest.mark.parametrize(
    "recipe", sorted((Path(__file__).parents[1] / "recipes").glob("*.py")), ids=lambda p: p.name
)
def test_recipes_are_recipes(recipe):
    from patchpack.config import RunConfig, load_recipe
    from patchpack.serialization import from_json, to_json

    config = load_recipe(recipe)
    assert from_json(RunConfig, json.loads(json.dumps(to_json(config)))) == config


def test_eval(capsys, run):
    status, out, _ = patchpack(capsys, "eval", run, "--budgets", 4, 64, "--json")
    small, large = json.loads(out)["budgets"]
    assert status == 0 and small["images"] == large["images"] == 12
    assert small["gflops_per_image"] < large["gflops_per_image"]
    assert sum(map(sum, large["confusion"])) == 12
    assert (run / "confusion-test.png").exists() and (run / "eval-test.json").exists()
    status, out, _ = patchpack(capsys, "eval", run, "--split", "val")
    assert status == 0 and "top-1" in out and "plain" in out


def test_predict_and_embed(capsys, run, root, tmp_path):
    images = sorted((root / "test").rglob("*.png"))
    status, out, _ = patchpack(capsys, "predict", run, *images[:3], "--top", 2, "--json")
    lines = [json.loads(line) for line in out.splitlines()]
    assert status == 0 and [line["image"] for line in lines] == [str(i) for i in images[:3]]
    assert all(len(line["labels"]) == 2 for line in lines)
    status, out, _ = patchpack(capsys, "predict", run, root / "test")
    assert status == 0 and len(out.splitlines()) == 12
    target = tmp_path / "new" / "vectors.npz"
    assert patchpack(capsys, "embed", run, root / "test", "-o", target)[0] == 0
    with np.load(target) as saved:
        assert saved["vectors"].shape == (12, 16) and list(saved["keys"]) == [
            str(i) for i in images
        ]


def test_python_gives_the_same_as_the_command(capsys, run, root):
    images = sorted((root / "test").rglob("*.png"))
    _, out, _ = patchpack(capsys, "predict", run, *images, "--max-tokens", 9, "--json")
    answers = pp.load(run).predict(images, max_tokens=9)
    for single in (str(images[0]), np.zeros((8, 8, 3), np.uint8)):
        with pytest.raises(ValueError, match="put a single"):
            pp.load(run).predict(single)
    for line, answer in zip(map(json.loads, out.splitlines()), answers, strict=True):
        assert line["labels"][0]["label"] == answer.label
        assert line["labels"][0]["probability"] == pytest.approx(answer.probability, abs=1e-5)
        assert sum(answer.probabilities) == pytest.approx(1, abs=1e-5)


def test_one_bad_image_does_not_spoil_the_others(capsys, run, root, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"not an image")
    good = next((root / "test").rglob("*.png"))
    status, out, err = patchpack(capsys, "predict", run, bad, good)
    assert status == 1 and out.startswith(str(good)) and str(bad) in err
    os.mkfifo(pipe := tmp_path / "pipe.png")
    status, out, err = patchpack(capsys, "predict", run, pipe, good)
    assert status == 1 and out.startswith(str(good)) and "is a pipe or a device" in err
    target = tmp_path / "vectors.npz"
    status, out, err = patchpack(capsys, "embed", run, bad, good, "-o", target)
    assert status == 1 and str(bad) in err and list(np.load(target)["keys"]) == [str(good)]
    target.unlink()
    status, _, err = patchpack(capsys, "embed", run, bad, "-o", target)
    assert status == 2 and "nothing to embed" in err and not target.exists()


def test_hidden_files_and_folders_named_like_images_are_passed_over(capsys, run, root, tmp_path):
    good = next((root / "test").rglob("*.png"))
    (tmp_path / "folder.png").mkdir()
    for name in ("._shown.png", "shown.png", "folder.png/[b]below.png"):
        (tmp_path / name).write_bytes(good.read_bytes())
    status, out, _ = patchpack(capsys, "predict", run, tmp_path)
    names = [line.split(":")[0] for line in out.splitlines()]
    assert status == 0 and names == [f"{tmp_path}/folder.png/[b]below.png", f"{tmp_path}/shown.png"]


WRONG = {
    "no verb like it": (["tarin"], "did you mean 'train'"),
    "nothing there": (["inspect", "{tmp}/nowhere"], "neither a folder nor a manifest"),
    "no run": (["eval", "{tmp}"], "holds no trained weights"),
    "no such split": (["eval", "{run}", "--split", "tets"], "did you mean 'test'"),
    "no such image": (["predict", "{run}", "{tmp}/a.jpg"], "there is no such file"),
    "no images": (["predict", "{run}", "{tmp}"], "holds no images"),
    "zero tokens": (["predict", "{run}", "{image}", "--max-tokens", "0"], "must be at least 1"),
    "zero top": (["predict", "{run}", "{image}", "--top", "0"], "top must be at least 1"),
    "no recipe": (["train", "{tmp}/recipe.py"], "there is no recipe"),
    "not a preset": (["train", "{root}", "--preset", "navit_x"], "unknown model 'navit_x'"),
    "resume nothing": (["train", "--resume", "{tmp}"], "is not a run"),
    "resume with more": (["train", "--resume", "{run}", "--out", "x"], "no further options"),
    "resume what": (["train", "--resume"], "--resume needs a value"),
    "no data": (["train"], "there is no data"),
    "impossible value": (["train", "{root}", "--train.steps", "0"], "steps must be at least 1"),
    "a folder as output": (["embed", "{run}", "{image}", "-o", "{tmp}"], "is a folder"),
    "no heads": (["train", "{root}", "--model.num-heads", "0"], "num_heads must be at least 1"),
    "no contrast": (["train", "{root}", "--model.pixel-std", "0"], "pixel_std must be more than"),
    "no patch": (["inspect", "{root}", "--patch-size", "0"], "must be at least 1"),
}  # fmt: skip


@pytest.mark.parametrize(("words", "message"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_said_in_a_line(capsys, run, root, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    image = next((root / "test").rglob("*.png"))
    places = {"tmp": tmp_path, "run": run, "root": root, "image": image}
    status, _, err = patchpack(capsys, *(word.format(**places) for word in words))
    assert status == 2 and message in err and "Traceback" not in err
    assert not (tmp_path / "runs").exists()


def test_unknown_options_are_refused_with_the_nearest(capsys, root):
    status, out, err = patchpack(capsys, "train", root, "--train.stps", "3")
    assert status == 2 and "--train.steps" in out + err


def test_help_lists_every_field(capsys):
    status, out, _ = patchpack(capsys, "train", "--help")
    for name in ("--train.steps", "--optim.lr", "--data.max-tokens", "--model.drop-path",
                 "--data.augment.random-erasing", "--data.loader.workers", "--task.label-smoothing",
                 "data.resolution:sampled-area", "data.dropping:beta-drop"):  # fmt: skip
        assert name in out, name
    assert status == 0
    status, out, _ = patchpack(capsys, "--help")
    assert status == 0 and "patchpack inspect" in out


def test_the_installed_command_runs():
    words = [sys.executable, "-m", "patchpack", "eval", "nowhere"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stderr.startswith("patchpack: ")


def test_a_model_of_other_classes_refuses_foreign_labels(capsys, run, tmp_path):
    other = write_folder(tmp_path / "other", {"train": 1, "test": 2})
    (other / "test" / "plain").rename(other / "test" / "dotted")
    (other / "train" / "plain").rename(other / "train" / "dotted")
    status, _, err = patchpack(capsys, "eval", run, "--data", other)
    assert status == 2 and "dotted" in err


def test_a_square_model_is_served_as_it_was_trained(root, tmp_path):
    from patchpack.data.packing.resolution import SquareResize

    config = tiny(root, tmp_path / "run", steps=2)
    config = replace(config, data=replace(config.data, resolution=SquareResize(grid=4)))
    start(config, live=False)
    packs = list(pp.load(tmp_path / "run").packs([np.zeros((30, 90, 3), np.uint8)], 26))
    assert packs[0].grids.tolist() == [[5, 5]]
