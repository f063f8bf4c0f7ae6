"""Fairness suite: linear probes of annotated attributes, accuracy by group, and gaps."""

from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np

from patchpack.data.records import BadDataset, list_names
from patchpack.evaluation.output_cache import EvalCondition, OutputCache
from patchpack.inference.measure import EvalData
from patchpack.metrics.fairness import MIN_GROUP_SIZE, Correct, gap, groups, probe
from patchpack.metrics.outputs import Predictions
from patchpack.metrics.undefined import ratio, shown
from patchpack.visualize.plots import draw_intervals
from patchpack.visualize.section import Section, Table

PROBES = ("ridge", "logistic")
LIMITS = (
    "These numbers measure how accurately a linear probe predicts annotated attributes from frozen "
    "features, and how evenly across groups. They may not be used to infer attributes of a "
    "person, to sort people, or to claim that a system is fair: the labels are annotators' "
    "perceptions of appearance, groups are small, and a gap here does not predict a gap in an "
    "application."
)


def fairness(
    cache: OutputCache,
    train: EvalData,
    test: EvalData,
    attributes: Sequence[str],
    budgets: Sequence[int],
) -> Section:
    """Probe each attribute at each token budget; groups and gaps at the largest budget.

    Raise BadDataset if an attribute is not a column of the manifest.
    """
    for name in attributes:
        if name not in test.index.columns:
            columns = ", ".join(test.index.columns) or "none"
            raise BadDataset(f"{test.index.root} has no column {name!r}; it has {columns}")
        if len(values := {cell for cell in train.index.columns.get(name, ()) if cell}) < 2:
            raise BadDataset(
                f"{train.index.root}: a probe needs two values of an attribute, but {name!r} has "
                f"{list_names(sorted(values)) or 'none'} in the training split"
            )
    rows, numbers = [], {}
    splits: dict[int, tuple[Predictions, Predictions]] = {}  # train and test, by tokens
    for tokens in budgets:
        condition = EvalCondition(tokens)
        splits[tokens] = (
            cache.outputs(condition, _all_labeled(train)),
            cache.outputs(condition, _all_labeled(test)),
        )
        for kind in PROBES:
            accuracy = {}
            for name in attributes:
                correct, _ = _correct(*splits[tokens], train, test, name, kind)
                accuracy[name] = ratio(float(correct.sum()), len(correct))
            rows.append(
                [f"{tokens} tokens, {kind}", *(shown(accuracy[n], ".1%") for n in attributes)]
            )
            numbers[f"{tokens} {kind}"] = accuracy
    max_tokens = max(budgets)
    train_outputs, test_outputs = splits[max_tokens]
    cells = {name: np.array(_column(test, test_outputs, name)) for name in attributes}
    by_group, gaps, pictures = {}, [], []
    for name in attributes:
        correct, known = _correct(train_outputs, test_outputs, train, test, name, "logistic")
        values = {by: column[known].tolist() for by, column in cells.items()}
        by_value = groups(correct, values)
        by_group[name] = {group: asdict(g) for group, g in by_value.items()}
        for by in attributes:
            if d := gap(correct, values[by]):
                interval = f"{100 * d.low:.1f} to {100 * d.high:.1f}"
                gaps.append([name, by, f"{d.best}, {d.worst}", f"{100 * d.points:.1f}", interval])
        single = {g: (v.accuracy, v.low, v.high) for g, v in by_value.items() if ", " not in g}
        if single:
            caption = f"Probe of {name}: accuracy of each group with 95 % bootstrap intervals."
            pictures.append(draw_intervals(single, caption))
    return Section(
        name="fairness",
        title="Fairness",
        text=[
            LIMITS,
            f"Linear probes on frozen features, trained on {len(train_outputs):,} images and "
            f"evaluated on {len(test_outputs):,}; images without a value of an attribute are left "
            f"out of its probe. Groups with fewer than {MIN_GROUP_SIZE} images are omitted.",
        ],
        tables=[
            Table(["probe", *attributes], rows),
            Table(
                ["probe of", "groups by", "best, worst group", "gap (points)", "95 % interval"],
                gaps,
            ),
        ],
        pictures=pictures,
        numbers={"probes": numbers, "groups": by_group, "tokens": max_tokens},
    )


def _all_labeled(data: EvalData) -> EvalData:
    """Give every image label 0, so that the cache skips none; attributes are joined by key."""
    index = data.index
    return replace(data, index=replace(index, labels=np.zeros(len(index), np.int64)))


def _column(data: EvalData, outputs: Predictions, name: str) -> list[str]:
    """Return the values of an attribute in the order of the outputs."""
    cells = dict(zip(data.index.keys, data.index.columns[name], strict=True))
    return [cells[key] for key in outputs.keys]


def _correct(
    train_outputs: Predictions,
    test_outputs: Predictions,
    train: EvalData,
    test: EvalData,
    name: str,
    kind: str,
) -> tuple[Correct, Correct]:
    """Return whether the probe of an attribute is correct for each test image that has a value, and
    which test images have one."""
    assert train_outputs.features is not None and test_outputs.features is not None
    truth = np.array(_column(test, test_outputs, name))
    column = np.array(_column(train, train_outputs, name))
    fit, known = column != "", truth != ""
    values, labels = np.unique(column[fit], return_inverse=True)
    if not known.any():
        return np.empty(0, bool), known
    predicted = probe(train_outputs.features[fit], labels, test_outputs.features[known], kind)
    return values[predicted] == truth[known], known
