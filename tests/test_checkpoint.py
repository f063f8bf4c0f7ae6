"""Checkpoints load bit for bit or raise, and a failed save keeps the previous one."""

import errno
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import patchpack.checkpoint as checkpoint
from patchpack.checkpoint import (
    CheckpointError,
    flatten_optimizer,
    list_checkpoints,
    load,
    load_into,
    load_newest,
    restore_optimizer,
    save,
    write_text_atomic,
)

FILES = ("manifest.json", "model.safetensors", "other.safetensors", "state.json")


def save_checkpoint(parent: Path, step: int = 7, keep: int = 1, value: float = 1.0) -> Path:
    model = {"weight": torch.full((3, 2), value), "bias": torch.arange(5)}
    tensors = {"model": model, "other": {"x": torch.ones(2)}}
    return save(parent, "last", step, tensors=tensors, state={"step": step}, keep=keep)


def same(a: Tensor, b: Tensor) -> bool:
    """Equal in dtype, shape and every bit."""
    same_type = a.dtype == b.dtype and a.shape == b.shape
    return same_type and a.contiguous().view(-1).view(torch.uint8).equal(
        b.contiguous().view(-1).view(torch.uint8)
    )


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


# Damage


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def garbage(path: Path) -> None:
    path.write_bytes(b"\xff\xfe not json")


def other_format(path: Path) -> None:
    path.write_text('{"format": "something else", "version": 1, "step": 1, "files": {}}')


def deep(path: Path) -> None:
    path.write_text("[" * 200_000)


DAMAGE = [
    (file, damage)
    for file in FILES
    for damage in (truncate, flip, zero, Path.unlink, lambda path: path.write_bytes(b""))
] + [("manifest.json", damage) for damage in (garbage, other_format, deep)]


@pytest.mark.parametrize(("file", "damage"), DAMAGE)
def test_damage_is_detected_with_its_file(tmp_path, file: str, damage: Callable[[Path], None]):
    folder = save_checkpoint(tmp_path)
    damage(folder / file)
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    assert file in str(caught.value) and str(folder) in str(caught.value)


def test_every_bit_of_the_tensors_is_checked(tmp_path):
    folder = save(tmp_path, "last", 1, tensors={"m": {"a": torch.ones(2)}}, state={})
    path = folder / "m.safetensors"
    good = path.read_bytes()
    for index in range(len(good)):
        path.write_bytes(good[:index] + bytes([good[index] ^ 128]) + good[index + 1 :])
        with pytest.raises(CheckpointError, match=r"m\.safetensors is damaged"):
            load(folder)


@pytest.mark.parametrize("name", ["extra.safetensors", "model.pkl", ".hidden"])
def test_an_extra_file_is_rejected_by_name(tmp_path, name):
    folder = save_checkpoint(tmp_path)
    (folder / name).write_bytes(b"x")
    with pytest.raises(CheckpointError, match=name):
        load(folder)


def test_other_folders_are_not_a_patchpack_checkpoint(tmp_path):
    file = tmp_path / "file"
    file.write_text("x")
    for path in (tmp_path, tmp_path / "absent", file):
        with pytest.raises(CheckpointError, match=f"^{path} is not a patchpack checkpoint"):
            load(path)


def rewrite_manifest(folder: Path, **changes: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    "name", ["../secret.safetensors", "/etc/passwd", "..", "a/b.safetensors", "x.pt", "", "."]
)
def test_a_manifest_with_outside_paths_is_rejected(tmp_path, name):
    (tmp_path / "secret.safetensors").write_bytes(b"secret")
    folder = save_checkpoint(tmp_path)
    target = checkpoint._digest(tmp_path / "secret.safetensors")
    files = json.loads((folder / "manifest.json").read_text())["files"]
    rewrite_manifest(folder, files={**files, name: target})
    with pytest.raises(CheckpointError, match="invalid file name") as caught:
        load(folder)
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "has format .*2.*, not .*1"),
        ({"step": "7"}, "has no step or no files"),
        ({"step": True}, "has no step or no files"),
        ({"files": list(FILES)}, "has no step or no files"),
        ({"files": {}}, "model.safetensors is not part of the checkpoint"),
        ({"files": dict.fromkeys(FILES[1:])}, "model.safetensors is damaged"),
        ({"files": {"\0.safetensors": None} | dict.fromkeys(FILES[1:])}, "embedded null"),
    ],
)
def test_an_invalid_manifest_is_rejected(tmp_path, changes, message):
    folder = save_checkpoint(tmp_path)
    rewrite_manifest(folder, **changes)
    with pytest.raises(CheckpointError, match=message):
        load(folder)


def replace_file(folder: Path, name: str, data: bytes) -> None:
    """Replace a file and its digest in the manifest."""
    (folder / name).write_bytes(data)
    files = json.loads((folder / "manifest.json").read_text())["files"]
    rewrite_manifest(folder, files={**files, name: checkpoint._digest(folder / name)})


def with_header(header: bytes, size: int | None = None) -> bytes:
    return (len(header) if size is None else size).to_bytes(8, "little") + header


MALFORMED = {
    "nothing": b"",
    "huge header": with_header(b"{}", 2**62),
    "long header": with_header(b"{}", 100),
    "overlap": with_header(
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
        b'"b":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}}'
    )
    + bytes(6),
    "overflow": with_header(b'{"a":{"dtype":"F32","shape":[0,9223372036854775808],'
                            b'"data_offsets":[0,0]}}'),
    "deep": with_header(b"[" * 100_000),
}  # fmt: skip


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_tensors_are_rejected(tmp_path, data):
    folder = save_checkpoint(tmp_path)
    replace_file(folder, "model.safetensors", data)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        load(folder)


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff", b"[" * 200_000])
def test_malformed_state_is_rejected(tmp_path, data):
    folder = save_checkpoint(tmp_path)
    replace_file(folder, "state.json", data)
    with pytest.raises(CheckpointError, match=r"state\.json is damaged"):
        load(folder)


class Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def test_a_pickle_is_never_loaded(tmp_path):
    marker = tmp_path / "marker"
    folder = save_checkpoint(tmp_path)
    for data in (pickle.dumps(Bomb(marker)), with_header(pickle.dumps(Bomb(marker)))):
        replace_file(folder, "model.safetensors", data)
        with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
            load(folder)
    torch.save(Bomb(marker), folder / "model.safetensors")
    replace_file(folder, "model.safetensors", (folder / "model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        load(folder)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Bomb(marker)))
    assert marker.exists(), "the pickle has no side effect"


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
        pytest.warns(UserWarning, match="state.json"),
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


# Modules


def test_load_into_copies_all_or_nothing():
    module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    expected = {name: torch.randn_like(value) for name, value in before.items()}
    wrong = {**expected, "0.weight": torch.zeros(3, 5), "2.bias": torch.zeros(1)}
    del wrong["1.bias"]
    with pytest.raises(CheckpointError) as caught:
        load_into(module, wrong, "run/best")
    assert str(caught.value) == (
        "run/best does not fit the model: 1 missing (1.bias); 1 unexpected (2.bias); "
        "1 of another shape (0.weight: [3, 5] for [3, 2])"
    )
    assert all(same(value, before[name]) for name, value in module.state_dict().items())
    load_into(module, expected, "run/best")
    assert all(same(value, expected[name]) for name, value in module.state_dict().items())


def test_the_error_lists_the_first_mismatches():
    tensors = {f"x{i}": torch.ones(1) for i in range(9)}
    with pytest.raises(CheckpointError, match=r"9 unexpected \(x0, x1, x2, x3, x4, …\)$"):
        load_into(nn.Module(), tensors, "run")


# Optimizers


def make_training(fused: bool) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A model whose last layer gets no gradient, and an optimizer with two groups out of order."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2), nn.Linear(2, 2))
    body, rest = [], []
    for parameter in module.parameters():
        (body if parameter.ndim == 2 else rest).append(parameter)
    groups = [{"params": rest, "weight_decay": 0.0}, {"params": body, "weight_decay": 0.1}]
    return module, torch.optim.AdamW(groups, lr=0.01, fused=fused)


def train(module: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        optimizer.zero_grad()
        module[:2](torch.randn(5, 4, generator=generator)).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("fused", [True, False])
def test_training_resumes_bit_for_bit(tmp_path, fused):
    module, optimizer = make_training(fused)
    train(module, optimizer, range(5))
    flat = flatten_optimizer(optimizer, module.named_parameters())
    assert flat.keys() == {
        f"{key}/{name}"
        for key in ("step", "exp_avg", "exp_avg_sq")
        for name in ("0.weight", "0.bias", "1.weight", "1.bias")
    }
    tensors = {"model": module.state_dict(), "optimizer": flat}
    folder = save(tmp_path, "last", 5, tensors=tensors, state={})
    kept = {key: value.clone() for key, value in flat.items()}
    train(module, optimizer, range(5, 9))

    resumed, restored = make_training(fused)
    train(resumed, restored, range(20, 22))  # replaced by the load
    loaded = load(folder).tensors
    load_into(resumed, loaded["model"], "run")
    restore_optimizer(restored, resumed.named_parameters(), loaded["optimizer"])
    now = flatten_optimizer(restored, resumed.named_parameters())
    assert now.keys() == kept.keys() and all(same(now[key], kept[key]) for key in kept)
    train(resumed, restored, range(5, 9))
    assert all(same(loaded["optimizer"][key], kept[key]) for key in kept), "not a copy"
    for parameter, uninterrupted in zip(resumed.parameters(), module.parameters(), strict=True):
        assert same(parameter, uninterrupted)
    assert [group["weight_decay"] for group in restored.param_groups] == [0.0, 0.1]


def test_an_optimizer_without_steps_is_restored_without_state():
    module, optimizer = make_training(fused=True)
    fresh = flatten_optimizer(optimizer, module.named_parameters())
    assert fresh == {}
    train(module, optimizer, range(2))
    restore_optimizer(optimizer, module.named_parameters(), fresh)
    assert flatten_optimizer(optimizer, module.named_parameters()) == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"exp_avg/3.weight": torch.ones(2)}, "exp_avg/3.weight belongs to no parameter"),
        ({"nonsense": torch.ones(2)}, "nonsense belongs to no parameter"),
        ({"exp_avg/0.weight": torch.ones(8, 5)}, r"exp_avg/0.weight has shape \[8, 5\], not"),
        ({"exp_avg/0.weight": None}, "lacks exp_avg/0.weight$"),
    ],
)
def test_an_optimizer_is_restored_completely_or_not_at_all(change, message):
    module, optimizer = make_training(fused=True)
    train(module, optimizer, range(2))
    before = {
        key: value.clone()
        for key, value in flatten_optimizer(optimizer, module.named_parameters()).items()
    }
    wrong = {key: torch.zeros_like(value) for key, value in before.items()} | change
    wrong = {key: value for key, value in wrong.items() if value is not None}
    with pytest.raises(CheckpointError, match=message):
        restore_optimizer(optimizer, module.named_parameters(), wrong)
    now = flatten_optimizer(optimizer, module.named_parameters())
    assert all(same(now[key], before[key]) for key in before)


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
