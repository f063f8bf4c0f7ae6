"""Absolute relative error of depth at the native size of the images: lower is better."""

from collections.abc import Iterable
from dataclasses import dataclass

from patchpack.tasks.depth.predictor import DepthPredictor

from patchpack.batch import PackedBatch
from patchpack.distributed import World, all_reduce_floats
from patchpack.metrics.undefined import ratio
from patchpack.tasks.task import Evaluator


@dataclass(frozen=True)
class DepthResult:
    """Sums over pixels of known depth."""

    error: float  # sum of |predicted − true| / true
    accurate: float  # pixels within a factor of 1.25
    pixels: float

    @property
    def metrics(self) -> dict[str, float]:
        return {
            "abs_rel": ratio(self.error, self.pixels),
            "delta1": ratio(self.accurate, self.pixels),
        }

    @property
    def notes(self) -> list[str]:
        return [] if self.pixels else ["no pixel of the depth maps has a depth"]


class DepthEvaluator(Evaluator):
    """Eigen et al. (arXiv 1406.2283), §4.1."""

    def run(
        self,
        predictor: DepthPredictor,
        batches: Iterable[PackedBatch],
        world: World | None = None,
    ) -> DepthResult:
        error = accurate = pixels = 0.0
        for batch in batches:
            targets = batch.targets.get("depth", [])
            predictions = predictor.depth(batch, [tuple(t.shape) for t in targets])
            for pred, target in zip(predictions, targets, strict=True):
                known = target > 0
                p, t = pred[known], target[known]
                error += float(((p - t).abs() / t).sum())
                accurate += float(((p / t).maximum(t / p) < 1.25).sum())
                pixels += float(known.sum())
        return DepthResult(*all_reduce_floats([error, accurate, pixels], world or World()))
