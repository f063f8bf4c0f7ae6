"""Checkpoints load bit for bit, and a failed save keeps the previous one."""

import errno
import os
import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn

import patchpack.checkpoint as checkpoint
from checkpoints import FILES, flip, same, save_checkpoint
from patchpack.checkpoint import (
    CheckpointError,
    list_checkpoints,
    load,
    load_newest,
    save,
)
from patchpack.writing import write_text_atomic

# Round trip


def test_every_bit_is_restored(tmp_path):
    shared = torch.randn(4, 3)
    named = {
        "bf16": torch.randn(3, 3).bfloat16(),
        "half": torch.tensor([float("nan"), float("inf"), -0.0]).half(),
        "float64": torch.randn(2, dtype=torch.float64),
        "scalar": torch.tensor(3.5),
        "count": torch.tensor(2**40),
        "mask": torch.tensor([True, False]),
        "bytes": torch.arange(256, dtype=torch.uint8),
        "empty": torch.empty(0, 3),
        "empty too": torch.empty(0),
        "whole": shared,
        "slice": shared[1:],
        "transposed": shared.T,
        "parameter": nn.Parameter(torch.randn(2)),
        "": torch.ones(1),
        "é/\n\0.": torch.zeros(1),
    }
    state = {"images": 2**60, "model_spec": {"classes": ["ä", "b"], "best": 0.1}, "none": None}
    folder = save(tmp_path / "a" / "b", "best", 12, tensors={"model": named}, state=state)
    assert folder == tmp_path / "a" / "b" / "best-00000012"
    loaded = load(folder)
    assert (loaded.folder, loaded.step, loaded.state) == (folder, 12, state)
    assert loaded.tensors.keys() == {"model"} and loaded.tensors["model"].keys() == named.keys()
    for name, tensor in named.items():
        assert same(loaded.tensors["model"][name], tensor.detach()), name


def test_file_modes_follow_the_umask(tmp_path):
    before = os.umask(0o022)
    try:
        folder = save_checkpoint(tmp_path)
    finally:
        os.umask(before)
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()} == dict.fromkeys(
        FILES, 0o644
    )


def test_tensors_load_onto_a_device(tmp_path):
    assert load(save_checkpoint(tmp_path), device="meta").tensors["model"]["weight"].is_meta


def test_a_reserved_tensor_name_is_rejected(tmp_path):
    with pytest.raises(CheckpointError, match="__metadata__"):
        save(tmp_path, "last", 1, tensors={"m": {"__metadata__": torch.ones(1)}}, state={})
    assert not list(tmp_path.iterdir())


def test_a_state_without_json_form_leaves_no_files(tmp_path):
    with pytest.raises(TypeError):
        save(tmp_path, "last", 1, tensors={}, state={"x": object()})
    assert not list(tmp_path.iterdir())


# Retention


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_checkpoints_are_kept(tmp_path, keep):
    for step in (5, 10, 99_999_999, 100_000_000):
        save_checkpoint(tmp_path, step, keep)
    steps = [100_000_000, 99_999_999, 10, 5][:keep]
    assert [load(folder).step for folder in list_checkpoints(tmp_path, "last")] == steps
    assert len(list(tmp_path.iterdir())) == keep


def test_keep_zero_is_rejected(tmp_path):
    with pytest.raises(ValueError, match="keep must be at least 1, not 0"):
        save_checkpoint(tmp_path, keep=0)


def test_other_names_are_not_deleted(tmp_path):
    others = [tmp_path / name for name in ("best-00000001", "last-ema-00000001", "last-1", "x")]
    for other in others:
        other.mkdir()
    (tmp_path / ".tmp-notes").mkdir()
    save_checkpoint(tmp_path, 3)
    assert all(other.is_dir() for other in [*others, tmp_path / ".tmp-notes"])


def test_saving_a_step_again_replaces_the_first(tmp_path):
    save_checkpoint(tmp_path, 5, value=1.0)
    save_checkpoint(tmp_path, 5, value=2.0)
    assert load_newest(tmp_path, "last").tensors["model"]["weight"].unique().tolist() == [2.0]
    assert len(list(tmp_path.iterdir())) == 1


def test_a_run_resumed_earlier_deletes_later_checkpoints(tmp_path):
    save_checkpoint(tmp_path, 400)
    damaged = save_checkpoint(tmp_path, 800, keep=2)
    (damaged / "state.json").write_text("{}")
    save_checkpoint(tmp_path, 600)
    assert [path.name for path in list_checkpoints(tmp_path, "last")] == ["last-00000600"]


# Fallback to older checkpoints


def test_the_newest_valid_checkpoint_is_loaded(tmp_path):
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, keep=3)
    assert load_newest(tmp_path, "last").step == 3
    flip(tmp_path / "last-00000003" / "model.safetensors")
    (tmp_path / "last-00000002" / "state.json").unlink()
    with pytest.warns(UserWarning) as warned:
        assert load_newest(tmp_path, "last").step == 1
    first, second = (str(warning.message) for warning in warned)
    assert "last-00000003/model.safetensors" in first and "last-00000002/state.json" in second


def test_without_a_valid_checkpoint_the_error_lists_all(tmp_path):
    with pytest.raises(CheckpointError, match=r"has no valid checkpoint 'last'$"):
        load_newest(tmp_path / "absent", "last")
    folder = save_checkpoint(tmp_path)
    flip(folder / "state.json")
    with (
        warnings.catch_warnings(action="error"),  # the error has it all
        pytest.raises(CheckpointError, match=r"no valid checkpoint 'last': .*state.json"),
    ):
        load_newest(tmp_path, "last")


# Failures and crashes


@pytest.mark.parametrize("call", range(5))
def test_a_full_disk_keeps_the_last_good_checkpoint(tmp_path, monkeypatch, call):
    """With a disk that is full at each sync in turn: three files, the manifest, the folder."""
    save_checkpoint(tmp_path, 400)
    real, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == call + 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError) as caught:
        save_checkpoint(tmp_path, 800)
    assert str(caught.value) == (
        f"could not save {tmp_path}/last-00000800: No space left on device; "
        f"the last good checkpoint is {tmp_path}/last-00000400"
    )
    assert isinstance(caught.value.__cause__, OSError)
    assert [path.name for path in tmp_path.iterdir()] == ["last-00000400"]
    assert load_newest(tmp_path, "last").step == 400


def test_a_file_size_limit_keeps_the_last_good_checkpoint(tmp_path):
    resource = pytest.importorskip("resource")
    save_checkpoint(tmp_path, 1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(CheckpointError, match=r"could not save .*File too large.*00000001$"):
            tensors = {"model": {"large": torch.ones(1_000_000)}}
            save(tmp_path, "last", 2, tensors=tensors, state={})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in tmp_path.iterdir()] == ["last-00000001"]


def test_a_parent_that_cannot_be_created_is_an_error(tmp_path):
    (tmp_path / "file").write_text("content")
    with pytest.raises(CheckpointError, match=r"^could not save .*: (Not a dir|File exists)"):
        save_checkpoint(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "content"


CRASH = """
import os, sys
from pathlib import Path
import torch
import patchpack.checkpoint as checkpoint

function, parent = sys.argv[1], Path(sys.argv[2])
module = os if function == "rename" else checkpoint
real, calls = getattr(module, function), []

def dies(*arguments):
    calls.append(arguments)
    if len(calls) == int(sys.argv[3]):
        os._exit(9)
    return real(*arguments)

setattr(module, function, dies)
tensors = {"model": {"x": torch.zeros(2)}, "optimizer": {"x": torch.zeros(2)}}
checkpoint.save(parent, "last", 2, tensors=tensors, state={})
"""


@pytest.mark.parametrize(("function", "call"), [("save_file", 2), ("rename", 1)])
def test_a_killed_save_leaves_no_checkpoint(tmp_path, function, call):
    save_checkpoint(tmp_path, 1)
    process = subprocess.run([sys.executable, "-c", CRASH, function, str(tmp_path), str(call)])
    assert process.returncode == 9
    incomplete = list(tmp_path.glob(".tmp-last-00000002-*"))
    assert len(incomplete) == 1 and any(incomplete[0].iterdir())
    assert load_newest(tmp_path, "last").step == 1
    save_checkpoint(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["last-00000002"]


def test_leftovers_of_a_process_with_the_same_pid_are_replaced(tmp_path):
    save_checkpoint(tmp_path, value=1.0)
    for prefix in ("", "old-"):
        leftover = tmp_path / f".tmp-{prefix}last-00000007-{os.getpid()}"
        leftover.mkdir()
        (leftover / "junk").write_text("x")
    folder = save_checkpoint(tmp_path, value=2.0)
    assert load(folder).tensors["model"]["weight"].unique().tolist() == [2.0]
    assert list(tmp_path.iterdir()) == [folder]


def test_every_file_and_folder_is_synced(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    folder = save_checkpoint(tmp_path)
    *files, folder_inode, parent_inode = synced
    assert sorted(files) == sorted(path.stat().st_ino for path in folder.iterdir())
    assert files[-1] == (folder / "manifest.json").stat().st_ino
    assert (folder_inode, parent_inode) == (folder.stat().st_ino, tmp_path.stat().st_ino)


def test_old_checkpoints_are_deleted_only_after_the_rename(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, 1)
    monkeypatch.setattr(checkpoint, "_prune", lambda *_: None)
    save_checkpoint(tmp_path, 2)
    assert [path.name for path in list_checkpoints(tmp_path, "last")] == [
        "last-00000002",
        "last-00000001",
    ]


# Text files


def test_a_text_file_is_replaced_atomically(tmp_path, monkeypatch):
    path = tmp_path / "config.json"
    write_text_atomic(path, "é\n")
    with path.open(encoding="utf-8") as reader:
        write_text_atomic(path, "é\n" * 2)
        assert reader.read() == "é\n"
    assert path.read_text(encoding="utf-8") == "é\n" * 2

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_text_atomic(path, "new")
    assert path.read_text(encoding="utf-8") == "é\n" * 2
    assert [file.name for file in tmp_path.iterdir()] == ["config.json"]
