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
from patchpack.checkpoint import MANIFEST, candidates
from patchpack.data.packing.dropping import ConstantDrop
from patchpack.data.packing.resolution import Fit
from patchpack.data.transforms.perturbations import Alteration
from patchpack.evaluation import Data, packed
from patchpack.inference.predictor import ImageModel
from patchpack.metrics.calibration import Link, sigmoid, softmax
from patchpack.metrics.outputs import Answer, Outputs, collect
from patchpack.model.navit import forward_flops
from patchpack.run import CHECKPOINTS, fingerprint
from patchpack.tasks.classification.predictor import Predictor
from patchpack.tasks.contrastive.predictor import PLAIN, Matcher

KEPT = "outputs"  # the folder, in the run's


@dataclass(frozen=True)
class Way:
    """One way of showing images to a model."""

    tokens: int  # most of an image
    enlarge: bool = False  # small images too, to so many
    drop: float = 0.0  # share of tokens left out
    alter: Alteration | None = None

    @property
    def name(self) -> str:
        parts = [f"{self.tokens} tokens"]
        parts += ["enlarged"] if self.enlarge else []
        parts += [f"{self.drop:.0%} dropped"] if self.drop else []
        return ", ".join(parts + ([self.alter.name] if self.alter else []))


class Trial:
    """One model, one set of labelled images, and what was said of them so far.

    question  what is asked beside the images (classes, templates): another one, another answer
    """

    def __init__(
        self,
        run: Path,
        model: ImageModel,
        data: Data,
        answer: Callable[[PackedBatch], Answer],
        question: object,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.run, self.model, self.data, self.question = run, model, data, question
        self.answer, self.tell = answer, tell
        self.link: Link = sigmoid if getattr(model, "sigmoids", False) else softmax
        manifest = candidates(run / CHECKPOINTS, "best")[0] / MANIFEST
        self._weights = hashlib.sha256(manifest.read_bytes()).hexdigest()
        self._known: dict[Data, tuple] = {}
        self._readable: set[str] | None = None

    def outputs(self, way: Way, data: Data | None = None) -> Outputs:
        """What the model says, images in the order of their keys; of other images, if given."""
        data = data or self.data
        path = self.run / KEPT / f"{self._name(way, data)}.npz"
        found = _read(path)
        if found is None:
            self.tell(f"{len(data.index):,} images at {way.name}")
            found = self._ask(way, data).sorted()
            _write(path, found, with_features=way.alter is None)
        if data is self.data:
            self._readable = set(found.keys)
        return replace(found, link=self.link)

    def left_out(self) -> list[str]:
        """Labelled images that outputs lacked, since they cannot be read; none before the first."""
        if self._readable is None:
            return []
        labels = self.data.index.label_of
        return sorted({key for key in labels if labels[key]} - self._readable)

    def _name(self, way: Way, data: Data) -> str:
        if data not in self._known:
            index = data.index
            stamps = [_stamp(index.path(number)) for number in range(len(index))]
            self._known[data] = (str(index.root.resolve()), fingerprint(index), stamps)
        parts = (self._weights, *self._known[data], repr(way), self.question)
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]

    def _ask(self, way: Way, data: Data) -> Outputs:
        bad, config = data.bad_images(), self.model.card.model
        batches = packed(
            self.model,
            data,
            bad,
            tokens=way.tokens,
            resolution=Fit(tokens=way.tokens) if way.enlarge else None,
            alter=way.alter,
            dropping=ConstantDrop(rate=way.drop) if way.drop else None,
        )
        found = collect(
            self.answer, batches, flops=lambda batch: forward_flops(config, batch.lengths)
        )
        for key, reason in bad.reasons.items():
            self.tell(f"left out: {key}: {reason}")
        return found


def trial_of(
    run: Path,
    model: Predictor | Matcher,
    data: Data,
    *,
    templates: tuple[str, ...] = PLAIN,
    tell: Callable[[str], None] = lambda line: None,
) -> Trial:
    """A classifier by its logits, two towers by the names of the data's classes."""
    if isinstance(model, Predictor):
        return Trial(run, model, data, model.answer, "classes", tell)
    names = torch.from_numpy(model.embed_classes(data.index.classes, templates))

    def answer(batch: PackedBatch) -> Answer:
        vectors = model.vectors(batch)
        return Answer(model.scale * vectors @ names.T, vectors)

    return Trial(run, model, data, answer, (data.index.classes, templates), tell)


def _stamp(path: Path) -> tuple[int, int]:
    """What changes when a file does; zeros where there is none."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size


def _write(path: Path, outputs: Outputs, *, with_features: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    arrays = {"logits": outputs.logits, "labels": outputs.labels, "keys": np.array(outputs.keys)}
    if with_features and outputs.features is not None:
        arrays["features"] = outputs.features
    cost = np.array([outputs.gflops, outputs.ms])
    with temporary.open("wb") as file:
        np.savez(file, cost=cost, **arrays)  # pyrefly: ignore
    os.replace(temporary, path)


def _read(path: Path) -> Outputs | None:
    """What was kept; None where nothing was, or it is damaged."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
            features = kept["features"] if "features" in kept else None
            gflops, ms = kept["cost"].tolist()
            keys = tuple(kept["keys"].tolist())
            return Outputs(kept["logits"], kept["labels"], keys, features, gflops, ms)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None
