"""Damaged and malformed checkpoints raise with the file that is damaged; pickles never run."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import patchpack.checkpoint as checkpoint
from checkpoints import FILES, flip, save_checkpoint
from patchpack.checkpoint import CheckpointError, load, save


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


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
