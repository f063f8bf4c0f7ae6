"""`patchpack eval`: what a run's best weights do, at token budgets."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from tyro.conf import Positional

from patchpack.cli.options import refuse_others
from patchpack.data.annotations.captions import NoTexts
from patchpack.data.annotations.masks import check_classes
from patchpack.data.transforms.corruptions import SEVERITIES
from patchpack.evaluation import (
    BudgetResult,
    Data,
    RetrievalResult,
    classify_at,
    data_of,
    pairs_of,
    retrieve_at,
    zero_shot_at,
)
from patchpack.evaluation.request import (
    NEEDS_REPORT,
    Request,
    default_budgets,
    read_label_map,
    suites_of,
)
from patchpack.inference.output_files import make_folder
from patchpack.loading import load, load_labelling
from patchpack.metrics.classification import ClassificationCounts, table
from patchpack.metrics.detection import MAX_DETECTIONS
from patchpack.metrics.retrieval import RECALL_AT
from patchpack.tasks.classification.predictor import ClassificationPredictor
from patchpack.tasks.classification.report import draw_clips
from patchpack.tasks.classification.video_predictor import VideoClassificationPredictor
from patchpack.tasks.contrastive.predictor import PLAIN, ImageTextPredictor
from patchpack.tasks.detection.predictor import DetectionPredictor
from patchpack.tasks.detection.report import eval_boxes
from patchpack.tasks.segmentation.predictor import SegmentationPredictor
from patchpack.tasks.segmentation.report import eval_pixels
from patchpack.visualize.tables import cost_of, new_table

WAYS = {"image_to_text": "image to text", "text_to_image": "text to image"}


@dataclass(frozen=True, kw_only=True)
class Eval:
    """How good a run's best weights are, at token budgets: accuracy of classifiers; recall of
    models of images and texts, and where images are labelled, accuracy by the names of the
    classes; mean IoU of segmenters; average precision of detectors."""

    run: Positional[Path]  # the run's folder
    data: Path | None = None  # a folder or manifest; the run's own data when absent
    split: str = "test"
    where: tuple[str, ...] = ()  # "column=value": the images of a manifest to take
    budgets: tuple[int, ...] = ()  # most tokens of an image; the run's own when empty
    views: int = 1  # of a clip, at places spread in time, whose logits are averaged
    max_detections: int = MAX_DETECTIONS  # of an image that count for average precision, the best
    sliding_window: bool = False  # large images at their size, through windows of so many tokens
    templates: Path | None = None  # a line each, with {} where a class's name goes
    suite: str = ""  # of cost, calibration, robustness, fewshot, fairness, with commas between
    max_ms: float | None = None  # of an image: keep the best budget or cascade within it …
    max_gflops: float | None = None  # … or within these operations …
    min_accuracy: float | None = None  # … or the cheapest that is so accurate on val; for predict
    fit_temperature: bool = False  # of the logits, on val, and keep it for predict
    robustness_tokens: int | None = (
        None  # tokens of an image for robustness; the largest budget when absent
    )
    severities: tuple[int, ...] = SEVERITIES  # of corruptions
    shifted_data: Path | None = None  # another rendition of the same classes, for robustness
    attributes: tuple[str, ...] = ()  # columns of a manifest, for fairness
    label_map: Path | None = None  # JSON: {class of the data: class of the model}
    out: Path | None = None  # where the results go; the run's folder when absent
    max_bad_fraction: float | None = None  # share of unreadable images allowed; the run's own
    json: bool = False  # print JSON


USES = {
    "views": (VideoClassificationPredictor,),
    "max_detections": (DetectionPredictor,),
    "sliding_window": (SegmentationPredictor,),
    "templates": (ImageTextPredictor,),
}


SUITE_OPTIONS = ("robustness_tokens", "shifted_data", "attributes", "label_map")  # options


def run_eval(options: Eval) -> None:
    limits = {n: getattr(options, n) for n in ("max_ms", "max_gflops", "min_accuracy")}
    chooses = any(limit is not None for limit in limits.values())
    if options.suite or chooses or options.fit_temperature:
        judged = load_labelling(options.run)
        refuse_others(options, judged, USES)
        request = _request(options, judged, chooses)
        try:
            from patchpack.cli.report import report_suites
        except ImportError as error:
            raise ImportError(f"{NEEDS_REPORT} ({error})") from error
        report_suites(
            options.run, judged, request,
            limits=limits if chooses else {}, templates=tuple(read_templates(options.templates)),
            out=options.out or options.run, as_json=options.json,
        )  # fmt: skip
        return
    for name in SUITE_OPTIONS:
        if getattr(options, name):
            raise ValueError(f"--{name.replace('_', '-')} needs --suite")
    model = load(options.run)
    refuse_others(options, model, USES)
    data = data_of(
        options.run,
        data=options.data,
        split=options.split,
        where=options.where,
        max_bad_fraction=options.max_bad_fraction,
        require_labels=isinstance(model, ClassificationPredictor),
    )
    budgets = options.budgets or (model.spec.eval_tokens,)
    if isinstance(model, SegmentationPredictor):
        if options.data:
            check_classes(data.index.root, model.names)
        out = (options.out or options.run) / f"eval-{options.split}.json"
        eval_pixels(
            model, data, budgets,
            sliding_window=options.sliding_window, out=out, name=str(options.run), as_json=options.json,
        )  # fmt: skip
        return
    if isinstance(model, DetectionPredictor):
        out = (options.out or options.run) / f"eval-{options.split}.json"
        eval_boxes(
            model, data, budgets, most=options.max_detections, out=out, name=str(options.run),
            as_json=options.json,
        )  # fmt: skip
        return
    if isinstance(model, ImageTextPredictor):
        retrieved, classified = _match(model, data, budgets, options.templates)
    else:
        retrieved, classified = [], classify_at(model, data, budgets, options.views)
    _Report(
        options, data.index.classes if isinstance(model, ImageTextPredictor) else model.spec.classes
    ).tell(retrieved, classified)
    if isinstance(model, VideoClassificationPredictor):
        picture = (options.out or options.run) / f"eval-{options.split}.png"
        draw_clips(model, data, budgets[-1], options.views).save(picture)
        if not options.json:
            print(picture)


def _request(
    options: Eval, model: ClassificationPredictor | ImageTextPredictor, chooses: bool
) -> Request:
    """The suites asked for, and those that an option needs."""
    suites = suites_of(options.suite) or (("cost",) if chooses else ())
    if options.fit_temperature and "calibration" not in suites:
        suites = (*suites, "calibration")
    return Request(
        suites=suites,
        budgets=options.budgets or default_budgets(model),
        data=options.data,
        split=options.split,
        where=options.where,
        max_bad_fraction=options.max_bad_fraction,
        label_map=read_label_map(options.label_map),
        robustness_tokens=options.robustness_tokens,
        severities=options.severities,
        shifted_data=options.shifted_data,
        attributes=options.attributes,
        fit_temperature=options.fit_temperature,
    )


def _match(
    model: ImageTextPredictor, data: Data, budgets: Sequence[int], templates: Path | None
) -> tuple[list[RetrievalResult], list[BudgetResult]]:
    """Whatever the data have texts for, and whatever they have labels for."""
    retrieved: list[RetrievalResult] = []
    try:
        pairs = pairs_of(model, data)
    except NoTexts:
        if not data.index.classes:
            raise
    else:
        retrieved = retrieve_at(model, data, pairs, budgets)
    if not data.index.classes:
        return retrieved, []
    return retrieved, zero_shot_at(model, data, read_templates(templates), budgets)


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that hold something; raises ValueError where none does."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}") from error
    found = [line.strip() for line in lines if line.strip()]
    if not found:
        raise ValueError(f"{path} holds no text")
    return found


def read_templates(path: Path | None) -> Sequence[str]:
    """The lines of a file, or the bare name of a class."""
    return PLAIN if path is None else read_lines(path)


@dataclass(frozen=True)
class _Report:
    """What is printed, and what is left in the run's folder."""

    options: Eval
    classes: Sequence[str]

    def tell(
        self, retrieved: Sequence[RetrievalResult], classified: Sequence[BudgetResult]
    ) -> None:
        options = self.options
        record: dict[str, Any] = {"run": str(options.run), "split": options.split}
        if retrieved:
            record["retrieval"] = [
                {**cost_of(r), "images": r.images, "texts": r.texts, **r.recalls} for r in retrieved
            ]
        if classified:
            record["budgets"] = [
                {**cost_of(r), **table(r.counts, self.classes)} for r in classified
            ]
        out = options.out or options.run
        make_folder(out)
        path = out / f"eval-{options.split}.json"
        path.write_text(json.dumps(record, indent=1) + "\n")
        drawn = None
        if classified:
            drawn = out / f"confusion-{options.split}.png"
            drawn = _draw_confusion(classified[-1].counts, self.classes, drawn)
        if options.json:
            print(json.dumps(record))
            return
        console = Console(markup=False, highlight=False)
        if retrieved:
            _print_retrieval(console, retrieved)
        if classified:
            _print_classes(console, classified, self.classes)
        for error in (*retrieved, *classified)[-1].unreadable:
            console.print(f"left out: {error}", soft_wrap=True)
        console.print(f"{path}" + (f", {drawn}" if drawn else ""))


def _print_retrieval(console: Console, results: Sequence[RetrievalResult]) -> None:
    images, texts = results[-1].images, results[-1].texts
    console.print(f"{images:,} images, {texts:,} texts; right ones among the k nearest")
    rows = new_table("tokens", "from … to", *(f"recall@{k}" for k in RECALL_AT), "images/s")
    for r in results:
        for way, title in WAYS.items():
            shares = [f"{r.recalls[f'{way}@{k}']:.4f}" for k in RECALL_AT]
            rows.add_row(f"{r.max_tokens}", title, *shares, f"{r.images_per_s:,.0f}")
    console.print(rows)


def _print_classes(
    console: Console, results: Sequence[BudgetResult], classes: Sequence[str]
) -> None:
    rows = new_table("tokens", "top-1", "top-5", "NLL", "GFLOP/image", "images/s", "images")
    for r in results:
        rows.add_row(
            f"{r.max_tokens}", f"{r.counts.top1:.4f}", f"{r.counts.top5:.4f}",
            f"{r.counts.mean_nll:.4f}", f"{r.gflops_per_image:.3f}", f"{r.images_per_s:,.0f}",
            f"{r.counts.images}",
        )  # fmt: skip
    console.print(rows)
    shares = results[-1].counts.per_class.tolist()
    ordered = sorted(
        (share, name) for share, name in zip(shares, classes, strict=True) if share == share
    )
    if len(ordered) > 10:
        ordered = ordered[:5] + ordered[-5:]
        console.print("the five worst and the five best classes:")
    for share, name in ordered:
        console.print(f"  {share:6.1%}  {name}")


def _draw_confusion(
    counts: ClassificationCounts, classes: Sequence[str], path: Path
) -> Path | None:
    try:
        from patchpack.visualize.figures import draw_confusion
    except ImportError:  # the report extra is not installed
        return None
    path.write_bytes(draw_confusion(counts.confusion.numpy(), classes))
    return path
