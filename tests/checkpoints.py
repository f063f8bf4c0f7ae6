"""Shared by tests of checkpoints: a small checkpoint, equality to the bit, a damaged bit."""

from pathlib import Path

import torch
from torch import Tensor

from patchpack.checkpoint import save

FILES = ("manifest.json", "model.safetensors", "other.safetensors", "state.json")


def save_checkpoint(parent: Path, step: int = 7, keep: int = 1, value: float = 1.0) -> Path:
    model = {"weight": torch.full((3, 2), value), "bias": torch.arange(5)}
    tensors = {"model": model, "other": {"x": torch.ones(2)}}
    return save(parent, "last", step, tensors=tensors, state={"step": step}, keep=keep)


def same(a: Tensor, b: Tensor) -> bool:
    """Equal in dtype, shape and every bit."""
    same_type = a.dtype == b.dtype and a.shape == b.shape
    return same_type and a.contiguous().view(-1).view(torch.uint8).equal(
        b.contiguous().view(-1).view(torch.uint8)
    )


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
