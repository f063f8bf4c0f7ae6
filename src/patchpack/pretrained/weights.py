"""The tensors of a source, taken by name, once, of the expected shape; else an error names them."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from patchpack.pretrained.errors import PretrainedError

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
SHOWN = 5  # names in a message, per problem


class Affine(NamedTuple):
    """Weight and bias of a linear layer or a norm."""

    weight: Tensor
    bias: Tensor


class Weights:
    """Hands out tensors as float32. Problems are collected, so that `finish` names all of them.

    source  file or folder, for messages
    """

    def __init__(self, tensors: Mapping[str, Tensor], source: str) -> None:
        self._left, self.source = dict(tensors), source
        self._missing: list[str] = []
        self._misshapen: list[str] = []
        self._unusable: list[str] = []

    def has(self, name: str) -> bool:
        """Whether a tensor was not taken yet."""
        return name in self._left

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor; () where it is missing, which `take` reports."""
        return tuple(self._left[name].shape) if name in self._left else ()

    def count(self, pattern: str) -> int:
        """The length of a run of tensors named by `pattern` with {i} = 0, 1, 2 …"""
        number = 0
        while pattern.format(i=number) in self._left:
            number += 1
        return number

    def take(self, name: str, *shape: int) -> Float[Tensor, "..."]:
        """A tensor of this shape; zeros where there is a problem, which `finish` raises."""
        tensor = self._left.pop(name, None)
        if tensor is None:
            self._missing.append(name)
            return torch.zeros(shape)
        if tuple(tensor.shape) != shape:
            self._misshapen.append(f"{name}: {list(tensor.shape)} for {list(shape)}")
            return torch.zeros(shape)
        if tensor.dtype not in FLOATS:
            self._unusable.append(f"{name}: {str(tensor.dtype).removeprefix('torch.')}")
            return torch.zeros(shape)
        if not torch.isfinite(tensor).all():
            self._unusable.append(f"{name}: not finite")
        return tensor.float()

    def linear(self, name: str, outputs: int, inputs: int, bias: bool = True) -> Affine:
        """A linear layer; without a bias in the source, the bias is zeros.

        name  of the layer; one that ends with _ continues as in PyTorch's "in_proj_weight"
        """
        stem, missing = name if name.endswith("_") else f"{name}.", len(self._missing)
        weight = self.take(f"{stem}weight", outputs, inputs)
        if not weight.any() and len(self._missing) == missing:
            self._unusable.append(f"{stem}weight: all zeros, as in a file that was cut off")
        return Affine(weight, self.take(f"{stem}bias", outputs) if bias else torch.zeros(outputs))

    def norm(self, name: str, dim: int) -> Affine:
        """Scale and shift of a LayerNorm."""
        return Affine(self.take(f"{name}.weight", dim), self.take(f"{name}.bias", dim))

    def finish(self, left_out: Sequence[str] = ()) -> tuple[str, ...]:
        """Return the names left out, sorted.

        left_out  patterns of tensors that the model does not need, as "decoder.*"

        Raise PretrainedError for tensors that are missing, of another shape or unusable, and for
        those that nobody took.
        """
        extra = [n for n in self._left if not any(fnmatch(n, pattern) for pattern in left_out)]
        problems = {
            "missing": self._missing,
            "unexpected": sorted(extra),
            "of another shape than the config gives": self._misshapen,
            "unusable": self._unusable,
        }
        texts = [
            f"{len(names)} tensors are {problem} "
            f"({', '.join(names[:SHOWN])}{', …' if len(names) > SHOWN else ''})"
            for problem, names in problems.items()
            if names
        ]
        if texts:
            raise PretrainedError(
                f"{self.source}: {'; '.join(texts)}: it is incomplete, or of another family than "
                "its config names; download it again"
            )
        return tuple(sorted(self._left))
