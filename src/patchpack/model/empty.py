"""Modules without memory: the names, shapes and types of their tensors, whatever their sizes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

RANDOM = {"normal_", "uniform_", "erfinv_"}


class _NoRandomNumbers(TorchFunctionMode):
    """Draws nothing: for tensors without memory, PyTorch would load its compiler to do so."""

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in RANDOM:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


@contextmanager
def without_memory() -> Iterator[None]:
    """Make modules whose tensors are on the device `meta`."""
    with torch.device("meta"), _NoRandomNumbers():
        yield
