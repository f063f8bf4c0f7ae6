"""Shared by tests of pretrained weights: tiny models of other libraries, as those publish them.

A fixture holds what a folder of another library holds but weights: its config, its preprocessing,
names and shapes of its tensors, and outputs of the original model. Weights follow from the names.
`python tests/parity/freeze.py` writes the fixtures where the originals are installed.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

FOLDER = Path(__file__).parent / "pretrained"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
GRIDS = ((1, 1), (3, 40), (30, 8), (6, 6), (5, 7))  # of images, in patches

WORDS = ("a", "red", "heart", "cat", "on", "mat")  # of the tokenizer beside image-text models
SENTENCES = ("a cat", "a red heart on a mat", "cat", "a a a a a a a a a a")  # the last is cut


def fixture(name: str) -> dict[str, Any]:
    """The content of a fixture."""
    return json.loads((FOLDER / f"{name}.json").read_text())


def write_source(name: str, folder: Path, **config: object) -> Path:
    """Write the folder that another library publishes; `config` replaces keys of its config."""
    content = fixture(name)
    folder.mkdir(parents=True, exist_ok=True)
    for file, values in content["files"].items():
        changes = config if file == "config.json" else {}
        (folder / file).write_text(json.dumps(values | changes))
    tensors = fill({key: tuple(shape) for key, shape in content["shapes"].items()})
    save_file(tensors, folder / content["weights"], metadata={"format": "pt"})
    return folder


def fill(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Weights that follow from the names of tensors, the same with every version of PyTorch."""
    return {name: _noise(name, shape) for name, shape in shapes.items()}


def _noise(name: str, shape: tuple[int, ...]) -> Tensor:
    """Uniform numbers without a pattern; those of a scale are around one."""
    start = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    count = max(1, torch.Size(shape).numel())
    steps = (torch.arange(count, dtype=torch.int64) * 2654435769 + start * 7919) % 2**32
    mixed = ((steps ^ (steps >> 15)) * 2246822519) % 2**32
    uniform = (mixed ^ (mixed >> 13)).double() / 2**31 - 1
    is_scale = len(shape) == 1 and name.endswith(("weight", "gamma", "lambda1"))
    width = 0.5 if len(shape) == 1 else 1.5 * (shape or (1,))[-1] ** -0.5
    values = uniform * width + (1.0 if is_scale else 0.0)
    return values.reshape(shape).half().float()


def make_image(height: int, width: int) -> Tensor:
    """Pixels [height, width, 3] of 0..255 without a pattern."""
    values = _noise(f"image {height} {width}", (height * width * 3, 1)).flatten()
    scaled = (values / values.abs().max() + 1) * 127.5
    return scaled.round().to(torch.uint8).reshape(height, width, 3)


def weighted_sum(tokens: Tensor) -> Tensor:
    """One vector that differs where any token differs, or their order."""
    return (_noise(f"tokens {len(tokens)}", (len(tokens), 1)).float() * tokens).sum(0)


def relative(a: Tensor, b: Tensor) -> float:
    """The largest difference, as a fraction of the largest value."""
    return float((a - b).abs().max() / b.abs().max())
