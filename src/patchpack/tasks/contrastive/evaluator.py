"""Retrieval recall of images and texts, and zero-shot accuracy where images are labelled."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from patchpack.batch import PackedBatch
from patchpack.data.annotations.captions import Captions
from patchpack.data.index import Index
from patchpack.distributed import World, all_gather_objects, all_gather_rows
from patchpack.metrics.classification import ClassificationCounts, count
from patchpack.metrics.retrieval import encode_captions, recalls, select_readable
from patchpack.metrics.undefined import defined
from patchpack.tasks.classification.evaluator import accuracy_notes, check_finite
from patchpack.tasks.contrastive.predictor import ImageTextPredictor
from patchpack.tasks.task import Evaluator

ROWS = 4096  # images scored at a time


@dataclass(frozen=True)
class ContrastiveResult:
    """Either side is None where the data have no captions, or no labels."""

    recalls: dict[str, float] | None
    images: int = 0  # with a caption, and readable
    texts: int = 0  # distinct captions of these
    counts: ClassificationCounts | None = None  # of zero-shot classification
    classes: tuple[str, ...] = ()  # of these classes

    @property
    def metrics(self) -> dict[str, float]:
        return {name: value for name, value in (self.recalls or {}).items() if "recall" in name}

    @property
    def notes(self) -> list[str]:
        notes = [] if self.counts is None else accuracy_notes(self.counts)
        undefined = [n for n, v in (self.recalls or {}).items() if not defined(v) and "@" in n]
        if undefined:
            notes.append(
                f"{', '.join(undefined)} are undefined: none of {self.images:,} images and "
                f"{self.texts:,} texts has as many wrong candidates as k"
            )
        return notes


class ContrastiveEvaluator(Evaluator):
    """Retrieval over all captions of all images, in both directions; zero-shot classification by
    the embedding of each class name.

    index      all images
    captioned  those with captions, the keys of which are in `index`; None: no retrieval
    templates  prompts with {} in place of a class name; None: no zero-shot classification
    """

    def __init__(
        self, index: Index, captioned: Index | None, templates: Sequence[str] | None = None
    ) -> None:
        super().__init__(index)
        self.captioned, self.templates = captioned, templates

    def run(
        self,
        predictor: ImageTextPredictor,
        batches: Iterable[PackedBatch],
        world: World | None = None,
    ) -> ContrastiveResult:
        world = world or World()
        vectors: list[Tensor] = []
        keys: list[str] = []
        for batch in batches:
            vectors.append(predictor.vectors(batch))
            keys += batch.keys
        empty = torch.empty(0, predictor.dim)
        local = torch.cat(vectors) if vectors else empty
        rows, _ = all_gather_rows(local)
        if not rows.isfinite().all():
            raise ValueError(
                f"the vectors of {int((~rows.isfinite()).any(1).sum()):,} of {len(rows):,} images "
                f"of {self.index.root} are not finite: the model's weights are damaged or have "
                "diverged"
            )
        keys = all_gather_objects(keys, world)
        result = self._retrieval(predictor, rows, keys)
        if self.templates is None or not keys:
            return result
        counts = self._zero_shot(predictor, rows, keys, self.templates)
        check_finite(counts, self.index)
        return replace(result, counts=counts, classes=self.index.classes)

    def _retrieval(
        self, predictor: ImageTextPredictor, rows: Tensor, keys: list[str]
    ) -> ContrastiveResult:
        if self.captioned is None:
            return ContrastiveResult(None)
        numbers = {key: number for number, key in enumerate(self.captioned.keys)}
        known = [position for position, key in enumerate(keys) if key in numbers]
        images = [numbers[keys[position]] for position in known]
        if not images:
            return ContrastiveResult(None)
        captions = self.captioned.annotation(Captions)
        with torch.inference_mode(), predictor.precision():
            texts, pairs = encode_captions(predictor.model, captions, predictor.device)
        sides = select_readable(rows[known], texts.cpu(), pairs, images)
        return ContrastiveResult(recalls(*sides), images=len(images), texts=len(sides[1]))

    def _zero_shot(
        self,
        predictor: ImageTextPredictor,
        rows: Tensor,
        keys: list[str],
        templates: Sequence[str],
    ) -> ClassificationCounts:
        classes = torch.from_numpy(predictor.embed_classes(self.index.classes, templates))
        labels = dict(zip(self.index.keys, self.index.labels.tolist(), strict=True))
        truth = torch.tensor([labels[key] for key in keys])
        known = truth >= 0
        parts = [ClassificationCounts.none(len(self.index.classes))]
        for vectors, answers in zip(rows[known].split(ROWS), truth[known].split(ROWS), strict=True):
            parts.append(count(predictor.scale * vectors @ classes.T, answers))
        return ClassificationCounts.merge(parts)
