"""The manifest of a checkpoint: its step, and the SHA-256 and length of every other file."""

import re
from pathlib import Path
from typing import Any

from patchpack.regular_files import read_json_object

FORMAT = "patchpack checkpoint"
VERSION = 1
MANIFEST = "manifest.json"
STATE = "state.json"
TENSORS = ".safetensors"
MAX_BYTES = 2**20  # of a manifest
# What file managers and network drives leave in any folder.
CLUTTER = re.compile(
    r"\.DS_Store|\._.*|Thumbs\.db|desktop\.ini|\.directory|Icon\r|@eaDir|\.nfs\w+|\.fuse_hidden\w+"
)


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged, not a patchpack checkpoint, or could not be written."""


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a folder; raise CheckpointError where it is damaged or unusable."""
    prefix = f"{folder} is not a patchpack checkpoint: its {MANIFEST}"
    try:
        manifest = read_json_object(folder / MANIFEST, MAX_BYTES)
    except (OSError, ValueError) as error:
        reason = f"{reason_of(error)}; use another checkpoint"
        raise CheckpointError(f"{prefix} cannot be read: {reason}") from error
    written = manifest.get("format"), manifest.get("version")
    if written != (FORMAT, VERSION) or isinstance(written[1], bool):
        raise CheckpointError(f"{prefix} has format {written!r:.200}, not {(FORMAT, VERSION)}")
    step, files = manifest.get("step"), manifest.get("files")
    if type(step) is not int or step < 0 or not isinstance(files, dict):
        raise CheckpointError(f"{prefix} has no step or no files")
    numbered = re.fullmatch(r".+-(\d{8,})", folder.name)
    if numbered and int(numbered[1]) != step:
        raise CheckpointError(f"{prefix} is of step {step:,}: it was renamed; name it {step:08d}")
    for name in sorted(set(files) - {STATE}):
        if Path(name).name != name or not name.endswith(TENSORS):
            raise CheckpointError(f"{prefix} has an invalid file name {name!r}")
    return manifest


def reason_of(error: Exception | str) -> str:
    """What the system reports of an error, without its number and path."""
    return getattr(error, "strerror", None) or str(error)
