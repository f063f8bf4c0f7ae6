"""The damage matrix: every file of a run and of its cache, damaged in every way, and what then
becomes of `predict`, `inspect` and `--resume`.

A case damages a copy of a run that was stopped half-way. Right is an answer with the bits of the
undamaged run. Files of a checkpoint are damaged with the sums of its manifest left, or made right.
"""

import json
import math
import os
import pickle
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

import patchpack.checkpoint as checkpoint
from faults.reference import (
    copy_run,
    verdict_of_inspect,
    verdict_of_predict,
    verdict_of_resume,
)
from faults.verdicts import Outcome
from patchpack.checkpoint import list_checkpoints

Apply = Callable[[Path], None]
VERDICTS = {
    "predict": verdict_of_predict, "resume": verdict_of_resume, "inspect": verdict_of_inspect,
}  # fmt: skip
HUGE = 1 << 40  # bytes of a sparse file


@dataclass(frozen=True)
class Case:
    """One damage, and the verb that meets it."""

    name: str
    verb: str
    target: str  # file, pattern relative to the folder of the case
    damage: Apply
    mend_sums: bool = False


def check_damage(number: int, folder: Path, reference: Path) -> Outcome:
    case = matrix(reference)[number]
    run = copy_run(reference, "half", folder)
    (path,) = folder.glob(case.target)
    case.damage(path)
    if case.mend_sums:
        mend_sums(path.parent)
    names = (path.name, str(run)) if case.verb != "inspect" else ()
    verdict, detail = VERDICTS[case.verb](run, reference, folder, names)
    return Outcome(f"{case.verb}: {case.name}", verdict, detail)


@cache
def matrix(reference: Path) -> tuple[Case, ...]:
    """All cases, in one order."""
    half = reference / "runs" / "half"
    cases: list[Case] = []
    for kind, verb in (("best", "predict"), ("last", "resume")):
        folder = list_checkpoints(half / "checkpoints", kind)[0]
        for file in sorted(folder.iterdir()):
            target = f"run/checkpoints/{folder.name}/{file.name}"
            other = next((reference / "runs" / "other").glob(f"checkpoints/{kind}-*/{file.name}"))
            cases += _bytes(target, verb, other)
            if file.name.endswith(".safetensors"):
                cases += _tensors(target, verb)
            elif file.name == checkpoint.STATE:
                cases += _values(target, verb, file, mend=True)
                cases += _replaced(target, verb, mend=True)
    for name, verb in (
        ("config.json", "resume"), ("log.jsonl", "resume"), ("operating_point.json", "predict"),
    ):  # fmt: skip
        cases += _bytes(f"run/{name}", verb, reference / "runs" / "other" / name)
        if name != "log.jsonl":
            cases += _values(f"run/{name}", verb, half / name)
    cases += _bytes("cache/patchpack/index/images-*.npz", "inspect", half / "config.json")
    return tuple(cases)


def mend_sums(folder: Path) -> None:
    """Make the sums of a checkpoint's manifest those of its files."""
    path = folder / checkpoint.MANIFEST
    manifest = json.loads(path.read_text())
    manifest["files"] = {name: checkpoint._digest(folder / name) for name in manifest["files"]}
    path.write_text(json.dumps(manifest))


def _bytes(target: str, verb: str, other: Path) -> Iterator[Case]:
    """Damages of any file: bits, lengths, other contents, and things that are no files."""
    for number, position in enumerate((0, 4, 9, 40, 0.25, 0.5, 0.75, -3, -1)):
        bit = (0, 5, 7)[number % 3]
        yield Case(f"{target}: bit {bit} of byte {position} flipped", verb, target,
                   partial(_flip, position=position, bit=bit))  # fmt: skip
    for share in (0, 1, 0.5, -1):
        yield Case(f"{target}: cut to {share}", verb, target, partial(_cut, at=share))
    yield from _replaced(target, verb, mend=False)
    things: dict[str, Apply] = {
        "gone": Path.unlink,
        "that of another run": lambda path: _write(path, other.read_bytes()),
        "another of its folder": _swap,
        "300 NULs appended": lambda path: _write(path, path.read_bytes() + bytes(300) + b"\n"),
        "link to /dev/zero": partial(_link, to="/dev/zero"),
        "link to nothing": partial(_link, to="/absent/file"),
        "link to itself": lambda path: _link(path, str(path)),
        "link to a folder": partial(_link, to="/tmp"),
        "link to its copy": _link_to_copy,
        "pipe": lambda path: (path.unlink(), os.mkfifo(path)),
        "socket": _socket,
        "folder": lambda path: (path.unlink(), path.mkdir()),
        "1 TiB of zeros": _huge,
    }
    for name, damage in things.items():
        yield Case(f"{target}: {name}", verb, target, damage)


CONTENTS = {
    "pickle": pickle.dumps({"a": 1}), "number": b"5", "null": b"null", "list": b"[]",
    "empty object": b"{}", "text": b'"x"', "NaN": b"NaN", "nested deeply": b"[" * 200_000,
    "not UTF-8": b"\xff\xfe\x00{", "HTML": b"<!DOCTYPE html><html>404</html>",
}  # fmt: skip


def _replaced(target: str, verb: str, *, mend: bool) -> Iterator[Case]:
    for name, content in CONTENTS.items():
        yield Case(f"{target}: {name}{', sums right' if mend else ''}", verb, target,
                   partial(_write, data=content), mend)  # fmt: skip


WRONG = (None, -1, 2**63, math.nan, math.inf, "x", [], {}, True, "gone")


def _values(target: str, verb: str, file: Path, *, mend: bool = False) -> Iterator[Case]:
    """Every value of a JSON file, replaced by two that it should not be, others for each."""
    for number, (path, value) in enumerate(_leaves(json.loads(file.read_text()))):
        wrongs = [WRONG[(number + turn) % len(WRONG)] for turn in (0, 6)]
        for wrong in wrongs:
            if wrong == value and type(wrong) is type(value):
                continue
            label = ".".join(map(str, path))
            yield Case(f"{target}: {label} is {wrong!r}", verb, target,
                       partial(_put, keys=path, value=wrong), mend)  # fmt: skip


def _leaves(value: Any, path: tuple = ()) -> Iterator[tuple[tuple, Any]]:
    items = list(value.items() if isinstance(value, dict) else enumerate(value or ()))
    for key, item in items[:40]:
        nested = isinstance(item, dict | list)
        yield (*path, key), item
        if nested and item:
            yield from _leaves(item, (*path, key))


def _tensors(target: str, verb: str) -> Iterator[Case]:
    """Hostile tensors in a file whose sums are right."""
    changes: dict[str, Callable[[dict], None]] = {
        "NaN": lambda t: t[_largest(t)].view(-1)[0].fill_(math.nan),
        "infinity": lambda t: t[_largest(t)].view(-1)[-1].fill_(math.inf),
        "all NaN": lambda t: [v.fill_(math.nan) for v in t.values() if v.is_floating_point()],
        "float64": lambda t: t.update({k: v.double() for k, v in t.items()}),
        "bfloat16": lambda t: t.update({k: v.bfloat16() for k, v in t.items()}),
        "int64": lambda t: t.update({k: v.long() for k, v in t.items()}),
        "one of int8": lambda t: t.update({_largest(t): t[_largest(t)].to(torch.int8)}),
        "one transposed": lambda t: t.update({_largest(t): t[_largest(t)].T.contiguous()}),
        "one flattened": lambda t: t.update({_largest(t): t[_largest(t)].reshape(-1)}),
        "one scalar": lambda t: t.update({_largest(t): torch.tensor(1.0)}),
        "one without elements": lambda t: t.update({_largest(t): torch.zeros(0)}),
        "one gone": lambda t: t.pop(_largest(t)),
        "one more": lambda t: t.update({"extra/weight": torch.ones(3)}),
        "one renamed": lambda t: t.update({"other": t.pop(_largest(t))}),
        "names escaped": lambda t: t.update({"\x1b[31m\n": t.pop(_largest(t))}),
        "negative": lambda t: t.update({k: -v.abs() - 1 for k, v in t.items()}
                                       if "exp_avg_sq" in " ".join(t) else {"x": torch.ones(1)}),
        "none": lambda t: t.clear(),
    }  # fmt: skip
    for name, change in changes.items():
        yield Case(f"{target}: {name}, sums right", verb, target,
                   partial(_change_tensors, change=change), True)  # fmt: skip
    for position in (0, 4, 9, 40):  # lengths and the JSON of the header
        yield Case(f"{target}: byte {position} flipped, sums right", verb, target,
                   partial(_flip, position=position, bit=2), True)  # fmt: skip
    for share in (0, 1, 0.5, -1):
        yield Case(f"{target}: cut to {share}, sums right", verb, target,
                   partial(_cut, at=share), True)  # fmt: skip
    yield from _replaced(target, verb, mend=True)


def _largest(tensors: dict[str, torch.Tensor]) -> str:
    return max(tensors, key=lambda name: (tensors[name].ndim == 2, tensors[name].numel(), name))


def _change_tensors(path: Path, change: Callable[[dict], None]) -> None:
    tensors = load_file(path)
    if tensors:
        change(tensors)
    save_file(tensors, path)


def _put(path: Path, keys: tuple, value: object) -> None:
    """Replace one value of a JSON file; "gone" removes it."""
    data = json.loads(path.read_text())
    holder = data
    for key in keys[:-1]:
        holder = holder[key]
    if value == "gone":
        del holder[keys[-1]]
    else:
        holder[keys[-1]] = value
    path.write_text(json.dumps(data))


def _flip(path: Path, position: float, bit: int) -> None:
    data = bytearray(path.read_bytes())
    at = int(position * len(data)) if isinstance(position, float) else position
    data[min(at, len(data) - 1)] ^= 1 << bit
    path.write_bytes(data)


def _cut(path: Path, at: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(at * len(data)) if isinstance(at, float) else at])


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _swap(path: Path) -> None:
    files = [p for p in sorted(path.parent.iterdir()) if p.is_file() and p != path]
    if files:
        path.write_bytes(files[0].read_bytes())
    else:
        path.unlink()


def _link(path: Path, to: str) -> None:
    path.unlink()
    path.symlink_to(to)


def _link_to_copy(path: Path) -> None:
    kept = next(p for p in path.parents if p.name in ("run", "cache")).parent / "kept"
    os.replace(path, kept)
    path.symlink_to(kept)


def _socket(path: Path) -> None:
    path.unlink()
    before = os.getcwd()
    os.chdir(path.parent)  # names of sockets are short
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(before)


def _huge(path: Path) -> None:
    path.unlink()
    with path.open("wb") as file:
        file.truncate(HUGE)
