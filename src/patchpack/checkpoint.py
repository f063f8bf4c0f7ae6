"""Checkpoints: safetensors and JSON in a folder that appears whole or not at all.

    last-00000500/
      manifest.json            format, and the SHA-256 and length of every other file
      state.json               plain JSON
      model.safetensors …      one file per set of tensors

Files are written to a folder with a temporary name, synced, and renamed into place, so neither a
crash nor a full disk touches the last good checkpoint. Loading verifies the manifest first. No file
is ever unpickled.
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

FORMAT = "patchpack checkpoint"
VERSION = 1
MANIFEST = "manifest.json"
STATE = "state.json"


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, foreign, or could not be written."""


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint in memory."""

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
    """Publish a checkpoint as `<parent>/<name>-<step>`, then remove all but the newest `keep`.

    Raises CheckpointError where it cannot be written; those written before are untouched.
    """
    final = parent / f"{name}-{step:08d}"
    temporary = parent / f".tmp-{name}-{step:08d}-{os.getpid()}"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(parent)
        temporary.mkdir()
        for file, named in tensors.items():
            plain = {key: value.detach().cpu().contiguous().clone() for key, value in named.items()}
            save_file(plain, temporary / f"{file}.safetensors")
        (temporary / STATE).write_text(json.dumps(state))
        files = {path.name: _describe(path) for path in sorted(temporary.iterdir())}
        manifest = {"format": FORMAT, "version": VERSION, "step": step, "files": files}
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1))
        for path in temporary.iterdir():
            _sync(path)
        if final.exists():
            shutil.rmtree(final)
        os.rename(temporary, final)
        _sync(parent)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        good = candidates(parent, name)
        last = f"; the last good checkpoint is {good[0]}" if good else ""
        raise CheckpointError(f"could not save {final}: {_why(error)}{last}") from error
    for old in candidates(parent, name)[keep:]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def candidates(parent: Path, name: str) -> list[Path]:
    """Checkpoints of this name, newest first; they are not verified yet."""
    pattern = re.compile(re.escape(name) + r"-\d{8}")
    if not parent.is_dir():
        return []
    found = [path for path in parent.iterdir() if pattern.fullmatch(path.name)]
    return sorted((path for path in found if (path / MANIFEST).is_file()), reverse=True)


def load(folder: Path, *, device: str | torch.device = "cpu") -> Checkpoint:
    """Verify and read one checkpoint; raises CheckpointError naming the file that is wrong."""
    manifest = _read_manifest(folder)
    _verify(folder, manifest["files"])
    tensors = {}
    for file in manifest["files"]:
        if file.endswith(".safetensors"):
            try:
                tensors[file.removesuffix(".safetensors")] = load_file(folder / file, str(device))
            except (SafetensorError, OSError) as error:
                raise CheckpointError(f"{folder / file} is damaged: {error}") from error
    state = json.loads((folder / STATE).read_text())
    return Checkpoint(folder, int(manifest["step"]), tensors, state)


def load_newest(parent: Path, name: str) -> Checkpoint:
    """The newest checkpoint that verifies; warns of damaged ones that it passes over."""
    problems = []
    for folder in candidates(parent, name):
        try:
            return load(folder)
        except CheckpointError as error:
            warnings.warn(f"passing over a damaged checkpoint: {error}", stacklevel=2)
            problems.append(str(error))
    why = f": {'; '.join(problems)}" if problems else ""
    raise CheckpointError(f"{parent} holds no good checkpoint {name!r}{why}")


def load_into(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Copy tensors into a module, all of them or none; the error names those that do not match."""
    own = module.state_dict()
    problems = [f"{name} is missing" for name in own if name not in tensors]
    problems += [f"{name} is not in the model" for name in tensors if name not in own]
    problems += [
        f"{name} is {list(tensors[name].shape)}, the model has {list(own[name].shape)}"
        for name in own
        if name in tensors and tensors[name].shape != own[name].shape
    ]
    if problems:
        more = f" (and {len(problems) - 5} more)" if len(problems) > 5 else ""
        raise CheckpointError(f"{source} is of another model: {'; '.join(problems[:5])}{more}")
    module.load_state_dict(dict(tensors))


def flatten_optimizer(
    optimizer: Optimizer, named: Iterable[tuple[str, nn.Parameter]]
) -> dict[str, Tensor]:
    """The optimizer's state as `<what>/<parameter>` → tensor; its groups follow from the config."""
    return {
        f"{what}/{name}": value
        for name, parameter in named
        for what, value in optimizer.state.get(parameter, {}).items()
    }


def restore_optimizer(
    optimizer: Optimizer,
    named: Iterable[tuple[str, nn.Parameter]],
    tensors: Mapping[str, Tensor],
) -> None:
    """Put back what `flatten_optimizer` took, bit for bit."""
    parameters = dict(named)
    for key, value in tensors.items():
        what, _, name = key.partition("/")
        if name not in parameters:
            raise CheckpointError(f"the optimizer's {key} belongs to no parameter of this model")
        parameter = parameters[name]
        if value.ndim and value.shape != parameter.shape:
            raise CheckpointError(f"the optimizer's {key} is {list(value.shape)}, not as the model")
        optimizer.state[parameter][what] = value.to(parameter.device, copy=True)


def write_text_atomic(path: Path, text: str) -> None:
    """Replace a text file, whole or not at all."""
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        _sync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _read_manifest(folder: Path) -> dict[str, Any]:
    foreign = CheckpointError(f"{folder} is not a patchpack checkpoint")
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise foreign from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise foreign
    if manifest.get("version") != VERSION:
        raise CheckpointError(f"{folder} is of version {manifest.get('version')}, not {VERSION}")
    files = manifest.get("files")
    if not isinstance(files, dict) or not isinstance(manifest.get("step"), int):
        raise foreign
    for name in files:
        if Path(name).name != name or name in ("", ".", ".."):
            raise CheckpointError(f"{folder}: its manifest names {name!r}, which is no plain file")
    return manifest


def _verify(folder: Path, files: Mapping[str, Any]) -> None:
    extra = {path.name for path in folder.iterdir()} - {*files, MANIFEST}
    if extra:
        raise CheckpointError(f"{folder} holds files that are not its own: {', '.join(extra)}")
    for name, expected in [*files.items(), *([] if STATE in files else [(STATE, None)])]:
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path} is missing")
        if _describe(path) != expected:
            raise CheckpointError(f"{path} is damaged: its contents are not what was written")


def _describe(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"sha256": digest, "bytes": path.stat().st_size}


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_abandoned(parent: Path) -> None:
    """Clear what crashed processes left half-written."""
    for path in parent.glob(".tmp-*"):
        shutil.rmtree(path, ignore_errors=True)


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
