"""Checkpoints: safetensors and JSON in a folder, written atomically.

    last-00000500/
      model.safetensors …      one file per set of tensors
      state.json               plain JSON
      manifest.json            format, and the SHA-256 and length of every other file

Files are written to a `.tmp-` folder next to it, synced, and renamed into place. Old checkpoints
are deleted only after that, so neither a crash nor a full disk affects the last good one. Loading
verifies the manifest first: only regular files of the sizes that it lists are opened. No file is
ever unpickled, no tensor is cast, and none with NaN or infinity is used.

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
from torch.optim import AdamW, Muon, Optimizer

from patchpack import old_names
from patchpack.manifest import (
    CLUTTER,
    FORMAT,
    MANIFEST,
    STATE,
    TENSORS,
    VERSION,
    CheckpointError,
    read_manifest,
    reason_of,
)
from patchpack.old_names import current_tensor
from patchpack.regular_files import MAX_JSON, open_regular, read_json_object

INCOMPLETE = re.compile(r"\.tmp-.+-\d{8,}-\d+")
# State that optimizers keep for each parameter; other optimizers are not checked by name.
OPTIMIZER_STATE: dict[type[Optimizer], set[str]] = {
    AdamW: {"step", "exp_avg", "exp_avg_sq"},
    Muon: {"momentum_buffer"},
}

Named = Iterable[tuple[str, nn.Parameter]]  # as from Module.named_parameters


class SkippedCheckpoint(UserWarning):
    """A damaged checkpoint, instead of which an older one is used."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The contents of a verified checkpoint."""

    folder: Path
    step: int
    tensors: dict[str, dict[str, Tensor]]  # by file, then by tensor name
    state: dict[str, Any]
    sums: dict[str, str]  # SHA-256 of each file of tensors

    def tensors_of(self, file: str) -> dict[str, Tensor]:
        """The tensors of one file; raise CheckpointError where the checkpoint lacks it."""
        if file not in self.tensors:
            raise CheckpointError(f"{self.folder} lacks {file}{TENSORS}: use another checkpoint")
        return self.tensors[file]

    def path(self, file: str) -> str:
        """The path of one file of tensors, for messages."""
        return str(self.folder / f"{file}{TENSORS}")


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
        raise CheckpointError(f"could not save {final}: {reason_of(error)}{last}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _prune(parent, name, step, keep)
    return final


def list_checkpoints(parent: Path, name: str) -> list[Path]:
    """Return the checkpoints of this name, newest first; they are not verified."""
    return [folder for _, folder in _numbered(parent, name) if os.path.lexists(folder / MANIFEST)]


def load(folder: Path, *, device: str | torch.device = "cpu") -> Checkpoint:
    """Verify and read one checkpoint; raise CheckpointError with the file that is damaged."""
    manifest = _verify(folder)
    tensors, sums = {}, {}
    for file in sorted(set(manifest["files"]) - {STATE}):
        try:
            loaded = load_file(folder / file)
            named = {current_tensor(name): value.to(device) for name, value in loaded.items()}
        except Exception as error:  # malformed headers raise TypeError and others, too
            raise _damaged(folder / file, error) from error
        if len(named) < len(loaded):
            raise _damaged(folder / file, "it holds a tensor under its old and its current name")
        tensors[file.removesuffix(TENSORS)] = named
        sums[file.removesuffix(TENSORS)] = manifest["files"][file]["sha256"]
    try:
        data = read_json_object(folder / STATE)
        state = {old_names.STATE.get(key, key): value for key, value in data.items()}
    except (OSError, ValueError) as error:
        raise _damaged(folder / STATE, error) from error
    step = manifest["step"]
    return Checkpoint(folder=folder, step=step, tensors=tensors, state=state, sums=sums)


def load_newest(parent: Path, name: str) -> Checkpoint:
    """Load the newest valid checkpoint; warn of damaged ones that are skipped for it."""
    problems = []
    for folder in list_checkpoints(parent, name):
        try:
            checkpoint = load(folder)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        for problem in problems:
            message = f"skipping a checkpoint: {problem}; {folder} is used"
            warnings.warn(message, SkippedCheckpoint, stacklevel=2)
        return checkpoint
    reasons = f": {'; '.join(problems)}" if problems else ""
    raise CheckpointError(f"{parent} has no valid checkpoint {name!r}{reasons}")


def load_into(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Copy tensors into a module, all or none; raise CheckpointError as `check_fits` does."""
    check_fits(module, tensors, source)
    module.load_state_dict(dict(tensors))


def check_fits(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Raise CheckpointError where tensors are not those of a module, which may be on `meta`.

    The message has the names of missing, unexpected and mismatched tensors, and of those that hold
    NaN or infinity.
    """
    current = module.state_dict()
    shared = {name: value for name, value in current.items() if name in tensors}
    mismatches = {
        "missing": [name for name in current if name not in tensors],
        "unexpected": [name for name in tensors if name not in current],
        "of another shape": [
            f"{name}: {list(tensors[name].shape)} for {list(value.shape)}"
            for name, value in shared.items()
            if tensors[name].shape != value.shape
        ],
        "of another type": [
            f"{name}: {_type(tensors[name])} for {_type(value)}"
            for name, value in shared.items()
            if tensors[name].dtype != value.dtype
        ],
    }
    problems = [f"{len(names)} {problem} ({_first(names)})"
                for problem, names in mismatches.items() if names]  # fmt: skip
    if problems:
        raise CheckpointError(f"{source} does not fit the model: {'; '.join(problems)}")
    check_finite(tensors, source)


def check_finite(tensors: Mapping[str, Tensor], source: str) -> None:
    """Raise CheckpointError where tensors hold NaN or infinity."""
    wrong = [name for name, t in tensors.items() if t.is_floating_point() and not _finite(t)]
    if wrong:
        raise _damaged(Path(source), f"{len(wrong)} tensors hold NaN or infinity ({_first(wrong)})")


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
    unknown parameters or keys, other shapes and types, values that no update gives, or incomplete
    state.
    """
    parameters = _by_name(optimizer, named)
    states: dict[str, dict[str, Tensor]] = {name: {} for name in parameters}
    for path, value in tensors.items():
        key, _, name = path.partition("/")
        if name not in parameters:
            raise CheckpointError(f"the optimizer's {path} belongs to no parameter that it trains")
        _check_state(path, value, parameters[name])
        states[name][key] = value.clone()
    used = {key for state in states.values() for key in state}
    keys = OPTIMIZER_STATE.get(type(optimizer), used)
    if unknown := sorted(used - keys):
        kind = type(optimizer).__name__
        raise CheckpointError(f"the optimizer's state {unknown[0]!r} is not that of {kind}")
    missing = [f"{key}/{n}" for n, state in states.items() if state for key in keys - {*state}]
    if missing:
        raise CheckpointError(f"the optimizer's state lacks {', '.join(sorted(missing)[:5])}")
    groups = optimizer.state_dict()["param_groups"]
    numbered = dict(enumerate(states.values()))
    optimizer.load_state_dict({"state": numbered, "param_groups": groups})


def _check_state(path: str, value: Tensor, parameter: Tensor) -> None:
    """Raise CheckpointError for a tensor that is no state of this parameter."""
    is_step = path.startswith("step/")
    saved, expected = list(value.shape), [] if is_step else list(parameter.shape)
    if saved != expected:
        raise CheckpointError(f"the optimizer's {path} has shape {saved}, not {expected}")
    dtype = torch.float32 if is_step else parameter.dtype
    if value.dtype != dtype:
        raise CheckpointError(f"the optimizer's {path} is {_type(value)}, not {dtype}")
    negative = path.startswith(("step/", "exp_avg_sq/")) and bool((value < 0).any())
    if negative or not _finite(value):
        raise CheckpointError(
            f"the optimizer's {path} holds NaN, infinity or values below 0 where none can be"
        )


def _by_name(optimizer: Optimizer, named: Named) -> dict[str, nn.Parameter]:
    """Return an optimizer's parameters by name, in the order of the numbers in its state."""
    names = {parameter: name for name, parameter in named}
    return {names[p]: p for group in optimizer.param_groups for p in group["params"]}


def _write(
    folder: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]
) -> None:
    """Write and sync the files of a checkpoint, the manifest last."""
    try:
        text = json.dumps(state, allow_nan=False)
    except ValueError as error:
        raise CheckpointError(f"the state of the run has no form in JSON: {error}") from error
    if len(text) > MAX_JSON:
        raise CheckpointError(f"the state of the run has more than {MAX_JSON:,} bytes")
    (folder / STATE).write_text(text, encoding="utf-8")
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
    manifest = read_manifest(folder)
    files = manifest["files"]
    names = {path.name for path in folder.iterdir()}
    extra = {name for name in names - {*files, MANIFEST} if not CLUTTER.fullmatch(name)}
    if extra:
        raise CheckpointError(f"{folder / min(extra)} is not part of the checkpoint: remove it")
    if STATE not in files:
        raise CheckpointError(f"{folder / MANIFEST} lists no {STATE}: use another checkpoint")
    for name, expected in files.items():
        try:
            with open_regular(folder / name) as file:
                size = os.fstat(file.fileno()).st_size
                wrong = not isinstance(expected, dict) or size != expected.get("bytes")
                wrong = wrong or _digest(folder / name) != expected
        except (OSError, ValueError) as error:
            raise _damaged(folder / name, error) from error
        if wrong:
            raise _damaged(folder / name, f"its {size:,} bytes differ from the manifest")
    return manifest


def _damaged(path: Path, error: Exception | str) -> CheckpointError:
    return CheckpointError(f"{path} is damaged: {reason_of(error)}; use another checkpoint")


def _first(names: list[str]) -> str:
    return f"{', '.join(names[:5])}{', …' if len(names) > 5 else ''}"


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _finite(tensor: Tensor) -> bool:
    return bool(tensor.isfinite().all())


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
