"""What must be the same for a run to continue: config, precision, processes and data.

Everything is compared with the newest good checkpoint. What would make another run is an error that
names it; what changes only the last bits, or nothing, is a note for the log. Checkpoints of earlier
versions, which hold less, are compared as far as they go.
"""

from collections.abc import Mapping
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import torch

from patchpack.checkpoint import STATE, Checkpoint, CheckpointError, load_newest
from patchpack.config import RunConfig
from patchpack.distributed import World
from patchpack.inference.model_spec import ModelSpec, spec_in_checkpoint
from patchpack.serialization import ConfigError, from_json, to_json
from patchpack.train.items import Items, changes, read_items
from patchpack.train.precision import choose_dtype
from patchpack.train.provenance import (
    FREE,
    LENGTH,
    ROUNDING,
    changed_environment,
    changed_fields,
    environment,
    is_among,
    listed,
)
from patchpack.train.run_folder import CHECKPOINTS
from patchpack.train.stopping import TrainingError

SPLITS = {"train": "training", "val": "validation"}
NAMED = 5  # changes that a message names
REMEDY = "so it cannot continue exactly; restore them, or start a new run"


class Continuation(NamedTuple):
    """Where a run goes on."""

    checkpoint: Checkpoint
    dtype: torch.dtype  # of matrix products, as before
    notes: list[str]  # what differs, and may


def continuation(config: RunConfig, world: World) -> Continuation:
    """Return the newest good checkpoint of a run; raise TrainingError where config, precision or
    number of processes would make it another run."""
    checkpoint = load_newest(config.out / CHECKPOINTS, "last")
    _check_processes(checkpoint, config.out, world)
    dtype, notes = _precision(checkpoint, config, world.device)
    if "config" in checkpoint.state:
        notes += _compare_config(checkpoint, config)
    before = checkpoint.state.get("environment")
    if isinstance(before, dict):
        changed = changed_environment(before, environment(world.device))
        if changed:
            notes.append(f"the run does not continue bit for bit: {changed}")
    return Continuation(checkpoint, dtype, notes)


def _check_processes(checkpoint: Checkpoint, folder: Path, world: World) -> None:
    processes, bad_images = checkpoint.state.get("world_size"), checkpoint.state.get("bad_images")
    if type(processes) is not int or not isinstance(bad_images, dict):
        raise CheckpointError(f"{checkpoint.folder / STATE} is not that of a run's checkpoint")
    if processes != world.size:
        raise TrainingError(
            f"{folder} was trained by {processes} processes, not {world.size}, which "
            f"would plan other packs; continue it with torchrun --nproc-per-node {processes} "
            f"-m patchpack train --resume {folder}"
        )


def _precision(
    checkpoint: Checkpoint, config: RunConfig, device: torch.device
) -> tuple[torch.dtype, list[str]]:
    """Return the dtype that the run began with, and a note where this machine would choose
    another."""
    before, precision = spec_in_checkpoint(checkpoint).dtype, config.train.precision
    chosen = str(choose_dtype(precision, device)).removeprefix("torch.")
    if before == chosen:
        return choose_dtype(precision, device), []
    if precision != "auto" or before not in ("float32", "bfloat16"):
        raise TrainingError(
            f"{config.out} computed in {before}, and train.precision is now {precision}: set it "
            f'to "{before}" in {config.out}/config.json, or start a new run'
        )
    note = (
        f"train.precision auto is {chosen} on this machine; the run continues in {before}, in "
        "which it began"
    )
    return choose_dtype(before, device), [note]


def _compare_config(checkpoint: Checkpoint, config: RunConfig) -> list[str]:
    """Return a note of the fields that changed and may; raise TrainingError for the others."""
    try:
        before = to_json(from_json(RunConfig, checkpoint.state["config"]))
    except ConfigError as error:
        raise CheckpointError(
            f"{checkpoint.folder} holds no usable config ({str(error)[:300]}); use another "
            "checkpoint"
        ) from error
    changed = changed_fields(before, to_json(config))
    for path in ("out", "train.precision"):  # where it lies; compared as a dtype
        changed.pop(path, None)
    allowed = {path: pair for path, pair in changed.items() if is_among(path, FREE)}
    length = {path: pair for path, pair in changed.items() if is_among(path, LENGTH)}
    rounding = {path: pair for path, pair in changed.items() if is_among(path, ROUNDING)}
    refused = {p: pair for p, pair in changed.items() if p not in allowed | length | rounding}
    if refused:
        raise TrainingError(
            f"{config.out}/config.json has changed since the run began ({listed(refused)}), so it "
            "cannot continue exactly; restore the values, or start a new run with --init "
            f"{config.out}"
        )
    notes = [f"changed in config.json: {listed(allowed)}"] if allowed else []
    if length:
        notes.append(
            f"changed in config.json: {listed(length)}; the steps so far had the learning rates of "
            "the old length"
        )
    if rounding:
        notes.append(f"the run does not continue bit for bit: {listed(rounding)}")
    return notes


def check_classes(checkpoint: Checkpoint, folder: Path, spec: ModelSpec) -> None:
    """Raise TrainingError where the data give other classes or mask values than the run's, or
    another order: the numbers in masks and boxes would mean something else."""
    before = spec_in_checkpoint(checkpoint)
    values = {"classes": (list(before.classes), list(spec.classes))}
    values |= changed_fields(to_json(before.task), to_json(spec.task))
    changed: dict[str, tuple[Any, Any]] = {}
    for name, (old, new) in values.items():
        if isinstance(old, list) and isinstance(new, list):
            pairs = enumerate(zip_longest(old, new, fillvalue="none"))
            changed |= {f"{name}[{i}]": (a, b) for i, (a, b) in pairs if a != b}
        else:
            changed[name] = (old, new)
    if changed:
        more = f" and {len(changed) - NAMED:,} more" if len(changed) > NAMED else ""
        raise TrainingError(
            f"the data do not give the classes that {folder} started with "
            f"({listed(dict(islice(changed.items(), NAMED)))}{more}), {REMEDY}"
        )


def check_items(checkpoint: Checkpoint, folder: Path, items: Mapping[str, Items]) -> str:
    """Return which items of training and validation are not those of the run; empty if none."""
    before = checkpoint.state.get("items")
    if before is None:  # of an earlier version
        changed = checkpoint.state.get("images") != items["train"].fingerprint
        return _other_items(folder, "training", "files were added, removed or changed") * changed
    for split, name in SPLITS.items():
        if not isinstance(before, dict) or before.get(split) != items[split].hash:
            return _other_items(folder, name, _named_changes(folder, items[split], split))
    return ""


def _named_changes(folder: Path, after: Items, split: str) -> str:
    old = read_items(folder, split)
    if old is None:
        return "files were added, removed or changed"
    return changes(old, after) or "their order, their classes or their annotations changed"


def _other_items(folder: Path, name: str, reason: str) -> str:
    return f"the {name} images are not those that {folder} started with ({reason}), {REMEDY}"
