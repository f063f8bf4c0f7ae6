"""A metric by name, and the direction in which it is better."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """The value among an evaluation's metrics that decides which weights are best."""

    name: str
    higher_is_better: bool = True

    def improves(self, value: float, best: float | None) -> bool:
        """Whether a value is better than the best so far; None: there is none yet.

        An undefined value (NaN) is never better.
        """
        if math.isnan(value):
            return False
        if best is None:
            return True
        return value > best if self.higher_is_better else value < best
