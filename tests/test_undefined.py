"""No metric is a score of nothing: every function with empty, single and degenerate input.

Each case is a function without arguments; its values must be NaN or None, in JSON null, in text –.
"""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from patchpack.data.annotations.boxes import BoxAnnotations, Boxes
from patchpack.data.index import Index
from patchpack.evaluation.calibration import measure
from patchpack.evaluation.robustness import mean_corruption_error
from patchpack.metrics.calibration import (
    adaptive_bins,
    brier_score,
    even_bins,
    fit_temperature,
    negative_log_likelihood,
    sigmoid,
    sigmoid_negative_log_likelihood,
)
from patchpack.metrics.classification import (
    ClassificationCounts,
    classify,
    classify_views,
    count,
    table,
)
from patchpack.metrics.detection import Detections, average_precision
from patchpack.metrics.fairness import bootstrap, gap, groups, probe, signed_rank
from patchpack.metrics.linear_probe import few_shot
from patchpack.metrics.metric import Metric
from patchpack.metrics.operating_points import (
    MeasuredPoint,
    best_cascade_over_line,
    cascade_points,
    choose,
    frontier,
    single_points,
)
from patchpack.metrics.outputs import Predictions, collect_predictions
from patchpack.metrics.retrieval import recalls
from patchpack.metrics.segmentation import ConfusionMatrix, count_pixels
from patchpack.metrics.undefined import UNDEFINED, json_values, ratio, shown
from patchpack.tasks.classification.evaluator import (
    ClassificationResult,
    accuracy_notes,
    check_finite,
)
from patchpack.tasks.contrastive.evaluator import ContrastiveResult
from patchpack.tasks.detection.evaluator import DetectionResult

NAN = math.nan
NONE = np.empty(0)
LABELS = np.empty(0, np.int64)
NO_PAIRS = torch.empty(0, 2, dtype=torch.int64)


def outputs(logits: object, labels: object) -> Predictions:
    rows = np.array(labels, np.int64)
    return Predictions(np.array(logits, np.float32).reshape(len(rows), -1), rows)


def no_outputs(classes: int = 3) -> Predictions:
    return Predictions(np.empty((0, classes), np.float32), LABELS)


def counts_of(logits: object, labels: object) -> dict[str, Any]:
    counts = count(torch.tensor(logits), torch.tensor(labels))
    return {"top1": counts.top1, "top5": counts.top5, "nll": counts.mean_nll}


def detection(boxes: object, detected: object, score: float = 0.9) -> dict[str, Any]:
    """AP of one image; its values, without counts."""
    truth = np.array(boxes, np.float32).reshape(-1, 4)
    none = Boxes(np.empty((0, 4), np.float32), LABELS)
    annotation = BoxAnnotations(
        (Boxes(truth, np.zeros(len(truth), np.int64)),), ("a", "b"),
        (np.full(len(truth), 400.0),), (none,),
    )  # fmt: skip
    index = Index(
        root=Path("x"), keys=("k",), heights=np.array([64]), widths=np.array([64]),
        labels=np.array([-1]), splits=("val",), classes=(),
        annotations={"boxes": annotation},
    )  # fmt: skip
    predicted = np.array(detected, np.float32).reshape(-1, 4)
    detections = Detections(
        predicted, np.full(len(predicted), score), np.zeros(len(predicted), np.int64)
    )
    return asdict(average_precision(index, {"k": detections}))


def values_of(x: object) -> list[float]:
    """All numbers in a nested value, None as NaN."""
    if isinstance(x, dict):
        return [v for value in x.values() for v in values_of(value)]
    if isinstance(x, np.ndarray | torch.Tensor):
        return values_of(x.tolist())
    if isinstance(x, list | tuple):
        return [v for value in x for v in values_of(value)]
    return [NAN if x is None else float(x)]


EYE = torch.eye(4)
ALL_TO_ONE = torch.tensor([[i, 0] for i in range(4)])
CASES = {
    "counts of nothing": lambda: [
        getattr(ClassificationCounts.none(9), name) for name in ("top1", "top5", "mean_nll")
    ],
    "recall of classes without images": lambda: ClassificationCounts.none(3).per_class,
    "counts of no batch": lambda: classify(lambda b: b, [], 9).top1,
    "counts of no view": lambda: classify_views(lambda b: b, [], 9).top1,
    "counts of NaN logits": lambda: counts_of([[NAN] * 9, [1.0] + [0.0] * 8], [0, 0]),
    "counts of +inf logits": lambda: counts_of([[math.inf] + [0.0] * 8], [0]),
    "recall of NaN logits": lambda: count(torch.full((1, 3), NAN), torch.tensor([0])).per_class,
    "a single class": lambda: [counts_of([[2.0]], [0])[name] for name in ("top1", "top5")],
    "top-5 of five classes": lambda: counts_of(np.eye(5).tolist(), [1, 2, 3, 4, 0])["top5"],
    "outputs of nothing": lambda: no_outputs().top1,
    "outputs of NaN": lambda: outputs([[NAN, 0]], [0]).top1,
    "outputs of one class": lambda: outputs([[1.0]], [0]).top1,
    "bins of nothing": lambda: [f(NONE, NONE > 0).error for f in (even_bins, adaptive_bins)],
    "bins of NaN": lambda: [
        f(np.array([NAN, 1.0]), np.array([True, True])).error for f in (even_bins, adaptive_bins)
    ],
    "NLL and Brier of nothing": lambda: [
        negative_log_likelihood(np.empty((0, 3)), LABELS), brier_score(np.empty((0, 3)), LABELS),
        sigmoid_negative_log_likelihood(np.empty((0, 3)), LABELS),
    ],
    "NLL and Brier of one class": lambda: [
        negative_log_likelihood(np.ones((2, 1)), np.zeros(2, int)),
        brier_score(np.ones((2, 1)), np.zeros(2, int)),
    ],
    "NLL and Brier of NaN": lambda: [
        f(np.array([[NAN, NAN]]), np.array([0])) for f in (negative_log_likelihood, brier_score)
    ] + [sigmoid_negative_log_likelihood(np.array([[NAN, 0.0]]), np.array([0]))],
    "calibration of nothing": lambda: measure(no_outputs()),
    "calibration of one class": lambda: measure(outputs([[1.0], [2.0]], [0, 0])),
    "calibration of sigmoids of nothing": lambda: measure(replace(no_outputs(), link=sigmoid)),
    "bootstrap of nothing": lambda: bootstrap(NONE > 0),
    "groups below the minimum": lambda: list(groups(np.array([True]), {"a": ["x"]})),
    "groups of nothing": lambda: list(groups(NONE > 0, {"a": []}, min_group_size=1)),
    "gap of one group": lambda: gap(np.array([True] * 20), ["x"] * 20),
    "gap of nothing": lambda: gap(NONE > 0, []),
    "signed rank of NaN": lambda: signed_rank([NAN, 1.0], [NAN, 1.0]),
    "few-shot without test images": lambda: [
        few_shot(np.eye(4), np.array([0, 0, 1, 1]), np.empty((0, 4)), LABELS, shots=(1,))[0][1:3]
    ],
    "IoU of nothing": lambda: [ConfusionMatrix.none(2).mean_iou, ConfusionMatrix.none(2).iou],
    "pixel accuracy of nothing": lambda: ConfusionMatrix.none(2).pixel_accuracy,
    "IoU of ignored pixels": lambda: count_pixels(
        torch.zeros(2, 2, dtype=torch.long), torch.full((2, 2), 255), 2, 255
    ).mean_iou,
    "IoU of one class": lambda: [
        ConfusionMatrix(torch.tensor([[9]]), 1).mean_iou,
        ConfusionMatrix(torch.tensor([[9]]), 1).pixel_accuracy,
    ],
    "recall of no pair": lambda: recalls(torch.empty(0, 2), torch.empty(0, 2), NO_PAIRS),
    "recall of one pair": lambda: recalls(EYE[:1], EYE[:1], torch.tensor([[0, 0]])),
    "recall of one text": lambda: recalls(EYE, EYE[:1], ALL_TO_ONE),
    "recall of NaN": lambda: recalls(
        torch.full((30, 2), NAN), torch.ones(30, 2), torch.arange(30)[:, None].expand(-1, 2)
    ),
    "AP without objects": lambda: [
        v for k, v in detection([], [[0, 0, 9, 9]]).items() if k not in ("images", "objects")
    ],
    "AP of a class without objects": lambda: [
        detection([[0, 0, 20, 20]], detected)["per_class"]["b"]
        for detected in ([], [[0, 0, 20, 20]])
    ],
    "AP of sizes without objects": lambda: [
        detection([[0, 0, 20, 20]], detected)["ap_large"] for detected in ([], [[0, 0, 20, 20]])
    ],
    "mCE over a baseline without errors": lambda: [
        mean_corruption_error({"fog": {"1": top1}}, {"fog": {"1": 1.0}}) for top1 in (0.5, 1.0)
    ],
    "mCE of nothing": lambda: [
        mean_corruption_error({}, {}),
        mean_corruption_error({"fog": {"1": NAN}}, {"fog": {"1": 0.5}}),
    ],
    "points of nothing": lambda: single_points({4: no_outputs()})[0].accuracy,
    "a ratio to nothing": lambda: ratio(0, 0),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_metric_of_nothing_is_undefined(case):
    pytest.importorskip("faster_coco_eval") if case.startswith("AP") else None
    value = CASES[case]()
    values = values_of(value)
    assert all(map(math.isnan, values)), value


REFUSED = {
    "a temperature of nothing": lambda: fit_temperature(np.empty((0, 3)), LABELS),
    "a temperature of NaN": lambda: fit_temperature(np.full((2, 3), NAN), np.zeros(2, int)),
    "a cascade of nothing": lambda: cascade_points(4, no_outputs(), 8, no_outputs()),
    "a choice among nothing": lambda: choose([]),
    "a choice among undefined points": lambda: choose(
        [MeasuredPoint(tokens=4, accuracy=NAN, gflops=1, ms=1)]
    ),
    "a probe of one value": lambda: probe(np.eye(2), np.zeros(2, int), np.eye(2), "ridge"),
    "a probe of NaN": lambda: probe(np.full((2, 2), NAN), np.arange(2), np.eye(2), "ridge"),
    "few-shot of one class": lambda: few_shot(np.eye(2), np.zeros(2, int), np.eye(2), LABELS),
    "few-shot of NaN": lambda: few_shot(
        np.eye(2), np.arange(2), np.full((2, 2), NAN), np.zeros(2, int), shots=(1,)
    ),
    "outputs without labels": lambda: collect_predictions(
        lambda batch: torch.zeros(2, 3), [Batch([-1, -1])]
    ),
    "outputs that are NaN": lambda: collect_predictions(
        lambda batch: torch.tensor([[0.0, 1, 2], [NAN, 0, 0]]), [Batch([0, 1])]
    ),
    "boxes that are NaN": lambda: detection([[0, 0, 20, 20]], [[NAN, 0, 20, 20]]),
    "scores that are NaN": lambda: detection([[0, 0, 20, 20]], [[0, 0, 20, 20]], NAN),
    "an evaluation of NaN": lambda: check_finite(
        count(torch.full((1, 3), NAN), torch.tensor([0])), a_named_index()
    ),
}  # fmt: skip


class Batch:
    """A batch as models from outside the library have them."""

    def __init__(self, labels: list[int]) -> None:
        self.targets, self.keys = {"label": torch.tensor(labels)}, ("a.png", "b.png")


def a_named_index() -> Index:
    none = np.empty(0, np.int64)
    return Index(
        root=Path("data"), keys=(), heights=none, widths=none, labels=none, splits=(), classes=()
    )


@pytest.mark.parametrize("case", REFUSED)
def test_what_needs_data_refuses_to_run_on_nothing(case):
    with pytest.raises(ValueError, match=r"\w{3,}"):
        REFUSED[case]()


def test_nothing_is_better_than_an_undefined_best():
    for metric in (Metric("x"), Metric("x", higher_is_better=False)):
        assert not metric.improves(NAN, None) and not metric.improves(NAN, 0.5)
        assert metric.improves(0.5, None)


def test_points_without_an_accuracy_are_on_no_frontier():
    points = [
        MeasuredPoint(tokens=4, accuracy=NAN, gflops=1, ms=1),
        MeasuredPoint(tokens=8, accuracy=0.5, gflops=2, ms=2),
    ]
    assert frontier(points) == points[1:] and choose(points) == points[1]
    assert best_cascade_over_line(points[:1], points[1:]) is None


def test_reasons_are_given():
    assert "no image has a label" in accuracy_notes(ClassificationCounts.none(3))[0]
    three = count(torch.eye(3)[:2], torch.tensor([0, 1]))
    assert accuracy_notes(three) == [
        "top-5 accuracy is undefined: 3 classes cannot be missed",
        "1 of 3 classes have no image here",
    ]
    notes = ClassificationResult(three, unlabelled=4).notes
    assert notes[-1].startswith("4 items are not counted: they have no label")
    result = ContrastiveResult(recalls(EYE, EYE[:1], ALL_TO_ONE), 4, 1)
    assert "image_to_text@1" in result.notes[0] and "are undefined" in result.notes[0]
    pytest.importorskip("faster_coco_eval")
    from patchpack.metrics.detection import DetectionMetrics

    empty = DetectionResult(DetectionMetrics(**detection([], [])), {"k": None}, 100)  # type: ignore
    assert empty.notes == ["AP is undefined: no image has a box"]
    assert math.isnan(empty.metrics["ap"])
    partial = DetectionMetrics(**detection([[0, 0, 20, 20]], []))
    assert partial.ap == 0
    (note,) = DetectionResult(partial, {}, 100).notes
    assert note == "AP is over 1 of 2 classes: no box is of 'b'"


def test_undefined_values_are_null_in_json_and_a_dash_in_text():
    record = {"a": NAN, "b": [1.0, -math.inf, {"c": None}], "d": "x", "e": 0}
    assert json_values(record) == {"a": None, "b": [1.0, None, {"c": None}], "d": "x", "e": 0}
    assert shown(NAN, ".1%") == shown(None, ".2f") == UNDEFINED and shown(0.0, ".1%") == "0.0%"


LOGITS = st.lists(
    st.lists(st.sampled_from([-1.0, 0.0, 2.0, NAN, math.inf, -math.inf]), min_size=7, max_size=7),
    max_size=6,
)


@settings(deadline=None, max_examples=150)
@given(LOGITS)
def test_a_classifier_that_is_never_right_never_has_a_perfect_score(rows):
    """The label is a class other than the predicted one; top-5 may hold it."""
    logits = torch.tensor(rows).reshape(-1, 7)
    labels = torch.tensor([(int(row.nan_to_num(-9).argmax()) + 1) % 7 for row in logits]).long()
    counts = count(logits, labels)
    assert not counts.top1 > 0 and not counts.mean_nll <= 0
    assert not (counts.per_class > 0).any()
    record = table(counts, [str(i) for i in range(7)])
    assert json.loads(json.dumps(json_values(record)))["top1"] in (None, 0.0)


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 12), st.integers(1, 6), st.integers(0, 10**6))
def test_vectors_that_carry_nothing_never_have_a_perfect_recall(images, texts, seed):
    """Constant vectors rank nothing: recall is 0 where it can miss, and undefined elsewhere."""
    rng = np.random.default_rng(seed)
    pairs = torch.tensor([(i, int(rng.integers(texts))) for i in range(images)]).reshape(-1, 2)
    result = recalls(torch.ones(images, 3), torch.ones(texts, 3), pairs.long())
    assert all(math.isnan(value) or value == 0 for value in result.values())


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 40), st.integers(2, 5), st.integers(0, 10**6))
def test_a_segmenter_that_is_never_right_never_has_a_perfect_score(pixels, classes, seed):
    truth = torch.from_numpy(np.random.default_rng(seed).integers(0, classes, (1, pixels)))
    counts = count_pixels((truth + 1) % classes, truth, classes, 255)
    assert not counts.mean_iou > 0 and not counts.pixel_accuracy > 0


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 30), st.integers(2, 6), st.integers(0, 10**6))
def test_confident_and_wrong_is_never_well_calibrated(images, classes, seed):
    labels = np.random.default_rng(seed).integers(0, classes, images)
    logits = np.eye(classes, dtype=np.float32)[(labels + 1) % classes] * 20
    measured = measure(Predictions(logits.reshape(-1, classes), labels))
    assert not measured["top1"] > 0
    for name in ("ece", "adaptive_ece", "nll", "brier"):
        assert math.isnan(measured[name]) if not images else measured[name] > 0.9


def test_ten_thousand_classes_take_no_dense_matrix():
    """A dense matrix of 10,000 classes has 100 million cells."""
    classes = [f"c{i}" for i in range(10_000)]
    logits = torch.zeros(20, 10_000)
    logits[torch.arange(20), torch.arange(20) * 3] = 1
    labels = torch.arange(20) * 3 + (torch.arange(20) % 2)
    halves = [count(logits[rows], labels[rows]) for rows in (slice(9), slice(9, None))]
    counts = ClassificationCounts.merge(halves)
    record = table(counts, classes)
    assert counts.images == 20 and counts.top1 == 0.5 and record["confusion"] is None
    assert record["most_confused"][0] == {"true": "c4", "predicted": "c3", "images": 1}
    assert len(record["most_confused"]) == 10 and record["confused_pairs_left_out"] == 0
    assert len(json.dumps(json_values(record))) < 400_000
    assert counts.cells.cells.numel() == 20
    drawn = counts.cells.most_confused(8)
    assert counts.cells.among(drawn).shape == (8, 8) and counts.cells.among(drawn).sum() > 0
