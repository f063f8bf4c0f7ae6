"""Accuracy against training compute: NaViT beside the square ViT (Fig. 1).

    python experiments/efficiency.py --data caltech40

Both are the recipe `caltech40.py`, but for how they see an image: at its own aspect and a sampled
size, some tokens dropped; or as a square of fixed size. Four compute budgets each, the schedule
fitted to each budget. The ratio is of the compute that the two need for the same accuracy: the
best that both reach, read off straight lines between budgets, compute on a logarithmic scale.
"""

from dataclasses import replace

import numpy as np
from matplotlib.figure import Figure
from study import (
    Contender,
    Finding,
    budgeted,
    mean_and_spread,
    parse,
    percent,
    publish,
    recipe,
    size_baseline,
    train_all,
)

from patchpack.data.dropping import NoDrop
from patchpack.evaluate.figures import COLOURS, png

BUDGETS = (4e12, 8e12, 16e12, 32e12)  # operations
STEP = 3.6e10  # operations of a step, about
TOKENS = {"navit": (64, 100), "square": (36,)}  # an image, in evaluation; the first decides
FINDING = Finding(
    name="efficiency",
    title="Efficiency",
    claim="NaViT reaches the accuracy of the best ViT with a quarter of the compute (Fig. 1).",
    paper={"compute_ratio": 4.0},
)


def contenders() -> list[Contender]:
    native, square = recipe("caltech40"), recipe("caltech40_square")
    square = replace(square, data=replace(square.data, dropping=NoDrop()))
    found = []
    for name, config in (("navit", native), ("square", square)):
        for budget in BUDGETS:
            found.append(
                Contender(
                    name=f"{name}-{budget / 1e12:g}",
                    config=budgeted(config, budget, STEP),
                    tokens=TOKENS[name],
                )
            )
    return found


def compute_for(accuracy: float, budgets: np.ndarray, reached: np.ndarray) -> float:
    """Operations that a curve first reaches an accuracy with."""
    best = np.maximum.accumulate(reached)
    return float(np.exp(np.interp(accuracy, best, np.log(budgets))))


def main() -> None:
    options = parse(__doc__)
    outcomes = train_all(FINDING, contenders(), options)
    by_budget = {
        name: [
            [o.top1[TOKENS[name][0]] for o in outcomes if o.name == f"{name}-{budget / 1e12:g}"]
            for budget in BUDGETS
        ]
        for name in TOKENS
    }
    means = {
        name: np.array([mean_and_spread(values)[0] for values in found])
        for name, found in by_budget.items()
    }
    budgets = options.scale * np.array(BUDGETS)
    common = min(found.max() for found in means.values())
    needed = {name: compute_for(common, budgets, found) for name, found in means.items()}
    ratio = needed["square"] / needed["navit"]
    baseline = size_baseline(options.data)
    table = [["training TFLOP", "NaViT, 64 tokens", "square ViT, 36 tokens"]]
    for i, budget in enumerate(budgets):
        table.append([f"{budget / 1e12:g}", *(percent(by_budget[name][i]) for name in TOKENS)])
    table.append(["height and width alone", f"{100 * baseline:.1f}", ""])
    publish(
        FINDING,
        options,
        ours={
            "compute_ratio": ratio,
            "at_accuracy": common,
            "tflop": (budgets / 1e12).tolist(),
            **{name: found.tolist() for name, found in means.items()},
            "size_baseline": baseline,
        },
        agrees=bool(ratio >= 2),
        table=table,
        figure=draw(budgets, by_budget, baseline),
    )
    print(f"NaViT needs 1/{ratio:.1f} of the compute for {common:.1%}")


def draw(budgets: np.ndarray, by_budget: dict[str, list[list[float]]], baseline: float) -> bytes:
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    names = {"navit": "NaViT", "square": "square ViT"}
    for colour, (name, found) in zip(COLOURS, by_budget.items(), strict=False):
        means, spreads = zip(*(mean_and_spread(values) for values in found), strict=True)
        axes.errorbar(
            budgets / 1e12, 100 * np.array(means), 100 * np.array(spreads), color=colour,
            marker="o", capsize=3, label=names[name],
        )  # fmt: skip
    axes.axhline(100 * baseline, color="#888", lw=1, ls=":", label="height and width alone")
    axes.set_xscale("log", base=2)
    axes.set_xticks(budgets / 1e12, [f"{b / 1e12:g}" for b in budgets])
    axes.set_xlabel("training compute (TFLOP)")
    axes.set_ylabel("test accuracy (%)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    return png(figure)


if __name__ == "__main__":
    main()
