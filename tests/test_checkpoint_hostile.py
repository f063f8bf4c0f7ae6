"""Checkpoints with right sums and hostile contents: refused with the file, never taken in silence.

A sample in every run of the tests; all cases in `slow`.
"""

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import patchpack as pp
from conftest import write_folder
from damage import (
    hostile_objects,
    hostile_tensors,
    replace_file,
    write_state,
    write_tensors,
)
from patchpack.checkpoint import CheckpointError, list_checkpoints, load, save
from patchpack.run import resume, start
from patchpack.train.loop import TrainingError
from runs import tiny
from test_cli import patchpack

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    root = write_folder(tmp_path_factory.mktemp("data") / "images", {"train": 8, "val": 4})
    out = tmp_path_factory.mktemp("runs") / "run"
    start(tiny(root, out, steps=4, eval_every=4), live=False)
    return out


@pytest.fixture
def run(trained, tmp_path) -> Path:
    return shutil.copytree(trained, tmp_path / "run")


def newest(run: Path, name: str) -> Path:
    return list_checkpoints(run / "checkpoints", name)[0]


def only_last(run: Path) -> Path:
    """The newest `last` checkpoint, after the others are deleted."""
    first, *older = list_checkpoints(run / "checkpoints", "last")
    for folder in older:
        shutil.rmtree(folder)
    return first


def verdict(call: Callable[[], object]) -> str:
    """What a call gives: its result, or its error in one line."""
    try:
        result = call()
    except (ValueError, TrainingError) as error:
        text = str(error)
        assert "\n" not in text and len(text) < 2000, text
        return f"refused: {text}"
    assert not isinstance(result, np.ndarray) or np.isfinite(result).all()
    return "accepted"


def probabilities(run: Path) -> np.ndarray:
    predictor = pp.load(run, device="cpu")
    return np.array([p.probabilities for p in predictor.predict([IMAGE])])


# Contents


def check_specs(run: Path, step: int) -> None:
    folder = newest(run, "best")
    state = json.loads((folder / "state.json").read_text())
    for name, spec in list(hostile_objects(state["model_spec"]).items())[::step]:
        write_state(folder, state | {"model_spec": spec})
        begin = time.monotonic()
        result = verdict(lambda: probabilities(run))
        assert time.monotonic() - begin < 20, name
        assert result == "accepted" or str(folder) in result or "are not finite" in result, name


def test_hostile_specs_are_refused_or_used(run):
    check_specs(run, step=23)


@pytest.mark.slow
def test_all_hostile_specs_are_refused_or_used(run):
    check_specs(run, step=1)


def test_hostile_weights_are_refused(run):
    folder = newest(run, "best")
    tensors = load(folder).tensors["model"]
    for name, changed in hostile_tensors(tensors).items():
        write_tensors(folder, "model", changed)
        assert f"{folder}/model.safetensors" in verdict(lambda: probabilities(run)), name


def test_hostile_states_of_training_are_refused(run):
    """None of them trains on, and none ends in another error."""
    folder = only_last(run)
    for file in ("model", "muon", "adamw", "average"):
        tensors = load(folder).tensors[file]
        for name, changed in hostile_tensors(tensors).items():
            write_tensors(folder, file, changed)
            assert f"{folder}/{file}.safetensors" in verdict(lambda: resume(run, live=False)), name
        write_tensors(folder, file, tensors)
    assert resume(run, live=False).step == 4


ADAMW = {
    "a negative step": ("step", lambda t: t * 0 - 1),
    "a step of NaN": ("step", lambda t: t * torch.nan),
    "a whole step": ("step", lambda t: t.long()),
    "many steps": ("step", lambda t: t.repeat(3)),
    "a negative moment": ("exp_avg_sq", lambda t: -t - 1),
    "an infinite moment": ("exp_avg", lambda t: t + torch.inf),
    "a half moment": ("exp_avg", lambda t: t.half()),
}


@pytest.mark.parametrize(("key", "change"), ADAMW.values(), ids=ADAMW)
def test_moments_that_no_update_gives_are_refused(run, key, change):
    folder = only_last(run)
    tensors = load(folder).tensors["adamw"]
    path = next(name for name in tensors if name.startswith(f"{key}/"))
    write_tensors(folder, "adamw", tensors | {path: change(tensors[path])})
    result = verdict(lambda: resume(run, live=False))
    assert path in result and f"{folder}/adamw.safetensors" in result


def test_the_state_of_another_optimizer_is_refused(run):
    folder = only_last(run)
    tensors = load(folder).tensors["adamw"]
    renamed = {f"momentum_buffer/{name.partition('/')[2]}": t for name, t in tensors.items()
               if name.startswith("exp_avg/")}  # fmt: skip
    write_tensors(folder, "adamw", renamed)
    assert "'momentum_buffer' is not that of AdamW" in verdict(lambda: resume(run, live=False))
    write_tensors(folder, "adamw", tensors)
    write_tensors(folder, "sgd", tensors)
    assert "sgd.safetensors is of another conf" in verdict(lambda: resume(run, live=False))


def test_hostile_progress_is_refused(run):
    folder = only_last(run)
    state = json.loads((folder / "state.json").read_text())
    wrong = [{"step": -1}, {"step": 7}, {"step": True}, {"images": 10**40}, {"best": "x"},
             {"best": None}, {"best_step": 99}, {"flops": -1.0}, {"more": 1}]  # fmt: skip
    states = [state | {"progress": state["progress"] | change} for change in wrong]
    states += [state | {"progress": None}, {k: v for k, v in state.items() if k != "progress"}]
    lacking = {k: v for k, v in state["progress"].items() if k != "epoch"}
    for changed in [*states, state | {"progress": lacking}]:
        write_state(folder, changed)
        result = verdict(lambda: resume(run, live=False))
        assert f"{folder}/state.json" in result, (changed["progress"], result)


def test_what_json_has_not_is_refused(run):
    folder = newest(run, "best")
    text = (folder / "state.json").read_text()
    for wrong, message in ((text.replace("{", '{"x": NaN, ', 1), "NaN"),
                           (text.replace("{", '{"x": 1, "x": 2, ', 1), "'x' twice"),
                           (text.replace("{", '{"x": ' + "[" * 99_999, 1), "nested too deeply"),
                           (" " * (64 * 2**20) + text, "more than")):  # fmt: skip
        replace_file(folder, "state.json", wrong.encode())
        result = verdict(lambda: probabilities(run))
        assert f"{folder}/state.json is damaged" in result and message in result


def test_a_state_without_form_in_json_is_not_saved(tmp_path):
    with pytest.raises(CheckpointError, match="no form in JSON"):
        save(tmp_path, "last", 1, tensors={}, state={"x": float("nan")})


# Files


SPECIAL: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "folder": Path.mkdir,
    "endless device": lambda path: path.symlink_to("/dev/zero"),
    "dangling link": lambda path: path.symlink_to(path.with_name("nowhere")),
    "link to itself": lambda path: path.symlink_to(path),
}


@pytest.mark.parametrize("make", SPECIAL.values(), ids=SPECIAL)
@pytest.mark.parametrize("file", ["state.json", "model.safetensors", "manifest.json"])
def test_a_file_that_is_not_regular_is_never_read(run, file, make):
    path = newest(run, "best") / file
    path.unlink()
    make(path)
    begin = time.monotonic()
    assert file in verdict(lambda: probabilities(run))
    assert time.monotonic() - begin < 10


@pytest.mark.parametrize("file", ["operating_point.json", "config.json"])
def test_files_of_a_run_that_are_not_regular_are_never_read(capsys, run, file):
    path = run / file
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    status, _, err = patchpack(capsys, "eval", run)
    assert status == 2 and str(path) in err and "a pipe or a device" in err


def test_a_link_to_the_same_file_is_followed(run, tmp_path):
    expected = probabilities(run)
    path = newest(run, "best") / "model.safetensors"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert np.array_equal(probabilities(run), expected)


def test_sizes_are_compared_before_a_byte_is_hashed(run):
    path = newest(run, "best") / "model.safetensors"
    os.truncate(path, 2**42)  # a sparse file, which takes hours to read
    begin = time.monotonic()
    assert "differ from the manifest" in verdict(lambda: probabilities(run))
    assert time.monotonic() - begin < 5


def test_clutter_of_file_managers_is_ignored(run):
    folder = newest(run, "best")
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._model.safetensors"):
        (folder / name).write_bytes(b"x")
    (folder / "@eaDir").mkdir()
    assert verdict(lambda: probabilities(run)) == "accepted"
    (folder / "notes.txt").write_text("x")
    assert "notes.txt is not part of the checkpoint" in verdict(lambda: probabilities(run))


def test_a_renamed_checkpoint_is_refused(run):
    folder = newest(run, "best")
    folder.rename(folder.with_name("best-00000099"))
    assert "it was renamed" in verdict(lambda: probabilities(run))


@pytest.mark.filterwarnings("default")
def test_a_skipped_checkpoint_is_one_line(capsys, run):
    first, second = list_checkpoints(run / "checkpoints", "last")[:1], newest(run, "best")
    shutil.copytree(first[0], run / "checkpoints" / "best-00000099")  # of another step
    image = next(Path(json.loads((run / "config.json").read_text())["data"]["root"]).rglob("*.png"))
    status, out, err = patchpack(capsys, "predict", run, image)
    assert status == 0 and out
    assert err.startswith("patchpack: skipping a checkpoint: ") and err.count("\n") == 1
    assert f"{second} is used" in err
    shutil.rmtree(second)
    status, out, err = patchpack(capsys, "predict", run, image)
    assert status == 2 and err.count("\n") == 1 and err.count("best-00000099") <= 3


POINTS = [{"temperature": 1e-320}, {"temperature": 0}, {"threshold": 7}, {"max_tokens": 10**20},
          {"max_tokens": 0}, {"max_tokens": "x"}, {"unknown": 1}, [1]]  # fmt: skip


@pytest.mark.parametrize("point", POINTS, ids=str)
def test_a_hostile_operating_point_is_refused(run, point):
    (run / "operating_point.json").write_text(json.dumps(point))
    result = verdict(lambda: probabilities(run))
    assert f"{run}/operating_point.json is damaged" in result and "remove it" in result


def test_weights_to_start_from_are_checked_like_others(run, tmp_path):
    folder, config = newest(run, "best"), json.loads((run / "config.json").read_text())
    tensors = load(folder).tensors["model"]
    root, out = Path(config["data"]["root"]), tmp_path / "next"
    for changed in hostile_tensors(tensors).values():
        write_tensors(folder, "model", changed)
        with pytest.raises(CheckpointError, match=r"model\.safetensors"):
            start(replace(tiny(root, out, steps=1), init=run), live=False)
    assert not out.exists()
