"""Evaluation data, packs of it at a token budget, and the cost of one pass over it."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from patchpack.batch import PackedBatch
from patchpack.data.bad_images import BadImages
from patchpack.data.index import Index
from patchpack.data.pipeline import EvalView, evaluation_batches
from patchpack.inference.predictor import PACK_TOKENS, Predictor


@dataclass(frozen=True, eq=False)
class EvalData:
    """Items to evaluate on, and the fraction of them that may be unreadable."""

    index: Index
    max_bad_fraction: float
    is_own: bool = True  # the dataset that the model was trained on
    messages: tuple[str, ...] = ()  # how the whole dataset was read: splits, files passed over

    def unreadable(self) -> BadImages:
        """A record of the items that cannot be read: so far, those whose headers cannot.

        Raises BadDataset where these are too many.
        """
        index = self.index
        labels = index.label_of | {record.key: record.label for record in index.unread}
        reasons = dict(index.bad)
        bad = BadImages(index.root, labels, self.max_bad_fraction, reasons, index.item_name)
        bad.check()
        return bad


def view_of(predictor: Predictor, tokens: int, start_fraction: float = 0.5) -> EvalView:
    """How items are prepared for a predictor at a token budget, as in its training run.

    start_fraction  position of the first frame in a clip, in [0, 1)
    """
    spec = predictor.spec
    return EvalView(
        tokens=tokens,
        resolution=spec.resolution,
        clip_sampling=spec.clip_sampling(start_fraction),
        full_size_decode=predictor.full_size_decode,
    )


def view_batches(
    predictor: Predictor, index: Index, view: EvalView, unreadable: BadImages
) -> Iterator[PackedBatch]:
    """Every item of the index once; those that cannot be read go to `unreadable`."""
    for pack in evaluation_batches(index, predictor.spec.input, view, max_tokens=PACK_TOKENS):
        unreadable.add(pack.unreadable)
        yield pack.batch


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Compute and time of one evaluation at a token budget."""

    max_tokens: int  # maximum tokens per image or clip
    gflops_per_image: float  # mean of a forward pass
    images_per_s: float  # loading included
    unreadable: tuple[str, ...]  # "key: reason" of each item that could not be read

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"unreadable": list(self.unreadable)}


class CostMeter:
    """Counts the operations and the time of a pass over batches.

    predictor  whose operations are counted
    views      how often each item occurs
    """

    def __init__(self, predictor: Predictor, views: int = 1) -> None:
        self.predictor, self.views = predictor, views
        self.flops, self.images = 0, 0.0
        self._began = time.perf_counter()

    def over(self, batches: Iterable[PackedBatch]) -> Iterator[PackedBatch]:
        """The batches, counted as they pass."""
        for batch in batches:
            self.flops += self.predictor.flops(batch.lengths)
            self.images += batch.num_images / self.views
            yield batch

    def cost(self, max_tokens: int, unreadable: BadImages) -> Cost:
        seconds = time.perf_counter() - self._began
        return Cost(
            max_tokens=max_tokens,
            gflops_per_image=self.flops / max(1, self.images) / 1e9,
            images_per_s=self.images / seconds,
            unreadable=tuple(f"{key}: {reason}" for key, reason in unreadable.reasons.items()),
        )
