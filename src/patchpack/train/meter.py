"""Totals of training steps, and throughput computed from them."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class StepTotals(NamedTuple):
    """Totals of one step over packs and ranks."""

    loss: Float[Tensor, ""]  # sum of losses; stays on its device until it is logged
    count: float  # terms of the loss: images, pairs, pixels or objects
    images: float
    tokens: float
    flops: float
    stop: float  # ranks that received a stop signal
    unreadable: float  # images that could not be read
    seconds: float  # time since the previous step, summed over ranks


class Meter:
    """Mean loss and throughput since the last `read`."""

    def __init__(self) -> None:
        self._lap = time.perf_counter()
        self._reset()

    def _reset(self) -> None:
        self._since = time.perf_counter()
        self._waited = self._slots = 0.0
        self._steps: list[StepTotals] = []

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time inside this context as waiting for data."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    @contextmanager
    def pausing(self) -> Iterator[None]:
        """Exclude the time inside this context from throughput."""
        start = time.perf_counter()
        yield
        self._since += time.perf_counter() - start

    def lap(self) -> float:
        """Return the seconds since the last lap."""
        now = time.perf_counter()
        self._lap, spent = now, now - self._lap
        return spent

    def add(self, totals: StepTotals, slots: int) -> None:
        """Add a step whose packs have room for `slots` tokens."""
        self._steps.append(totals)
        self._slots += slots

    def read(self) -> dict[str, float]:
        """Return mean loss and throughput since the last `read`."""
        count, images, tokens, flops = (
            sum(getattr(step, name) for step in self._steps)
            for name in ("count", "images", "tokens", "flops")
        )
        loss = float(sum(step.loss for step in self._steps)) / max(
            1.0, count
        )  # syncs with the device
        seconds = time.perf_counter() - self._since
        values = {
            "loss": loss,
            "images_per_s": images / seconds,
            "tokens_per_s": tokens / seconds,
            "gflops_per_s": flops / seconds / 1e9,
            "fill": tokens / max(1.0, self._slots),
            "data_wait": self._waited / seconds,
        }
        self._reset()
        return values
