"""What a run was made with: its config, and the versions and hardware that its numbers depend on.

Both are kept in every checkpoint. A resumed run compares them with its own: a config that would
give another run is an error; another version or machine is reported, as the run then goes on, but
not bit for bit.
"""

from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

PACKAGES = ("patchpack", "torch", "numpy", "pillow", "simplejpeg", "av")
# Fields of a config that a resumed run may change.
FREE = (
    "out", "init", "data.root", "data.tokenizer", "data.loader", "data.max_bad_fraction",
    "train.log_every", "train.eval_every", "train.save_every",
)  # fmt: skip
LENGTH = ("train.steps", "train.flops", "train.seconds")
ROUNDING = ("train.activation_checkpointing", "train.compile")


def environment(device: torch.device) -> dict[str, str]:
    """Versions and hardware that decide about the last bits of a run."""
    cuda = device.type == "cuda"
    values = {name: _version(name) for name in PACKAGES}
    values |= {
        "device": torch.cuda.get_device_name(device) if cuda else "cpu",
        "CPU capability": torch.backends.cpu.get_cpu_capability(),
        "compute threads": str(torch.get_num_threads()),
    }
    return {name: value for name, value in values.items() if value}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def changed_environment(before: Mapping[str, Any], after: Mapping[str, str]) -> str:
    """Name what differs, "torch 2.9.0 → 2.9.1, …"; empty if nothing does."""
    names = [*before, *(name for name in after if name not in before)]
    return ", ".join(
        f"{name} {before.get(name, 'none')} → {after.get(name, 'none')}"
        for name in names
        if before.get(name) != after.get(name)
    )


def changed_fields(before: Any, after: Any, path: str = "") -> dict[str, tuple[Any, Any]]:
    """Return the fields in which two configs as JSON differ: dotted path → (before, after)."""
    if not (isinstance(before, dict) and isinstance(after, dict)):
        return {} if before == after else {path: (before, after)}
    if before.get("type") != after.get("type"):
        return {path: (before, after)}
    changed: dict[str, tuple[Any, Any]] = {}
    for name in (*before, *(name for name in after if name not in before)):
        below = f"{path}.{name}" if path else name
        changed |= changed_fields(before.get(name), after.get(name), below)
    return changed


def listed(changed: Mapping[str, tuple[Any, Any]]) -> str:
    """Changed fields as text: "optim.lr 0.001 → 0.01, …"."""
    return ", ".join(f"{path} {_short(a)} → {_short(b)}" for path, (a, b) in changed.items())


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return str(value.get("type", "…"))
    text = "none" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def is_among(path: str, fields: Sequence[str]) -> bool:
    """Return whether a dotted path is one of these fields, or below one."""
    return any(path == field or path.startswith(f"{field}.") for field in fields)
