"""What steps add up, and the rates that follow from it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class StepTotals(NamedTuple):
    """What steps add up, over packs and ranks; the loss stays on its device until it is logged."""

    loss: Float[Tensor, ""]
    count: float  # of what the loss is summed over: images, pairs, pixels, objects
    images: float
    tokens: float
    flops: float
    stop: float  # ranks that were asked to stop
    bad: float  # images that could not be read
    seconds: float  # passed since the step before


class Meter:
    """Rates of training since the last reading."""

    def __init__(self) -> None:
        self._lap = time.perf_counter()
        self._reset()

    def _reset(self) -> None:
        self._since = time.perf_counter()
        self._waited = self._slots = 0.0
        self._steps: list[StepTotals] = []

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time spent here is waiting for data."""
        began = time.perf_counter()
        yield
        self._waited += time.perf_counter() - began

    @contextmanager
    def pausing(self) -> Iterator[None]:
        """Time spent here is not training."""
        began = time.perf_counter()
        yield
        self._since += time.perf_counter() - began

    def lap(self) -> float:
        """Seconds since the last lap."""
        now = time.perf_counter()
        self._lap, spent = now, now - self._lap
        return spent

    def add(self, sums: StepTotals, slots: int) -> None:
        self._steps.append(sums)
        self._slots += slots

    def read(self) -> dict[str, float]:
        """Mean loss and rates since the last reading."""
        count, images, tokens, flops = (
            sum(getattr(step, name) for step in self._steps)
            for name in ("count", "images", "tokens", "flops")
        )
        loss = float(sum(step.loss for step in self._steps)) / max(1.0, count)  # waits for it
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
