"""A model on trial: its outputs in any way of showing it images, each asked for once.

What it says is kept in the run's folder, so that suites share it and a stopped evaluation goes on
where it was. What is kept names the weights, the images and the way, and is no use to others.
"""

import hashlib
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from patchpack.batch import PackedBatch
from patchpack.checkpoint import MANIFEST, list_checkpoints
from patchpack.data.packing.dropping import ConstantDrop
from patchpack.data.packing.resolution import FitTokens
from patchpack.data.transforms.perturbations import Perturbation
from patchpack.evaluation import Data, packed
from patchpack.inference.predictor import Predictor
from patchpack.metrics.calibration import Link, sigmoid, softmax
from patchpack.metrics.outputs import ModelOutput, Predictions, collect_predictions
from patchpack.model.navit import forward_flops
from patchpack.run import CHECKPOINTS, fingerprint
from patchpack.tasks.classification.predictor import ClassificationPredictor
from patchpack.tasks.contrastive.predictor import PLAIN, ImageTextPredictor

KEPT = "outputs"  # the folder, in the run's


@dataclass(frozen=True)
class EvalCondition:
    """One way of showing images to a model."""

    tokens: int  # most of an image
    enlarge: bool = False  # small images too, to so many
    drop: float = 0.0  # share of tokens left out
    perturbation: Perturbation | None = None

    @property
    def name(self) -> str:
        parts = [f"{self.tokens} tokens"]
        parts += ["enlarged"] if self.enlarge else []
        parts += [f"{self.drop:.0%} dropped"] if self.drop else []
        return ", ".join(parts + ([self.perturbation.name] if self.perturbation else []))


class OutputCache:
    """One model, one set of labelled images, and what was said of them so far.

    question  what is asked beside the images (classes, templates): another one, another answer
    """

    def __init__(
        self,
        run: Path,
        model: Predictor,
        data: Data,
        answer: Callable[[PackedBatch], ModelOutput],
        question: object,
        log: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.run, self.model, self.data, self.question = run, model, data, question
        self.answer, self.log = answer, log
        self.link: Link = sigmoid if getattr(model, "sigmoids", False) else softmax
        manifest = list_checkpoints(run / CHECKPOINTS, "best")[0] / MANIFEST
        self._weights = hashlib.sha256(manifest.read_bytes()).hexdigest()
        self._known: dict[Data, tuple] = {}
        self._readable: set[str] | None = None

    def outputs(self, condition: EvalCondition, data: Data | None = None) -> Predictions:
        """What the model says, images in the order of their keys; of other images, if given."""
        data = data or self.data
        path = self.run / KEPT / f"{self._name(condition, data)}.npz"
        found = _read(path)
        if found is None:
            self.log(f"{len(data.index):,} images at {condition.name}")
            found = self._ask(condition, data).sorted()
            _write(path, found, with_features=condition.perturbation is None)
        if data is self.data:
            self._readable = set(found.keys)
        return replace(found, link=self.link)

    def left_out(self) -> list[str]:
        """Labelled images that outputs lacked, since they cannot be read; none before the first."""
        if self._readable is None:
            return []
        labels = self.data.index.label_of
        return sorted({key for key in labels if labels[key]} - self._readable)

    def _name(self, condition: EvalCondition, data: Data) -> str:
        if data not in self._known:
            index = data.index
            stamps = [_file_signature(index.path(number)) for number in range(len(index))]
            self._known[data] = (str(index.root.resolve()), fingerprint(index), stamps)
        parts = (self._weights, *self._known[data], repr(condition), self.question)
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]

    def _ask(self, condition: EvalCondition, data: Data) -> Predictions:
        bad, config = data.bad_images(), self.model.spec.model
        batches = packed(
            self.model,
            data,
            bad,
            tokens=condition.tokens,
            resolution=FitTokens(tokens=condition.tokens) if condition.enlarge else None,
            perturbation=condition.perturbation,
            dropping=ConstantDrop(rate=condition.drop) if condition.drop else None,
        )
        found = collect_predictions(
            self.answer, batches, flops=lambda batch: forward_flops(config, batch.lengths)
        )
        for key, reason in bad.reasons.items():
            self.log(f"left out: {key}: {reason}")
        return found


def open_output_cache(
    run: Path,
    model: ClassificationPredictor | ImageTextPredictor,
    data: Data,
    *,
    templates: tuple[str, ...] = PLAIN,
    log: Callable[[str], None] = lambda line: None,
) -> OutputCache:
    """A classifier by its logits, two towers by the names of the data's classes."""
    if isinstance(model, ClassificationPredictor):
        return OutputCache(run, model, data, model.answer, "classes", log)
    names = torch.from_numpy(model.embed_classes(data.index.classes, templates))

    def answer(batch: PackedBatch) -> ModelOutput:
        vectors = model.vectors(batch)
        return ModelOutput(model.scale * vectors @ names.T, vectors)

    return OutputCache(run, model, data, answer, (data.index.classes, templates), log)


def _file_signature(path: Path) -> tuple[int, int]:
    """What changes when a file does; zeros where there is none."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size


def _write(path: Path, outputs: Predictions, *, with_features: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    arrays = {"logits": outputs.logits, "labels": outputs.labels, "keys": np.array(outputs.keys)}
    if with_features and outputs.features is not None:
        arrays["features"] = outputs.features
    cost = np.array([outputs.gflops, outputs.ms])
    with temporary.open("wb") as file:
        np.savez(file, cost=cost, **arrays)  # pyrefly: ignore
    os.replace(temporary, path)


def _read(path: Path) -> Predictions | None:
    """What was kept; None where nothing was, or it is damaged."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
            features = kept["features"] if "features" in kept else None
            gflops, ms = kept["cost"].tolist()
            keys = tuple(kept["keys"].tolist())
            return Predictions(kept["logits"], kept["labels"], keys, features, gflops, ms)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None
