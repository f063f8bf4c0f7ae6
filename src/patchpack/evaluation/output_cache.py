"""Cached model outputs per evaluation condition, so that suites share them.

Files lie in the run folder, or below the folder of the results, keyed by a hash of weights, images,
condition and query; a stopped evaluation continues from them. Where they cannot be written, outputs
stay in memory.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from patchpack.batch import PackedBatch
from patchpack.checkpoint import MANIFEST, list_checkpoints
from patchpack.data.file_cache import file_signature
from patchpack.data.packing.dropping import ConstantDrop
from patchpack.data.packing.resolution import FitTokens
from patchpack.data.pipeline import EvalView
from patchpack.data.transforms.perturbations import Perturbation
from patchpack.inference.measure import EvalData, view_batches, view_of
from patchpack.inference.predictor import Predictor
from patchpack.metrics.calibration import Link, sigmoid, softmax
from patchpack.metrics.outputs import ModelOutput, Predictions, collect_predictions
from patchpack.printable import message_of
from patchpack.regular_files import open_regular
from patchpack.run import CHECKPOINTS
from patchpack.train.items import fingerprint
from patchpack.writing import OutputExists, replace_file

FOLDER = "outputs"  # in the run folder, or in that of the results


@dataclass(frozen=True)
class EvalCondition:
    """One way to show images to a model."""

    tokens: int  # maximum tokens per image
    enlarge: bool = False  # enlarge small images to `tokens` too
    drop: float = 0.0  # share of tokens dropped
    perturbation: Perturbation | None = None

    @property
    def name(self) -> str:
        parts = [f"{self.tokens} tokens"]
        parts += ["enlarged"] if self.enlarge else []
        parts += [f"{self.drop:.0%} dropped"] if self.drop else []
        return ", ".join(parts + ([self.perturbation.name] if self.perturbation else []))

    def view(self, predictor: Predictor) -> EvalView:
        """The condition as packing reads it."""
        view = view_of(predictor, self.tokens)
        return replace(
            view,
            resolution=FitTokens(tokens=self.tokens) if self.enlarge else view.resolution,
            dropping=ConstantDrop(rate=self.drop) if self.drop else view.dropping,
            perturbation=self.perturbation,
        )


class OutputCache:
    """The outputs of one model on one set of images, computed once per condition.

    score  from a pack to the outputs that are cached
    query  what the outputs depend on beside weights and images (classes, templates)
    log    receives a line for each condition that is computed
    out    folder of the results, where outputs are kept; None: the run folder
    """

    def __init__(
        self,
        run: Path,
        predictor: Predictor,
        data: EvalData,
        score: Callable[[PackedBatch], ModelOutput],
        query: object,
        log: Callable[[str], None] = lambda line: None,
        out: Path | None = None,
    ) -> None:
        self.run, self.predictor, self.data, self.query = run, predictor, data, query
        self.folders = tuple(dict.fromkeys((out or run, run)))  # written to is the first
        self._unwritten: dict[str, Predictions] = {}
        self.score, self.log = score, log
        self.link: Link = sigmoid if getattr(predictor, "sigmoids", False) else softmax
        manifest = list_checkpoints(run / CHECKPOINTS, "best")[0] / MANIFEST
        self._weights = hashlib.sha256(manifest.read_bytes()).hexdigest()
        self._data_keys: dict[EvalData, tuple] = {}
        self._readable: set[str] | None = None

    def outputs(self, condition: EvalCondition, data: EvalData | None = None) -> Predictions:
        """Outputs in the order of the keys of the images; of other images, if given."""
        data = data or self.data
        name = self._name(condition, data)
        outputs = self._kept(name)
        if outputs is None:
            self.log(f"{len(data.index):,} {data.index.item_name} at {condition.name}")
            outputs = self._compute(condition, data).sorted()
            self._keep(name, outputs, with_features=condition.perturbation is None)
        if data is self.data:
            self._readable = set(outputs.keys)
        return replace(outputs, link=self.link)

    def unreadable(self) -> list[str]:
        """Labelled images that could not be read; empty before the first outputs."""
        if self._readable is None:
            return []
        labels = self.data.index.label_of
        return sorted({key for key in labels if labels[key]} - self._readable)

    def _kept(self, name: str) -> Predictions | None:
        if name in self._unwritten:
            return self._unwritten[name]
        files = (_read(folder / FOLDER / f"{name}.npz") for folder in self.folders)
        return next((outputs for outputs in files if outputs is not None), None)

    def _keep(self, name: str, outputs: Predictions, *, with_features: bool) -> None:
        """Write outputs, or hold them where that is impossible; the results do not depend on it."""
        try:
            _write(self.folders[0] / FOLDER / f"{name}.npz", outputs, with_features=with_features)
        except (OSError, OutputExists) as error:
            if not self._unwritten:
                self.log(f"outputs are not kept for further evaluations: {message_of(error)}")
            self._unwritten[name] = outputs

    def _name(self, condition: EvalCondition, data: EvalData) -> str:
        if data not in self._data_keys:
            index = data.index
            files = [file_signature(index.path(number)) for number in range(len(index))]
            self._data_keys[data] = (str(index.root.resolve()), fingerprint(index), files)
        parts = (self._weights, *self._data_keys[data], repr(condition), self.query)
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]

    def _compute(self, condition: EvalCondition, data: EvalData) -> Predictions:
        unreadable = data.unreadable()
        view = condition.view(self.predictor)
        batches = view_batches(self.predictor, data.index, view, unreadable)
        outputs = collect_predictions(
            self.score, batches, flops=lambda batch: self.predictor.flops(batch.lengths)
        )
        for key, reason in unreadable.reasons.items():
            self.log(f"skipped: {key}: {reason}")
        return outputs


def _write(path: Path, outputs: Predictions, *, with_features: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {"logits": outputs.logits, "labels": outputs.labels, "keys": np.array(outputs.keys)}
    if with_features and outputs.features is not None:
        arrays["features"] = outputs.features
    cost = np.array([outputs.gflops, outputs.ms])
    replace_file(path, lambda file: np.savez(file, cost=cost, **arrays))  # pyrefly: ignore


def _read(path: Path) -> Predictions | None:
    """The cached outputs; None where there are none, or the file does not hold them whole."""
    try:
        with open_regular(path) as file, np.load(file, allow_pickle=False) as cached:
            arrays = {name: cached[name] for name in cached.files}
        gflops, ms = map(float, arrays["cost"])
        logits, labels, keys = (arrays[name] for name in ("logits", "labels", "keys"))
        features = arrays.get("features")
    except Exception:  # of zipfile, zlib or NumPy: damage of any kind is computed again
        return None
    tables = [logits] if features is None else [logits, features]
    whole = labels.dtype == np.int64 and keys.dtype.kind == "U" and labels.shape == keys.shape
    for table in tables:
        whole = whole and table.ndim == 2 and len(table) == len(labels)
        whole = whole and table.dtype == np.float32 and bool(np.isfinite(table).all())
    if not whole:
        return None
    return Predictions(logits, labels, tuple(keys.tolist()), features, gflops, ms)
