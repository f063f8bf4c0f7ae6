"""Evaluation suites on one run: the data that each needs, and the report that they make."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from patchpack.batch import PackedBatch
from patchpack.data.depth_notice import depth_notice
from patchpack.data.records import BadDataset
from patchpack.evaluation.calibration import calibration, temperature_of
from patchpack.evaluation.cost import cost, points_of
from patchpack.evaluation.fairness import fairness
from patchpack.evaluation.linear_probe import fewshot
from patchpack.evaluation.output_cache import OutputCache
from patchpack.evaluation.request import Request, check_suites, label_scorer_of
from patchpack.evaluation.robustness import robustness
from patchpack.evaluation.run_data import data_of
from patchpack.inference.measure import EvalData
from patchpack.inference.predictor import Predictor
from patchpack.metrics.operating_points import MeasuredPoint, choose
from patchpack.metrics.outputs import ModelOutput
from patchpack.metrics.undefined import json_values
from patchpack.tasks.task import LabelScorer
from patchpack.visualize.html import page
from patchpack.visualize.section import Section, markdown_text


class Runner:
    """One run, and a request for suites on it.

    log  receives lines on progress
    out  folder of the results, where outputs are kept too; None: the run folder

    `point` is what `predict` is to use: the saved operating point until a suite, or `choose_point`,
    changes it. The caller saves it.
    """

    def __init__(
        self,
        run: Path,
        predictor: Predictor,
        request: Request,
        log: Callable[[str], None] = lambda line: None,
        out: Path | None = None,
    ) -> None:
        check_suites(run, predictor, request.suites)
        self.out, self.point = out, predictor.operating_point
        self.run, self.predictor, self.request, self.log = run, predictor, request, log
        self._caches: dict[str, OutputCache] = {}  # by split
        self.messages: tuple[str, ...] = ()  # how the data of the request were read
        self._unread: set[str] = set()  # items of the split whose headers cannot be read

    @property
    def scores_labels(self) -> bool:
        """Whether the model gives scores of labels, and so accuracy over cost."""
        return label_scorer_of(self.predictor) is not None

    def sections(self) -> list[Section]:
        """The result of each suite, in the order of the request."""
        return [self._section(name) for name in self.request.suites]

    def choose_point(self, **limits: float | None) -> MeasuredPoint:
        """The best budget or cascade within limits, measured on the validation split."""
        points = points_of(self._cache(self.request.val_split), self.request.budgets)
        chosen = choose(points, **limits)
        self.point = replace(
            self.point,
            max_tokens=chosen.tokens,
            second_pass_tokens=chosen.second_pass_tokens,
            threshold=chosen.threshold,
        )
        return chosen

    def singles(self) -> list[MeasuredPoint]:
        """Every single budget, measured on the split of the request."""
        points = points_of(self._cache(self.request.split), self.request.budgets)
        return [point for point in points if point.second_pass_tokens is None]

    def unreadable(self) -> list[str]:
        """Images of the split that no suite could use, since they cannot be read."""
        cache = self._caches.get(self.request.split)
        return sorted(self._unread.union(cache.unreadable() if cache else []))

    def _section(self, name: str) -> Section:
        request, budgets = self.request, sorted(self.request.budgets)
        if name == "fairness":
            return self._fairness(budgets)
        if name == "fewshot":
            train = self._labelled(request.train_split).data
            return fewshot(self._features(request.split), train, budgets)
        cache = self._cache(request.split)
        if name == "cost":
            return cost(cache, budgets)
        if name == "calibration":
            temperature = self._temperature() if request.fit_temperature else None
            return calibration(cache, budgets, temperature)
        shifted = None
        if request.shifted_data:
            shifted = self._labelled(request.split, request.shifted_data).data
        tokens = request.robustness_tokens or budgets[-1]
        return robustness(cache, tokens, request.severities, shifted)

    def _temperature(self) -> float:
        """Fitted on the validation split at the tokens that predict uses."""
        tokens = self.point.max_tokens or self.predictor.spec.eval_tokens
        temperature = temperature_of(self._cache(self.request.val_split), tokens)
        self.point = replace(self.point, temperature=temperature)
        return temperature

    def _fairness(self, budgets: Sequence[int]) -> Section:
        request = self.request
        train, test = (self._data(split) for split in (request.train_split, request.split))
        cache = self._feature_cache(test)
        return fairness(cache, train, test, request.attributes, budgets)

    def _vectors(self, batch: PackedBatch) -> ModelOutput:
        """Features alone; the logits are of no classes."""
        vectors = self.predictor.vectors(batch)
        return ModelOutput(vectors[:, :1], vectors)

    def _features(self, split: str) -> OutputCache:
        """Features of a labelled split: those of the label scorer where there is one."""
        if label_scorer_of(self.predictor):
            return self._cache(split)
        return self._feature_cache(self._labelled(split).data)

    def _feature_cache(self, data: EvalData) -> OutputCache:
        return OutputCache(
            self.run, self.predictor, data, self._vectors, "features", self.log, self.out
        )

    def _cache(self, split: str) -> OutputCache:
        if split not in self._caches:
            data, score, query = self._labelled(split)
            if unlabelled := int((data.index.labels < 0).sum()):
                self.log(
                    f"{unlabelled:,} of {len(data.index):,} {data.index.item_name} of the split "
                    f"{split} are not counted: they have no label, or one of no class of the model"
                )
            self._caches[split] = OutputCache(
                self.run, self.predictor, data, score, query, self.log, self.out
            )
        return self._caches[split]

    def _data(self, split: str, data: Path | None = None) -> EvalData:
        request, reading = self.request, self.predictor.spec.reading
        result = data_of(
            self.run, split=split, data=data or request.data,
            where=() if data else request.where, max_bad_fraction=request.max_bad_fraction,
            reading=reading,
        )  # fmt: skip
        if notice := depth_notice(result.index.paths, reading):
            self.log(notice)
        if split == request.split and data is None:
            self.messages = result.messages
            self._unread.update(record.key for record in result.index.unread)
        return result

    def _labelled(self, split: str, data: Path | None = None) -> LabelScorer:
        labelled = self._data(split, data)
        if not labelled.index.classes:
            raise BadDataset(f"{labelled.index.root} has no labels to evaluate")
        scorer = label_scorer_of(self.predictor)
        if scorer is None:
            return LabelScorer(labelled, self._vectors, "features")
        return scorer(self.predictor, labelled, self.request.label_map, self.request.templates)


def report_files(folder: Path, name: str) -> list[Path]:
    """What `write_report` makes in a folder, without the pictures."""
    return [folder / f"{name}{suffix}" for suffix in (".html", ".md", ".json")]


def write_report(
    folder: Path,
    name: str,
    title: str,
    summary: str,
    sections: Sequence[Section],
    write: Callable[[Path, bytes], None],
) -> None:
    """<name>.html, .md and .json in a folder, and the pictures of the second in <name>/.

    write  `writing.write_new`, or `writing.replace_file` in a run's own folder
    """
    pictures = folder / name
    pictures.mkdir(parents=True, exist_ok=True)
    for section in sections:
        for file, picture in zip(section.picture_names(), section.pictures, strict=True):
            write(pictures / file, picture.png)
    paragraphs = [f"# {markdown_text(title)}\n", f"{markdown_text(summary)}\n"]
    markdown = "\n".join([*paragraphs, *(s.markdown(name) for s in sections)])
    numbers = {section.name: section.numbers for section in sections}
    record = json.dumps(json_values(numbers), indent=1)
    html = page(title, summary, [(section.title, section.html()) for section in sections])
    contents = (html, markdown, f"{record}\n")
    for path, text in zip(report_files(folder, name), contents, strict=True):
        write(path, text.encode(errors="backslashreplace"))
