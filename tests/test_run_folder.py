"""A run folder has one writer, and nothing in it is overwritten; its log decides nothing."""

import errno
import json
import os
import shutil
from contextlib import suppress
from dataclasses import replace
from io import FileIO
from pathlib import Path

import pytest

from conftest import write_folder
from patchpack.checkpoint import list_checkpoints
from patchpack.run import resume, start
from patchpack.train import log as log_module
from patchpack.train import run_folder
from patchpack.train.log import RunLog, read_log
from patchpack.train.run_folder import check_new_folder, locked
from patchpack.train.stopping import TrainingError
from test_continuation import edit, short


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    root = write_folder(folder / "data", {"train": 6, "val": 3})
    start(short(root, folder / "run"), live=False)
    return folder


@pytest.fixture
def run(made, tmp_path) -> Path:
    shutil.copytree(made / "run", tmp_path / "run")
    return tmp_path / "run"


def test_a_second_run_is_refused_with_the_first_one_named(made, run, tmp_path):
    new = short(made / "data", tmp_path / "new")
    new.out.mkdir()
    with locked(run) as note, locked(new.out):
        assert not note
        holder = rf"is in use by process {os.getpid()} on \S+, since 20\d\d-"
        with pytest.raises(TrainingError, match=holder):
            resume(run, live=False)
        with pytest.raises(TrainingError, match=holder):
            start(new, live=False)
    assert [path.name for path in new.out.iterdir()] == [".lock"]
    assert resume(run, live=False).step == 2
    assert start(new, live=False).step == 2


def test_a_run_that_is_evaluated_on_its_training_images_reports_it(made, tmp_path, capsys):
    config = short(made / "data", tmp_path / "run")
    start(replace(config, data=replace(config.data, val_split="train")), live=False)
    assert "the validation split is the training split, train" in capsys.readouterr().err


def test_a_file_system_without_locks_is_reported(run, monkeypatch):
    def refuse(file, how):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(run_folder.fcntl, "flock", refuse)
    with locked(run) as note:
        assert "cannot be locked (No locks available): start no second run in it" in note


def test_a_run_inside_its_data_is_refused(made, tmp_path):
    data = shutil.copytree(made / "data", tmp_path / "data")
    (tmp_path / "link").symlink_to(data)
    before = sorted(data.rglob("*"))
    for out in (data / "run", data, tmp_path / "link" / "run"):
        with pytest.raises(TrainingError, match="is inside the data folder"):
            start(short(data, out), live=False)
    assert sorted(data.rglob("*")) == before
    check_new_folder(tmp_path / "beside", data)
    check_new_folder(tmp_path / "data-of-another-name", data)
    (tmp_path / "manifest.csv").touch()
    check_new_folder(tmp_path / "run", tmp_path / "manifest.csv")  # lists its items


@pytest.mark.parametrize("name", ["config.json", "log.jsonl", "curves.png", "operating_point.json"])
def test_files_of_others_are_not_overwritten(made, tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(TrainingError, match=f"{name} exists and is not of a run"):
        start(short(made / "data", tmp_path), live=False)
    assert (tmp_path / name).read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


def _bait(path: Path, kind: str) -> None:
    """Put a link to a file of somebody else, a dangling link, a folder or a pipe at a path."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(path.parent.parent / kind)


BAITS = ("precious", "absent", "folder", "pipe")


@pytest.mark.parametrize("kind", BAITS)
@pytest.mark.parametrize("name", ["config.json", "log.jsonl", "curves.png", ".lock"])
def test_a_new_run_follows_no_link(made, tmp_path, name, kind):
    (precious := tmp_path / "precious").write_text("precious")
    (tmp_path / "run").mkdir()
    _bait(tmp_path / "run" / name, kind)
    with pytest.raises(TrainingError, match=rf"run/{name}"):
        start(short(made / "data", tmp_path / "run"), live=False)
    assert precious.read_text() == "precious" and not (tmp_path / "absent").exists()


@pytest.mark.parametrize("kind", ["precious", "absent", "pipe"])
def test_checkpoints_that_are_no_folder_are_named_before_the_work(made, tmp_path, kind):
    (tmp_path / "run").mkdir()
    _bait(tmp_path / "run" / "checkpoints", kind)
    with pytest.raises(TrainingError, match="run/checkpoints is no folder"):
        start(short(made / "data", tmp_path / "run"), live=False)


@pytest.mark.parametrize("kind", ["precious", "absent", "pipe"])
def test_a_resumed_run_follows_no_link(run, kind, tmp_path, capsys):
    (precious := tmp_path / "precious").write_text("precious")
    edit(run, '"steps": 2', '"steps": 3')
    for name in ("log.jsonl", "curves.png", "tensorboard"):
        _bait(run / name, kind)
    assert resume(run, live=False).step == 3
    assert precious.read_text() == "precious" and not (tmp_path / "absent").exists()
    err = capsys.readouterr().err
    assert "log.jsonl cannot be written" in err and "TensorBoard's files cannot be written" in err


@pytest.mark.parametrize("kind", BAITS)
def test_a_lock_that_is_no_file_is_named(run, kind, tmp_path):
    (precious := tmp_path / "precious").write_text("precious")
    _bait(run / ".lock", kind)
    with pytest.raises(TrainingError, match=r"run/\.lock is no regular file"):
        resume(run, live=False)
    assert precious.read_text() == "precious"


def test_trained_weights_without_a_run_are_not_deleted(made, run):
    for folder in list_checkpoints(run / "checkpoints", "last"):
        shutil.rmtree(folder)
    (best,) = list_checkpoints(run / "checkpoints", "best")
    with pytest.raises(TrainingError, match=f"holds trained weights, {best.name}"):
        start(short(made / "data", run), live=False)
    assert best.exists()


def test_a_run_that_ended_before_its_first_checkpoint_begins_again(made, run):
    shutil.rmtree(run / "checkpoints")
    assert start(short(made / "data", run), live=False).step == 2


DAMAGE = {
    "a number": b"5\n",
    "zeros": bytes(300) + b"\n",
    "a half line": b'{"kind": "train", "st\n',
    "bytes": b"\xff\xfe\x00\n",
    "a list": b"[1]\n",
    "a step of text": b'{"kind": "train", "step": "one"}\n',
    "a huge step": b'{"kind": "eval", "step": 1' + b"0" * 300 + b"}\n",
    "a loss of text": b'{"kind": "train", "step": 1, "loss": "low"}\n',
    "depth": b"[" * 100_000 + b"\n",
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_log_never_blocks_a_run(run, capsys, damage):
    path = run / "log.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(damage.join(lines))
    (run / "curves.png").unlink()
    assert resume(run, live=False).step == 2
    kept = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert kept == [json.loads(line) for line in lines]
    err = capsys.readouterr().err.replace("\n", "")
    assert f"log.jsonl: {len(lines) - 1} damaged lines dropped" in err
    assert (run / "curves.png").stat().st_size > 1000


def test_any_flipped_byte_of_a_log_leaves_readable_lines(run):
    path = run / "log.jsonl"
    data = path.read_bytes()
    for position in range(0, len(data), 7):
        for bit in (1, 4, 128):
            flipped = bytearray(data)
            flipped[position] ^= bit
            path.write_bytes(flipped)
            for kind in ("train", "eval"):
                read_log(path, kind)
            log = RunLog(run, resume_step=2, resume_fraction=1.0, live=False)
            log.close()


def test_a_folder_in_place_of_the_log_is_reported(run, capsys):
    (run / "log.jsonl").unlink()
    (run / "log.jsonl").mkdir()
    edit(run, '"steps": 2', '"steps": 3')
    assert resume(run, live=False).step == 3
    assert capsys.readouterr().err.replace("\n", "").count("the run goes on without") == 1


def test_a_full_disk_stops_no_log(tmp_path, capsys, monkeypatch):
    """One message; the half line is closed, and later lines are whole."""
    full = [False]

    class Disk(FileIO):
        def write(self, data):
            if full[0]:
                return super().write(data[:5])
            return super().write(data)

    monkeypatch.setattr(log_module, "FileIO", Disk)
    log = RunLog(tmp_path, resume_step=0, resume_fraction=0.0, live=False)
    for step, full[0] in ((1, False), (2, True), (3, True), (4, False), (5, False)):
        log.evaluation(step, {"top1": 0.5})
    log.close()
    assert [r["step"] for r in read_log(tmp_path / "log.jsonl", "eval")] == [1, 4, 5]
    err = capsys.readouterr().err.replace("\n", "")
    assert err.count("cannot be written (No space left on device): the run goes on without") == 1


def test_a_closed_terminal_stops_no_run(made, tmp_path, monkeypatch):
    """`train 2>&1 | head -1`: the run goes on to its end."""
    read, write = os.pipe()
    os.close(read)
    stream = os.fdopen(write, "w", buffering=1)
    monkeypatch.setattr("sys.stderr", stream)
    assert start(short(made / "data", tmp_path / "run")).step == 2
    with suppress(BrokenPipeError):
        stream.close()
    assert len(read_log(tmp_path / "run" / "log.jsonl", "train")) == 2
