"""Damage of a checkpoint as pure functions: what a file of it is replaced by, with right sums.

for name, change in hostile_states(state).items(): …     JSON objects
for name, change in hostile_tensors(tensors).items(): …  dicts of tensors
"""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

import patchpack.checkpoint as checkpoint

WRONG_VALUES = (None, True, -1, 0, 10**30, -0.5, 1e308, "x", "", [], {}, [[[]]], ["x", 1])


def leaves(data: Any, path: tuple = ()) -> Iterator[tuple]:
    """The paths of all values in a JSON object, objects and lists included."""
    items = data.items() if isinstance(data, dict) else enumerate(data)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, dict | list) and len(path) < 6:
            yield from leaves(value, (*path, key))


def replaced(data: Any, path: tuple, value: Any) -> Any:
    """A copy of a JSON object with one value replaced."""
    changed = copy.deepcopy(data)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return changed


def removed(data: Any, path: tuple) -> Any:
    changed = copy.deepcopy(data)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return changed


def hostile_objects(data: dict) -> dict[str, dict]:
    """Every value of a JSON object replaced by each wrong one, and left out; unknown keys."""
    cases = {"unknown key": data | {"unknown": 1}}
    for path in leaves(data):
        name = ".".join(map(str, path))
        cases[f"{name} left out"] = removed(data, path)
        for value in WRONG_VALUES:
            cases[f"{name} = {str(value)[:20]!r}"] = replaced(data, path, value)
    return cases


def hostile_tensors(tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Tensors of other names, shapes, types and values."""
    first = next(name for name, t in tensors.items() if t.ndim == 2)
    value = tensors[first]
    changes = {
        "NaN": torch.full_like(value, torch.nan),
        "one infinity": value.clone().index_fill_(0, torch.tensor([0]), torch.inf),
        "half": value.half(),
        "bfloat16": value.bfloat16(),
        "double": value.double(),
        "int8": value.to(torch.int8),
        "bool": value > 0,
        "flat": value.flatten(),
        "transposed": value.T.contiguous() if len(value) != len(value.T) else value[None],
        "a row more": torch.cat([value, value[:1]]),
        "empty": value[:0],
        "scalar": value.sum(),
        "large": torch.zeros(4096, 64),
    }
    cases = {name: tensors | {first: changed} for name, changed in changes.items()}
    cases["no tensors"] = {}
    cases["one missing"] = {name: t for name, t in tensors.items() if name != first}
    cases["one more"] = tensors | {"unknown.weight": torch.zeros(2)}
    cases["renamed"] = {f"{name}x" if name == first else name: t for name, t in tensors.items()}
    return cases


def replace_file(folder: Path, name: str, data: bytes) -> None:
    """Replace a file of a checkpoint, and its sum and length in the manifest."""
    (folder / name).write_bytes(data)
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"][name] = checkpoint._digest(folder / name)
    path.write_text(json.dumps(manifest))


def write_state(folder: Path, state: dict) -> None:
    replace_file(folder, "state.json", json.dumps(state).encode())


def write_tensors(folder: Path, file: str, tensors: dict[str, Tensor]) -> None:
    save_file(tensors, folder / f"{file}.safetensors")
    replace_file(folder, f"{file}.safetensors", (folder / f"{file}.safetensors").read_bytes())
