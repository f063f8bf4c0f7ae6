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
from patchpack.evaluation.output_cache import Trial, trial_of
from patchpack.evaluation.request import Request
from patchpack.evaluation.robustness import robustness
from patchpack.inference.operating_point import Serving, read_serving, write_serving
from patchpack.metrics.operating_points import Point, choose
from patchpack.metrics.outputs import Answer
from patchpack.tasks.classification.predictor import Predictor
from patchpack.tasks.contrastive.predictor import PLAIN, Matcher
from patchpack.visualize.html import page
from patchpack.visualize.section import Section


class Runner:
    """One run, and the images that it is asked about."""

    def __init__(
        self,
        run: Path,
        model: Predictor | Matcher,
        request: Request,
        *,
        templates: tuple[str, ...] = PLAIN,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.run, self.model, self.request, self.tell = run, model, request, tell
        self.templates = templates
        self._trials: dict[str, Trial] = {}  # by split

    def sections(self) -> list[Section]:
        """What each suite found, in the order asked for."""
        return [self._section(name) for name in self.request.suites]

    def points(self) -> list[Point]:
        """Every budget and cascade, as measured on the validation split, for a choice."""
        return points_of(self._trial(self.request.val_split), self.request.budgets)

    def singles(self) -> list[Point]:
        """Every budget by itself, on the split that is judged."""
        points = points_of(self._trial(self.request.split), self.request.budgets)
        return [point for point in points if point.again is None]

    def left_out(self) -> list[str]:
        """Images of the split that no suite could judge by, since they cannot be read."""
        trial = self._trials.get(self.request.split)
        return trial.left_out() if trial else []

    def _section(self, name: str) -> Section:
        asked, budgets = self.request, sorted(self.request.budgets)
        if name == "fairness":
            return self._fairness(budgets)
        trial = self._trial(asked.split)
        if name == "cost":
            return cost(trial, budgets)
        if name == "calibration":
            temperature = None
            if asked.fit_temperature:
                serving = read_serving(self.run)
                used = serving.max_tokens or self.model.card.eval_tokens  # what predict uses
                temperature = temperature_of(self._trial(asked.val_split), used)
                write_serving(self.run, replace(serving, temperature=temperature))
            return calibration(trial, budgets, temperature)
        if name == "robustness":
            shifted = self._labelled(asked.split, asked.shifted) if asked.shifted else None
            return robustness(trial, asked.at or budgets[-1], asked.severities, shifted)
        return fewshot(trial, self._labelled(asked.train_split), budgets)

    def _fairness(self, budgets: Sequence[int]) -> Section:
        asked = self.request
        train, test = (self._data(split) for split in (asked.train_split, asked.split))

        def answer(batch: PackedBatch) -> Answer:
            vectors = self.model.vectors(batch)
            return Answer(vectors[:, :1], vectors)  # of no classes

        trial = Trial(self.run, self.model, test, answer, "features", self.tell)
        return fairness(trial, train, test, asked.attributes, budgets)

    def _trial(self, split: str) -> Trial:
        if split not in self._trials:
            self._trials[split] = trial_of(
                self.run,
                self.model,
                self._labelled(split),
                templates=self.templates,
                tell=self.tell,
            )
        return self._trials[split]

    def _data(self, split: str, data: Path | None = None) -> Data:
        asked = self.request
        return data_of(
            self.run, split=split, data=data or asked.data,
            where=() if data else asked.where, max_bad_fraction=asked.max_bad_fraction,
            learned=isinstance(self.model, Predictor),
        )  # fmt: skip

    def _labelled(self, split: str, data: Path | None = None) -> Data:
        found = self._data(split, data)
        if not found.index.classes:
            raise BadDataset(f"{found.index.root} has no labels to judge by")
        if isinstance(self.model, Matcher):
            return found
        classes = self.model.card.classes
        index = relabel(found.index, classes, self.request.label_map)
        return replace(found, index=index)


def keep_choice(run: Path, points: Sequence[Point], **limits: float | None) -> Point:
    """Choose within limits, and keep the choice with the model."""
    point = choose(points, **limits)
    chosen = Serving(
        max_tokens=point.tokens,
        again=point.again,
        threshold=point.threshold,
        temperature=read_serving(run).temperature,
    )
    write_serving(run, chosen)
    return point


def write_report(
    folder: Path, name: str, title: str, lead: str, sections: Sequence[Section]
) -> Path:
    """<name>.html, .md and .json in a folder, and the pictures of the second in <name>/."""
    pictures = folder / name
    pictures.mkdir(parents=True, exist_ok=True)
    for section in sections:
        for file, picture in zip(section.picture_names(), section.pictures, strict=True):
            (pictures / file).write_bytes(picture.png)
    markdown = [f"# {title}\n", f"{lead}\n", *(s.markdown(name) for s in sections)]
    numbers = {section.name: section.numbers for section in sections}
    write_text_atomic(folder / f"{name}.md", "\n".join(markdown))
    write_text_atomic(folder / f"{name}.json", json.dumps(numbers, indent=1) + "\n")
    html = page(title, lead, [(section.title, section.html()) for section in sections])
    write_text_atomic(folder / f"{name}.html", html)
    return folder / f"{name}.html"
