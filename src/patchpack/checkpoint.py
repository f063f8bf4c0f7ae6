"""Checkpoints: safetensors and JSON in a folder that appears whole or not at all.

    last-00000500/
      model.safetensors …      one file per set of tensors
      state.json               plain JSON
      manifest.json            format, and the SHA-256 and length of every other file

Files are written to a `.tmp-` folder beside it, synced, and renamed into place; what is old goes
only after that, so neither a crash nor a full disk touches the last good checkpoint. Loading
verifies the manifest first. No file is ever unpickled.

Traps: a parent folder has one writer, which clears away what it finds half-written there, and what
is of a later step than its own. A step saved again replaces the first in two renames, not in one.
"""

import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from patchpack import old_names
from patchpack.old_names import current_tensor

FORMAT = "patchpack checkpoint"
VERSION = 1
MANIFEST = "manifest.json"
STATE = "state.json"
TENSORS = ".safetensors"
HALF_WRITTEN = re.compile(r"\.tmp-.+-\d{8,}-\d+")

Named = Iterable[tuple[str, nn.Parameter]]  # as from Module.named_parameters


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, foreign, or could not be written."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a verified checkpoint holds."""

    folder: Path
    step: int
    tensors: dict[str, dict[str, Tensor]]  # by file, then by name
    state: dict[str, Any]


def save(
    parent: Path,
    name: str,
    step: int,
    *,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    keep: int = 1,
) -> Path:
    """Publish a checkpoint as `<parent>/<name>-<step>`, then keep only the `keep` newest.

    Raises CheckpointError where it cannot be written; those written before are untouched.
    """
    if keep < 1:
        raise ValueError(f"keep must be at least 1, not {keep}")
    final = parent / f"{name}-{step:08d}"
    temporary = parent / f".tmp-{final.name}-{os.getpid()}"
    replaced = parent / f".tmp-old-{final.name}-{os.getpid()}"
    try:
        shutil.rmtree(temporary, ignore_errors=True)  # of a killed process that had this pid
        shutil.rmtree(replaced, ignore_errors=True)
        temporary.mkdir(parents=True)
        _write(temporary, step, tensors, state)
        if final.exists():
            os.rename(final, replaced)
        os.rename(temporary, final)
        _sync(parent)
    except (OSError, SafetensorError) as error:
        good = list_checkpoints(parent, name)
        last = f"; the last good checkpoint is {good[0]}" if good else ""
        raise CheckpointError(f"could not save {final}: {_why(error)}{last}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _prune(parent, name, step, keep)
    return final


def list_checkpoints(parent: Path, name: str) -> list[Path]:
    """Checkpoints of this name, newest first; they are not verified yet."""
    return [folder for _, folder in _numbered(parent, name) if (folder / MANIFEST).is_file()]


def load(folder: Path, *, device: str | torch.device = "cpu") -> Checkpoint:
    """Verify and read one checkpoint; raises CheckpointError naming the file that is wrong."""
    manifest = _verify(folder)
    tensors = {}
    for file in sorted(set(manifest["files"]) - {STATE}):
        try:
            found = load_file(folder / file)
        except Exception as error:  # hostile headers raise TypeError and more, not only its own
            raise _damaged(folder / file, error) from error
        tensors[file.removesuffix(TENSORS)] = {
            current_tensor(name): value.to(device) for name, value in found.items()
        }
    try:
        read = _read_object(folder / STATE)
        state = {old_names.STATE.get(key, key): value for key, value in read.items()}
    except (OSError, ValueError) as error:
        raise _damaged(folder / STATE, error) from error
    return Checkpoint(folder=folder, step=manifest["step"], tensors=tensors, state=state)


def load_newest(parent: Path, name: str) -> Checkpoint:
    """The newest checkpoint that verifies; warns of damaged ones that it passes over."""
    problems = []
    for folder in list_checkpoints(parent, name):
        try:
            return load(folder)
        except CheckpointError as error:
            warnings.warn(f"passing over a checkpoint: {error}", stacklevel=2)
            problems.append(str(error))
    why = f": {'; '.join(problems)}" if problems else ""
    raise CheckpointError(f"{parent} holds no good checkpoint {name!r}{why}")


def load_into(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Copy tensors into a module, all of them or none; the error names those that do not match."""
    own = module.state_dict()
    wrong = {
        "missing": [name for name in own if name not in tensors],
        "unexpected": [name for name in tensors if name not in own],
        "of another shape": [
            f"{name}: {list(tensors[name].shape)} for {list(value.shape)}"
            for name, value in own.items()
            if name in tensors and tensors[name].shape != value.shape
        ],
    }
    problems = [
        f"{len(names)} {what} ({', '.join(names[:5])}{', …' if len(names) > 5 else ''})"
        for what, names in wrong.items()
        if names
    ]
    if problems:
        raise CheckpointError(f"{source} is of another model: {'; '.join(problems)}")
    module.load_state_dict(dict(tensors))


def flatten_optimizer(optimizer: Optimizer, named: Named) -> dict[str, Tensor]:
    """The optimizer's state as `<what>/<parameter>` → tensor; its groups follow from the config."""
    names = list(_by_name(optimizer, named))
    return {
        f"{what}/{names[number]}": value
        for number, state in optimizer.state_dict()["state"].items()
        for what, value in state.items()
    }


def restore_optimizer(optimizer: Optimizer, named: Named, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `flatten_optimizer` took, bit for bit; all of it or nothing.

    A parameter of which nothing was kept had never been stepped, and becomes so again.
    """
    parameters = _by_name(optimizer, named)
    states: dict[str, dict[str, Tensor]] = {name: {} for name in parameters}
    for key, value in tensors.items():
        what, _, name = key.partition("/")
        if name not in parameters:
            raise CheckpointError(f"the optimizer's {key} belongs to no parameter that it trains")
        found, shape = list(value.shape), list(parameters[name].shape)
        if found and found != shape:
            raise CheckpointError(f"the optimizer's {key} has shape {found}, not {shape}")
        states[name][what] = value.clone()
    kinds = {what for state in states.values() for what in state}
    missing = [f"{what}/{n}" for n, state in states.items() if state for what in kinds - {*state}]
    if missing:
        raise CheckpointError(f"the optimizer's state lacks {', '.join(sorted(missing)[:5])}")
    groups = optimizer.state_dict()["param_groups"]
    numbered = dict(enumerate(states.values()))
    optimizer.load_state_dict({"state": numbered, "param_groups": groups})


def write_text_atomic(path: Path, text: str) -> None:
    """Replace a text file, whole or not at all."""
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _by_name(optimizer: Optimizer, named: Named) -> dict[str, nn.Parameter]:
    """The parameters that an optimizer trains, in the order in which its state numbers them."""
    names = {parameter: name for name, parameter in named}
    return {names[p]: p for group in optimizer.param_groups for p in group["params"]}


def _write(
    folder: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]
) -> None:
    """Fill a checkpoint's folder, durably, the manifest last."""
    (folder / STATE).write_text(json.dumps(state), encoding="utf-8")
    for file, named in tensors.items():
        path = folder / f"{file}{TENSORS}"
        save_file(_contiguous_copies(named), path)
        shutil.copymode(folder / STATE, path)  # safetensors lets only the owner read
    files = {}
    for path in sorted(folder.iterdir()):
        _sync(path)
        files[path.name] = _digest(path)
    manifest = {"format": FORMAT, "version": VERSION, "step": step, "files": files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    _sync(folder / MANIFEST)
    _sync(folder)


def _contiguous_copies(named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors on the host, no two in one storage: what safetensors takes."""
    if "__metadata__" in named:
        raise CheckpointError(
            "safetensors has no room for a tensor named '__metadata__': rename it"
        )
    separate, taken = {}, set()
    for name, tensor in named.items():
        tensor = tensor.detach().cpu().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        separate[name] = tensor.clone() if storage in taken else tensor
        taken.add(storage)
    return separate


def _prune(parent: Path, name: str, step: int, keep: int) -> None:
    """Remove what the checkpoint just published makes old, and what crashes left half-written."""
    numbered = _numbered(parent, name)
    kept = [folder for number, folder in numbered if number <= step][:keep]
    half = [path for path in parent.iterdir() if HALF_WRITTEN.fullmatch(path.name)]
    for folder in half + [folder for _, folder in numbered if folder not in kept]:
        shutil.rmtree(folder, ignore_errors=True)


def _numbered(parent: Path, name: str) -> list[tuple[int, Path]]:
    """Step and folder of everything with a checkpoint's name, newest first."""
    if not parent.is_dir():
        return []
    pattern = re.compile(re.escape(name) + r"-(\d{8,})")
    found = [(pattern.fullmatch(path.name), path) for path in parent.iterdir()]
    return sorted(((int(match[1]), path) for match, path in found if match), reverse=True)


def _verify(folder: Path) -> dict[str, Any]:
    """The manifest of a folder that holds exactly what its manifest says."""
    manifest = _read_manifest(folder)
    files = manifest["files"]
    extra = {path.name for path in folder.iterdir()} - {*files, MANIFEST}
    if extra:
        raise CheckpointError(f"{folder / min(extra)} is no part of the checkpoint: remove it")
    for name, expected in files.items():
        try:
            found = _digest(folder / name)
        except (OSError, ValueError) as error:
            raise _damaged(folder / name, error) from error
        if found != expected:
            how = f"its {found['bytes']} bytes are not those that were written"
            raise _damaged(folder / name, how)
    return manifest


def _read_manifest(folder: Path) -> dict[str, Any]:
    foreign = f"{folder} is not a patchpack checkpoint: its {MANIFEST}"
    try:
        manifest = _read_object(folder / MANIFEST)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{foreign} cannot be read: {_why(error)}") from error
    written = manifest.get("format"), manifest.get("version")
    if written != (FORMAT, VERSION):
        raise CheckpointError(f"{foreign} is of {written}, not of {(FORMAT, VERSION)}")
    step, files = manifest.get("step"), manifest.get("files")
    if type(step) is not int or not isinstance(files, dict):
        raise CheckpointError(f"{foreign} has no step or no files")
    for name in sorted(set(files) - {STATE}):
        if Path(name).name != name or not name.endswith(TENSORS):
            raise CheckpointError(f"{foreign} names {name!r}, which cannot be a file of one")
    return manifest


def _read_object(path: Path) -> dict[str, Any]:
    """A JSON object; raises OSError or ValueError where there is none."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(data, dict):
        raise ValueError("it is not a JSON object")
    return data


def _damaged(path: Path, how: Exception | str) -> CheckpointError:
    return CheckpointError(f"{path} is damaged: {_why(how)}; use another checkpoint")


def _why(error: Exception | str) -> str:
    return getattr(error, "strerror", None) or str(error)


def _digest(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"sha256": digest, "bytes": path.stat().st_size}


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
