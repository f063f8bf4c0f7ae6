"""A checkpoint comes back bit for bit or not at all, and nothing spoils the one before it."""

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


def save_one(parent: Path, step: int = 7, keep: int = 1, value: float = 1.0) -> Path:
    model = {"weight": torch.full((3, 2), value), "bias": torch.arange(5)}
    tensors = {"model": model, "other": {"x": torch.ones(2)}}
    return save(parent, "last", step, tensors=tensors, state={"step": step}, keep=keep)


def same(a: Tensor, b: Tensor) -> bool:
    """Equal in kind and in every bit."""
    same_kind = a.dtype == b.dtype and a.shape == b.shape
    return same_kind and a.contiguous().view(-1).view(torch.uint8).equal(
        b.contiguous().view(-1).view(torch.uint8)
    )


# Round trip


def test_every_bit_comes_back(tmp_path):
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
    found = load(folder)
    assert (found.folder, found.step, found.state) == (folder, 12, state)
    assert found.tensors.keys() == {"model"} and found.tensors["model"].keys() == named.keys()
    for name, tensor in named.items():
        assert same(found.tensors["model"][name], tensor.detach()), name


def test_files_can_be_read_by_whom_the_umask_lets(tmp_path):
    before = os.umask(0o022)
    try:
        folder = save_one(tmp_path)
    finally:
        os.umask(before)
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()} == dict.fromkeys(
        FILES, 0o644
    )


def test_loads_onto_a_device(tmp_path):
    assert load(save_one(tmp_path), device="meta").tensors["model"]["weight"].is_meta


def test_a_name_that_safetensors_would_lose_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="__metadata__"):
        save(tmp_path, "last", 1, tensors={"m": {"__metadata__": torch.ones(1)}}, state={})
    assert not list(tmp_path.iterdir())


def test_a_state_that_is_not_json_leaves_nothing(tmp_path):
    with pytest.raises(TypeError):
        save(tmp_path, "last", 1, tensors={}, state={"x": object()})
    assert not list(tmp_path.iterdir())


# Which are kept


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_are_kept(tmp_path, keep):
    for step in (5, 10, 99_999_999, 100_000_000):
        save_one(tmp_path, step, keep)
    steps = [100_000_000, 99_999_999, 10, 5][:keep]
    assert [load(folder).step for folder in list_checkpoints(tmp_path, "last")] == steps
    assert len(list(tmp_path.iterdir())) == keep


def test_keeping_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match="keep must be at least 1, not 0"):
        save_one(tmp_path, keep=0)


def test_other_names_are_left_alone(tmp_path):
    others = [tmp_path / name for name in ("best-00000001", "last-ema-00000001", "last-1", "x")]
    for other in others:
        other.mkdir()
    (tmp_path / ".tmp-notes").mkdir()
    save_one(tmp_path, 3)
    assert all(other.is_dir() for other in [*others, tmp_path / ".tmp-notes"])


def test_a_step_saved_again_replaces_the_first(tmp_path):
    save_one(tmp_path, 5, value=1.0)
    save_one(tmp_path, 5, value=2.0)
    assert load_newest(tmp_path, "last").tensors["model"]["weight"].unique().tolist() == [2.0]
    assert len(list(tmp_path.iterdir())) == 1


def test_a_run_that_went_back_drops_what_it_left_ahead(tmp_path):
    save_one(tmp_path, 400)
    damaged = save_one(tmp_path, 800, keep=2)
    (damaged / "state.json").write_text("{}")
    save_one(tmp_path, 600)
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


def foreign(path: Path) -> None:
    path.write_text('{"format": "something else", "version": 1, "step": 1, "files": {}}')


def deep(path: Path) -> None:
    path.write_text("[" * 200_000)


DAMAGE = [
    (file, damage)
    for file in FILES
    for damage in (truncate, flip, zero, Path.unlink, lambda path: path.write_bytes(b""))
] + [("manifest.json", damage) for damage in (garbage, foreign, deep)]


@pytest.mark.parametrize(("file", "damage"), DAMAGE)
def test_damage_is_found_and_named(tmp_path, file: str, damage: Callable[[Path], None]):
    folder = save_one(tmp_path)
    damage(folder / file)
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    assert file in str(caught.value) and str(folder) in str(caught.value)


def test_every_bit_of_the_tensors_is_checked(tmp_path):
    folder = save(tmp_path, "last", 1, tensors={"m": {"a": torch.ones(2)}}, state={})
    path = folder / "m.safetensors"
    good = path.read_bytes()
    for place in range(len(good)):
        path.write_bytes(good[:place] + bytes([good[place] ^ 128]) + good[place + 1 :])
        with pytest.raises(CheckpointError, match=r"m\.safetensors is damaged"):
            load(folder)


@pytest.mark.parametrize("name", ["extra.safetensors", "model.pkl", ".hidden"])
def test_a_file_too_many_is_named(tmp_path, name):
    folder = save_one(tmp_path)
    (folder / name).write_bytes(b"x")
    with pytest.raises(CheckpointError, match=name):
        load(folder)


def test_what_is_no_checkpoint_is_called_so(tmp_path):
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
def test_a_manifest_that_points_elsewhere_is_refused(tmp_path, name):
    (tmp_path / "secret.safetensors").write_bytes(b"secret")
    folder = save_one(tmp_path)
    target = checkpoint._digest(tmp_path / "secret.safetensors")
    files = json.loads((folder / "manifest.json").read_text())["files"]
    rewrite_manifest(folder, files={**files, name: target})
    with pytest.raises(CheckpointError, match="cannot be a file of one") as caught:
        load(folder)
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "is of .*2.*, not of .*1"),
        ({"step": "7"}, "has no step or no files"),
        ({"step": True}, "has no step or no files"),
        ({"files": list(FILES)}, "has no step or no files"),
        ({"files": {}}, "model.safetensors is no part of the checkpoint"),
        ({"files": dict.fromkeys(FILES[1:])}, "model.safetensors is damaged"),
        ({"files": {"\0.safetensors": None} | dict.fromkeys(FILES[1:])}, "embedded null"),
    ],
)
def test_a_manifest_that_says_nonsense_is_refused(tmp_path, changes, message):
    folder = save_one(tmp_path)
    rewrite_manifest(folder, **changes)
    with pytest.raises(CheckpointError, match=message):
        load(folder)


def replace_file(folder: Path, name: str, data: bytes) -> None:
    """Swap a file for another, and let the manifest vouch for it."""
    (folder / name).write_bytes(data)
    files = json.loads((folder / "manifest.json").read_text())["files"]
    rewrite_manifest(folder, files={**files, name: checkpoint._digest(folder / name)})


def with_header(header: bytes, size: int | None = None) -> bytes:
    return (len(header) if size is None else size).to_bytes(8, "little") + header


HOSTILE = {
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


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_tensors_are_refused(tmp_path, data):
    folder = save_one(tmp_path)
    replace_file(folder, "model.safetensors", data)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        load(folder)


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff", b"[" * 200_000])
def test_hostile_state_is_refused(tmp_path, data):
    folder = save_one(tmp_path)
    replace_file(folder, "state.json", data)
    with pytest.raises(CheckpointError, match=r"state\.json is damaged"):
        load(folder)


class Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def test_a_pickle_is_never_run(tmp_path):
    marker = tmp_path / "marker"
    folder = save_one(tmp_path)
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
    assert marker.exists(), "the bomb would not have gone off anyway"


# Walking back


def test_the_newest_good_one_is_loaded(tmp_path):
    for step in (1, 2, 3):
        save_one(tmp_path, step, keep=3)
    assert load_newest(tmp_path, "last").step == 3
    flip(tmp_path / "last-00000003" / "model.safetensors")
    (tmp_path / "last-00000002" / "state.json").unlink()
    with pytest.warns(UserWarning) as warned:
        assert load_newest(tmp_path, "last").step == 1
    first, second = (str(warning.message) for warning in warned)
    assert "last-00000003/model.safetensors" in first and "last-00000002/state.json" in second


def test_where_none_is_good_all_are_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"holds no good checkpoint 'last'$"):
        load_newest(tmp_path / "absent", "last")
    folder = save_one(tmp_path)
    flip(folder / "state.json")
    with (
        pytest.warns(UserWarning, match="state.json"),
        pytest.raises(CheckpointError, match=r"no good checkpoint 'last': .*state.json"),
    ):
        load_newest(tmp_path, "last")


# Failures and crashes


@pytest.mark.parametrize("call", range(5))
def test_a_full_disk_spares_the_last_good_one(tmp_path, monkeypatch, call):
    """The disk is full at each sync in turn: three files, the manifest, the folder."""
    save_one(tmp_path, 400)
    real, calls = os.fsync, []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == call + 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError) as caught:
        save_one(tmp_path, 800)
    assert str(caught.value) == (
        f"could not save {tmp_path}/last-00000800: No space left on device; "
        f"the last good checkpoint is {tmp_path}/last-00000400"
    )
    assert isinstance(caught.value.__cause__, OSError)
    assert [path.name for path in tmp_path.iterdir()] == ["last-00000400"]
    assert load_newest(tmp_path, "last").step == 400


def test_a_file_too_large_for_the_system_spares_the_last_good_one(tmp_path):
    resource = pytest.importorskip("resource")
    save_one(tmp_path, 1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(CheckpointError, match=r"could not save .*File too large.*00000001$"):
            tensors = {"model": {"large": torch.ones(1_000_000)}}
            save(tmp_path, "last", 2, tensors=tensors, state={})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in tmp_path.iterdir()] == ["last-00000001"]


def test_a_parent_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CheckpointError, match=r"^could not save .*: (Not a dir|File exists)"):
        save_one(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


CRASH = """
import os, sys
from pathlib import Path
import torch
import patchpack.checkpoint as checkpoint

where, parent = sys.argv[1], Path(sys.argv[2])
owner = os if where == "rename" else checkpoint
real, calls = getattr(owner, where), []

def dies(*arguments):
    calls.append(arguments)
    if len(calls) == int(sys.argv[3]):
        os._exit(9)
    return real(*arguments)

setattr(owner, where, dies)
tensors = {"model": {"x": torch.zeros(2)}, "optimizer": {"x": torch.zeros(2)}}
checkpoint.save(parent, "last", 2, tensors=tensors, state={})
"""


@pytest.mark.parametrize(("where", "call"), [("save_file", 2), ("rename", 1)])
def test_a_killed_save_leaves_no_checkpoint(tmp_path, where, call):
    save_one(tmp_path, 1)
    process = subprocess.run([sys.executable, "-c", CRASH, where, str(tmp_path), str(call)])
    assert process.returncode == 9
    half = [path for path in tmp_path.iterdir() if path.name.startswith(".tmp-last-00000002-")]
    assert len(half) == 1 and any(half[0].iterdir())
    assert load_newest(tmp_path, "last").step == 1
    save_one(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["last-00000002"]


def test_a_leftover_of_this_very_process_number_is_no_obstacle(tmp_path):
    save_one(tmp_path, value=1.0)
    for kind in ("", "old-"):
        leftover = tmp_path / f".tmp-{kind}last-00000007-{os.getpid()}"
        leftover.mkdir()
        (leftover / "junk").write_text("x")
    folder = save_one(tmp_path, value=2.0)
    assert load(folder).tensors["model"]["weight"].unique().tolist() == [2.0]
    assert list(tmp_path.iterdir()) == [folder]


def test_what_is_published_is_on_the_disk(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    folder = save_one(tmp_path)
    *files, of_folder, of_parent = synced
    assert sorted(files) == sorted(path.stat().st_ino for path in folder.iterdir())
    assert files[-1] == (folder / "manifest.json").stat().st_ino
    assert (of_folder, of_parent) == (folder.stat().st_ino, tmp_path.stat().st_ino)


def test_nothing_old_goes_before_the_new_is_in_place(tmp_path, monkeypatch):
    save_one(tmp_path, 1)
    monkeypatch.setattr(checkpoint, "_prune", lambda *_: None)
    save_one(tmp_path, 2)
    assert [path.name for path in list_checkpoints(tmp_path, "last")] == [
        "last-00000002",
        "last-00000001",
    ]


# Into a module


def test_a_module_takes_all_or_nothing():
    module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    wanted = {name: torch.randn_like(value) for name, value in before.items()}
    wrong = {**wanted, "0.weight": torch.zeros(3, 5), "2.bias": torch.zeros(1)}
    del wrong["1.bias"]
    with pytest.raises(CheckpointError) as caught:
        load_into(module, wrong, "run/best")
    assert str(caught.value) == (
        "run/best is of another model: 1 missing (1.bias); 1 unexpected (2.bias); "
        "1 of another shape (0.weight: [3, 5] for [3, 2])"
    )
    assert all(same(value, before[name]) for name, value in module.state_dict().items())
    load_into(module, wanted, "run/best")
    assert all(same(value, wanted[name]) for name, value in module.state_dict().items())


def test_of_many_mismatches_the_first_are_named():
    many = {f"x{i}": torch.ones(1) for i in range(9)}
    with pytest.raises(CheckpointError, match=r"9 unexpected \(x0, x1, x2, x3, x4, …\)$"):
        load_into(nn.Module(), many, "run")


# Optimizers


def make_training(fused: bool) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A model whose last layer is never trained on, in two groups out of order."""
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
def test_training_goes_on_bit_for_bit(tmp_path, fused):
    module, optimizer = make_training(fused)
    train(module, optimizer, range(5))
    flat = flatten_optimizer(optimizer, module.named_parameters())
    assert flat.keys() == {
        f"{what}/{name}"
        for what in ("step", "exp_avg", "exp_avg_sq")
        for name in ("0.weight", "0.bias", "1.weight", "1.bias")
    }
    tensors = {"model": module.state_dict(), "optimizer": flat}
    folder = save(tmp_path, "last", 5, tensors=tensors, state={})
    kept = {key: value.clone() for key, value in flat.items()}
    train(module, optimizer, range(5, 9))

    again, restored = make_training(fused)
    train(again, restored, range(20, 22))  # whatever was there goes
    found = load(folder).tensors
    load_into(again, found["model"], "run")
    restore_optimizer(restored, again.named_parameters(), found["optimizer"])
    now = flatten_optimizer(restored, again.named_parameters())
    assert now.keys() == kept.keys() and all(same(now[key], kept[key]) for key in kept)
    train(again, restored, range(5, 9))
    assert all(same(found["optimizer"][key], kept[key]) for key in kept), "not a copy"
    for ours, undisturbed in zip(again.parameters(), module.parameters(), strict=True):
        assert same(ours, undisturbed)
    assert [group["weight_decay"] for group in restored.param_groups] == [0.0, 0.1]


def test_an_optimizer_that_never_stepped_becomes_so_again():
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
def test_an_optimizer_takes_all_or_nothing(change, message):
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


# Texts


def test_a_text_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
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
