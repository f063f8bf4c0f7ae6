"""What features say of people, and whether as well of all: probes of annotated attributes."""

from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np

from patchpack.data.records import BadDataset
from patchpack.evaluation import Data
from patchpack.evaluation.output_cache import EvalCondition, OutputCache
from patchpack.metrics.fairness import MIN_GROUP_SIZE, gap, groups, probe
from patchpack.metrics.outputs import Predictions
from patchpack.visualize.plots import draw_gaps
from patchpack.visualize.section import Section, Table

PROBES = ("ridge", "logistic")
LIMITS = (
    "These figures say how well frozen features carry what annotators said of these images, and "
    "how evenly. They may not be used to infer anything of a person, to sort people, or to claim "
    "that a system is fair: the labels are others' judgements of appearance, groups are small, "
    "and a gap here says nothing of a gap in use."
)


def fairness(
    cache: OutputCache, train: Data, test: Data, attributes: Sequence[str], budgets: Sequence[int]
) -> Section:
    """Probes of every attribute at every budget; groups and gaps at the largest."""
    for name in attributes:
        if name not in test.index.columns:
            there = ", ".join(test.index.columns) or "none"
            raise BadDataset(f"{test.index.root} has no column {name!r}; it has {there}")
    rows, numbers = [], {}
    sides: dict[int, tuple[Predictions, Predictions]] = {}
    for tokens in budgets:
        condition = EvalCondition(tokens)
        sides[tokens] = (
            cache.outputs(condition, _seen(train)),
            cache.outputs(condition, _seen(test)),
        )
        for kind in PROBES:
            found = {
                name: _right(*sides[tokens], train, test, name, kind).mean() for name in attributes
            }
            rows.append(
                [f"{tokens} tokens, {kind}", *(f"{found[name]:.1%}" for name in attributes)]
            )
            numbers[f"{tokens} {kind}"] = {name: float(value) for name, value in found.items()}
    most = max(budgets)
    known, asked = sides[most]
    values = {name: _column(test, asked, name) for name in attributes}
    by_group, gaps, pictures = {}, [], []
    for name in attributes:
        correct = _right(known, asked, train, test, name, "logistic")
        found = groups(correct, values)
        by_group[name] = {group: asdict(g) for group, g in found.items()}
        for by in attributes:
            if d := gap(correct, values[by]):
                interval = f"{100 * d.low:.1f} to {100 * d.high:.1f}"
                gaps.append(
                    [name, by, f"{d.best} over {d.worst}", f"{100 * d.points:.1f}", interval]
                )
        single = {g: (v.accuracy, v.low, v.high) for g, v in found.items() if ", " not in g}
        caption = f"Telling {name}: accuracy in each group, and 95 % of resamples."
        pictures.append(draw_gaps(single, caption))
    return Section(
        name="fairness",
        title="Fairness",
        text=[
            LIMITS,
            f"Linear probes of features that stay frozen, of {len(known):,} images, judged on "
            f"{len(asked):,}. Groups of fewer than {MIN_GROUP_SIZE} images are left out.",
        ],
        tables=[
            Table(["probe", *attributes], rows),
            Table(["telling", "between groups by", "best and worst", "gap, points", "95 %"], gaps),
        ],
        pictures=pictures,
        numbers={"probes": numbers, "groups": by_group, "tokens": most},
    )


def _seen(data: Data) -> Data:
    """All images, whatever their labels: those of attributes are looked up by key."""
    index = data.index
    return replace(data, index=replace(index, labels=np.zeros(len(index), np.int64)))


def _column(data: Data, outputs: Predictions, name: str) -> list[str]:
    """An attribute of the images of some outputs, in their order."""
    cells = dict(zip(data.index.keys, data.index.columns[name], strict=True))
    return [cells[key] for key in outputs.keys]


def _right(
    known: Predictions, asked: Predictions, train: Data, test: Data, name: str, kind: str
) -> np.ndarray:
    """Which test images a probe of one attribute is right about."""
    assert known.features is not None and asked.features is not None
    truth, labels = np.array(_column(test, asked, name)), np.array(_column(train, known, name))
    values, numbers = np.unique(labels, return_inverse=True)
    return values[probe(known.features, numbers, asked.features, kind)] == truth
