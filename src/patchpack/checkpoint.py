"""Checkpoints: safetensors and JSON in a folder, written atomically.

    last-00000500/
      model.safetensors …      one file per set of tensors
      state.json               plain JSON
      manifest.json            format, and the SHA-256 and length of every other file

Files are written to a `.tmp-` folder next to it, synced, and renamed into place. Old checkpoints
are deleted only after that, so neither a crash nor a full disk affects the last good one. Loading
verifies the manifest first. No file is ever unpickled.

Traps: a parent folder has one writer, which deletes incomplete checkpoints and those of later steps
than its own. Saving a step again replaces the first in two renames, not in one.
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
INCOMPLETE = re.compile(r"\.tmp-.+-\d{8,}-\d+")

Named = Iterable[tuple[str, nn.Parameter]]  # as from Module.named_parameters


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged, not a patchpack checkpoint, or could not be written."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The contents of a verified checkpoint."""

    folder: Path
    step: int
    tensors: dict[str, dict[str, Tensor]]  # by file, then by tensor name
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
    """Write a checkpoint to `<parent>/<name>-<step>`, then delete all but the `keep` newest.

    Raise CheckpointError if it cannot be written; earlier checkpoints then stay unchanged.
    """
    if keep < 1:
        raise ValueError(f"keep must be at least 1, not {keep}")
    final = parent / f"{name}-{step:08d}"
    temporary = parent / f".tmp-{final.name}-{os.getpid()}"
    replaced = parent / f".tmp-old-{final.name}-{os.getpid()}"
    try:
        shutil.rmtree(temporary, ignore_errors=True)  # of a killed process with this pid
        shutil.rmtree(replaced, ignore_errors=True)
        temporary.mkdir(parents=True)
        _write(temporary, step, tensors, state)
        if final.exists():
            os.rename(final, replaced)
        os.rename(temporary, final)
        _sync(parent)
    except (OSError, SafetensorError) as error:
        checkpoints = list_checkpoints(parent, name)
        last = f"; the last good checkpoint is {checkpoints[0]}" if checkpoints else ""
        raise CheckpointError(f"could not save {final}: {_reason(error)}{last}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _prune(parent, name, step, keep)
    return final


def list_checkpoints(parent: Path, name: str) -> list[Path]:
    """Return the checkpoints of this name, newest first; they are not verified."""
    return [folder for _, folder in _numbered(parent, name) if (folder / MANIFEST).is_file()]


def load(folder: Path, *, device: str | torch.device = "cpu") -> Checkpoint:
    """Verify and read one checkpoint; raise CheckpointError with the file that is damaged."""
    manifest = _verify(folder)
    tensors = {}
    for file in sorted(set(manifest["files"]) - {STATE}):
        try:
            loaded = load_file(folder / file)
        except Exception as error:  # malformed headers raise TypeError and others, too
            raise _damaged(folder / file, error) from error
        tensors[file.removesuffix(TENSORS)] = {
            current_tensor(name): value.to(device) for name, value in loaded.items()
        }
    try:
        data = _read_object(folder / STATE)
        state = {old_names.STATE.get(key, key): value for key, value in data.items()}
    except (OSError, ValueError) as error:
        raise _damaged(folder / STATE, error) from error
    return Checkpoint(folder=folder, step=manifest["step"], tensors=tensors, state=state)


def load_newest(parent: Path, name: str) -> Checkpoint:
    """Load the newest valid checkpoint; warn of damaged ones, which are skipped."""
    problems = []
    for folder in list_checkpoints(parent, name):
        try:
            return load(folder)
        except CheckpointError as error:
            warnings.warn(f"skipping a checkpoint: {error}", stacklevel=2)
            problems.append(str(error))
    reasons = f": {'; '.join(problems)}" if problems else ""
    raise CheckpointError(f"{parent} has no valid checkpoint {name!r}{reasons}")


def load_into(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Copy tensors into a module, all or none.

    Raise CheckpointError with the names of missing, unexpected and mismatched tensors.
    """
    current = module.state_dict()
    mismatches = {
        "missing": [name for name in current if name not in tensors],
        "unexpected": [name for name in tensors if name not in current],
        "of another shape": [
            f"{name}: {list(tensors[name].shape)} for {list(value.shape)}"
            for name, value in current.items()
            if name in tensors and tensors[name].shape != value.shape
        ],
    }
    problems = [
        f"{len(names)} {problem} ({', '.join(names[:5])}{', …' if len(names) > 5 else ''})"
        for problem, names in mismatches.items()
        if names
    ]
    if problems:
        raise CheckpointError(f"{source} does not fit the model: {'; '.join(problems)}")
    module.load_state_dict(dict(tensors))


def flatten_optimizer(optimizer: Optimizer, named: Named) -> dict[str, Tensor]:
    """Return the optimizer's state as `<key>/<parameter>` → tensor, without parameter groups."""
    names = list(_by_name(optimizer, named))
    return {
        f"{key}/{names[number]}": value
        for number, state in optimizer.state_dict()["state"].items()
        for key, value in state.items()
    }


def restore_optimizer(optimizer: Optimizer, named: Named, tensors: Mapping[str, Tensor]) -> None:
    """Restore the output of `flatten_optimizer`, bit for bit, all or nothing.

    A parameter without saved state gets none: it had no update yet. Raise CheckpointError for
    unknown parameters, other shapes, or incomplete state.
    """
    parameters = _by_name(optimizer, named)
    states: dict[str, dict[str, Tensor]] = {name: {} for name in parameters}
    for path, value in tensors.items():
        key, _, name = path.partition("/")
        if name not in parameters:
            raise CheckpointError(f"the optimizer's {path} belongs to no parameter that it trains")
        saved, expected = list(value.shape), list(parameters[name].shape)
        if saved and saved != expected:
            raise CheckpointError(f"the optimizer's {path} has shape {saved}, not {expected}")
        states[name][key] = value.clone()
    keys = {key for state in states.values() for key in state}
    missing = [f"{key}/{n}" for n, state in states.items() if state for key in keys - {*state}]
    if missing:
        raise CheckpointError(f"the optimizer's state lacks {', '.join(sorted(missing)[:5])}")
    groups = optimizer.state_dict()["param_groups"]
    numbered = dict(enumerate(states.values()))
    optimizer.load_state_dict({"state": numbered, "param_groups": groups})


def write_text_atomic(path: Path, text: str) -> None:
    """Replace a text file atomically."""
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _by_name(optimizer: Optimizer, named: Named) -> dict[str, nn.Parameter]:
    """Return an optimizer's parameters by name, in the order of the numbers in its state."""
    names = {parameter: name for name, parameter in named}
    return {names[p]: p for group in optimizer.param_groups for p in group["params"]}


def _write(
    folder: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]
) -> None:
    """Write and sync the files of a checkpoint, the manifest last."""
    (folder / STATE).write_text(json.dumps(state), encoding="utf-8")
    for file, named in tensors.items():
        path = folder / f"{file}{TENSORS}"
        save_file(_contiguous_copies(named), path)
        shutil.copymode(folder / STATE, path)  # safetensors makes files private to the owner
    files = {}
    for path in sorted(folder.iterdir()):
        _sync(path)
        files[path.name] = _digest(path)
    manifest = {"format": FORMAT, "version": VERSION, "step": step, "files": files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    _sync(folder / MANIFEST)
    _sync(folder)


def _contiguous_copies(named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return contiguous CPU tensors without shared storage, as safetensors requires."""
    if "__metadata__" in named:
        raise CheckpointError("safetensors cannot store a tensor named '__metadata__': rename it")
    copies, storages = {}, set()
    for name, tensor in named.items():
        tensor = tensor.detach().cpu().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        copies[name] = tensor.clone() if storage in storages else tensor
        storages.add(storage)
    return copies


def _prune(parent: Path, name: str, step: int, keep: int) -> None:
    """Delete all but the `keep` newest checkpoints up to `step`, and incomplete ones of crashes."""
    numbered = _numbered(parent, name)
    kept = [folder for number, folder in numbered if number <= step][:keep]
    incomplete = [path for path in parent.iterdir() if INCOMPLETE.fullmatch(path.name)]
    for folder in incomplete + [folder for _, folder in numbered if folder not in kept]:
        shutil.rmtree(folder, ignore_errors=True)


def _numbered(parent: Path, name: str) -> list[tuple[int, Path]]:
    """Return step and path of everything with a checkpoint's name, newest first."""
    if not parent.is_dir():
        return []
    pattern = re.compile(re.escape(name) + r"-(\d{8,})")
    matches = [(pattern.fullmatch(path.name), path) for path in parent.iterdir()]
    return sorted(((int(match[1]), path) for match, path in matches if match), reverse=True)


def _verify(folder: Path) -> dict[str, Any]:
    """Return the manifest of a folder after checking that all files match it."""
    manifest = _read_manifest(folder)
    files = manifest["files"]
    extra = {path.name for path in folder.iterdir()} - {*files, MANIFEST}
    if extra:
        raise CheckpointError(f"{folder / min(extra)} is not part of the checkpoint: remove it")
    for name, expected in files.items():
        try:
            digest = _digest(folder / name)
        except (OSError, ValueError) as error:
            raise _damaged(folder / name, error) from error
        if digest != expected:
            raise _damaged(folder / name, f"its {digest['bytes']} bytes differ from the manifest")
    return manifest


def _read_manifest(folder: Path) -> dict[str, Any]:
    prefix = f"{folder} is not a patchpack checkpoint: its {MANIFEST}"
    try:
        manifest = _read_object(folder / MANIFEST)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{prefix} cannot be read: {_reason(error)}") from error
    written = manifest.get("format"), manifest.get("version")
    if written != (FORMAT, VERSION):
        raise CheckpointError(f"{prefix} has format {written}, not {(FORMAT, VERSION)}")
    step, files = manifest.get("step"), manifest.get("files")
    if type(step) is not int or not isinstance(files, dict):
        raise CheckpointError(f"{prefix} has no step or no files")
    for name in sorted(set(files) - {STATE}):
        if Path(name).name != name or not name.endswith(TENSORS):
            raise CheckpointError(f"{prefix} has an invalid file name {name!r}")
    return manifest


def _read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object; raise OSError or ValueError if that fails."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(data, dict):
        raise ValueError("it is not a JSON object")
    return data


def _damaged(path: Path, error: Exception | str) -> CheckpointError:
    return CheckpointError(f"{path} is damaged: {_reason(error)}; use another checkpoint")


def _reason(error: Exception | str) -> str:
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
