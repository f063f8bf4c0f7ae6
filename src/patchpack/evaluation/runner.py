"""Suites on one run: what each needs of the data, in one place, and the report that they make."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from patchpack.batch import PackedBatch
from patchpack.checkpoint import write_text_atomic
from patchpack.data.records import BadDataset
from patchpack.evaluation import Data, data_of, relabel
from patchpack.evaluation.calibration import calibration, temperature_of
from patchpack.evaluation.cost import cost, points_of
from patchpack.evaluation.fairness import fairness
from patchpack.evaluation.linear_probe import fewshot
from patchpack.evaluation.output_cache import OutputCache, open_output_cache
from patchpack.evaluation.request import Request
from patchpack.evaluation.robustness import robustness
from patchpack.inference.operating_point import (
    OperatingPoint,
    read_operating_point,
    write_operating_point,
)
from patchpack.metrics.operating_points import MeasuredPoint, choose
from patchpack.metrics.outputs import ModelOutput
from patchpack.tasks.classification.predictor import ClassificationPredictor
from patchpack.tasks.contrastive.predictor import PLAIN, ImageTextPredictor
from patchpack.visualize.html import page
from patchpack.visualize.section import Section


class Runner:
    """One run, and the images that it is asked about."""

    def __init__(
        self,
        run: Path,
        model: ClassificationPredictor | ImageTextPredictor,
        request: Request,
        *,
        templates: tuple[str, ...] = PLAIN,
        log: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.run, self.model, self.request, self.log = run, model, request, log
        self.templates = templates
        self._trials: dict[str, OutputCache] = {}  # by split

    def sections(self) -> list[Section]:
        """What each suite found, in the order asked for."""
        return [self._section(name) for name in self.request.suites]

    def points(self) -> list[MeasuredPoint]:
        """Every budget and cascade, as measured on the validation split, for a choice."""
        return points_of(self._trial(self.request.val_split), self.request.budgets)

    def singles(self) -> list[MeasuredPoint]:
        """Every budget by itself, on the split that is judged."""
        points = points_of(self._trial(self.request.split), self.request.budgets)
        return [point for point in points if point.second_pass_tokens is None]

    def left_out(self) -> list[str]:
        """Images of the split that no suite could judge by, since they cannot be read."""
        cache = self._trials.get(self.request.split)
        return cache.left_out() if cache else []

    def _section(self, name: str) -> Section:
        asked, budgets = self.request, sorted(self.request.budgets)
        if name == "fairness":
            return self._fairness(budgets)
        cache = self._trial(asked.split)
        if name == "cost":
            return cost(cache, budgets)
        if name == "calibration":
            temperature = None
            if asked.fit_temperature:
                operating_point = read_operating_point(self.run)
                used = (
                    operating_point.max_tokens or self.model.spec.eval_tokens
                )  # what predict uses
                temperature = temperature_of(self._trial(asked.val_split), used)
                write_operating_point(self.run, replace(operating_point, temperature=temperature))
            return calibration(cache, budgets, temperature)
        if name == "robustness":
            shifted = (
                self._labelled(asked.split, asked.shifted_data) if asked.shifted_data else None
            )
            return robustness(
                cache, asked.robustness_tokens or budgets[-1], asked.severities, shifted
            )
        return fewshot(cache, self._labelled(asked.train_split), budgets)

    def _fairness(self, budgets: Sequence[int]) -> Section:
        asked = self.request
        train, test = (self._data(split) for split in (asked.train_split, asked.split))

        def answer(batch: PackedBatch) -> ModelOutput:
            vectors = self.model.vectors(batch)
            return ModelOutput(vectors[:, :1], vectors)  # of no classes

        cache = OutputCache(self.run, self.model, test, answer, "features", self.log)
        return fairness(cache, train, test, asked.attributes, budgets)

    def _trial(self, split: str) -> OutputCache:
        if split not in self._trials:
            self._trials[split] = open_output_cache(
                self.run,
                self.model,
                self._labelled(split),
                templates=self.templates,
                log=self.log,
            )
        return self._trials[split]

    def _data(self, split: str, data: Path | None = None) -> Data:
        asked = self.request
        return data_of(
            self.run, split=split, data=data or asked.data,
            where=() if data else asked.where, max_bad_fraction=asked.max_bad_fraction,
            require_labels=isinstance(self.model, ClassificationPredictor),
        )  # fmt: skip

    def _labelled(self, split: str, data: Path | None = None) -> Data:
        found = self._data(split, data)
        if not found.index.classes:
            raise BadDataset(f"{found.index.root} has no labels to judge by")
        if isinstance(self.model, ImageTextPredictor):
            return found
        classes = self.model.spec.classes
        index = relabel(found.index, classes, self.request.label_map)
        return replace(found, index=index)


def save_operating_point(
    run: Path, points: Sequence[MeasuredPoint], **limits: float | None
) -> MeasuredPoint:
    """Choose within limits, and keep the choice with the model."""
    point = choose(points, **limits)
    chosen = OperatingPoint(
        max_tokens=point.tokens,
        second_pass_tokens=point.second_pass_tokens,
        threshold=point.threshold,
        temperature=read_operating_point(run).temperature,
    )
    write_operating_point(run, chosen)
    return point


def write_report(
    folder: Path, name: str, title: str, summary: str, sections: Sequence[Section]
) -> Path:
    """<name>.html, .md and .json in a folder, and the pictures of the second in <name>/."""
    pictures = folder / name
    pictures.mkdir(parents=True, exist_ok=True)
    for section in sections:
        for file, picture in zip(section.picture_names(), section.pictures, strict=True):
            (pictures / file).write_bytes(picture.png)
    markdown = [f"# {title}\n", f"{summary}\n", *(s.markdown(name) for s in sections)]
    numbers = {section.name: section.numbers for section in sections}
    write_text_atomic(folder / f"{name}.md", "\n".join(markdown))
    write_text_atomic(folder / f"{name}.json", json.dumps(numbers, indent=1) + "\n")
    html = page(title, summary, [(section.title, section.html()) for section in sections])
    write_text_atomic(folder / f"{name}.html", html)
    return folder / f"{name}.html"
