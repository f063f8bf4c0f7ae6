"""Accuracy against training compute: NaViT beside the square ViT (Fig. 1).

    python experiments/efficiency.py --data caltech40

All are the recipe `caltech40.py`, but for how they see an image: at its own aspect and a sampled
size of 64 to 160 px, half of the tokens dropped on average, as in the paper's main runs; or as a
square of one size. Squares of 144 px stand to NaViT's largest size as the paper's 224 px do to its
256; squares of 96 px were the best that was found for a square ViT of this budget.

Four compute budgets each, the schedule fitted to each. The ratio is of the compute that two need
for the same accuracy: the best that both reach, read off straight lines between budgets, compute
on a logarithmic scale.
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

from patchpack.data.packing.dropping import BetaDrop, NoDrop
from patchpack.data.packing.resolution import SquareResize
from patchpack.visualize.figures import COLORS, png

BUDGETS = (4e12, 8e12, 16e12, 32e12)  # operations
STEP = 3.6e10  # operations of a step, about
TOKENS = {"navit": (64, 100), "square": (36,), "square144": (81,)}  # an image, in evaluation
TITLES = {"navit": "NaViT", "square": "square ViT, 96 px", "square144": "square ViT, 144 px"}
FINDING = Finding(
    name="efficiency",
    title="Efficiency",
    claim="NaViT reaches the accuracy of the best ViT with a quarter of the compute (Fig. 1).",
    paper={"compute_ratio": 4.0},
    remarks=(
        "Squares that stand to NaViT's largest size as in the paper need 3.0 times its compute, "
        "not 4: for the same compute a NaViT sees 4.2 times as many images here, in the paper "
        "about five. Squares of 96 px, beside which it sees 1.8 times as many, need 1.5 times "
        "its compute: most of the gain is in seeing more, smaller images, which a square ViT can "
        "have too, at that one size alone. Twelve hundred photographs are few, and worth less "
        "each time they are seen again."
    ),
)


def contenders() -> list[Contender]:
    native, square = recipe("caltech40"), recipe("caltech40_square")
    dropping = BetaDrop(mean=0.5, max=0.9)
    configs = {
        "navit": replace(native, data=replace(native.data, dropping=dropping)),
        "square": replace(square, data=replace(square.data, dropping=NoDrop())),
        "square144": replace(
            square, data=replace(square.data, resolution=SquareResize(grid=9), dropping=NoDrop())
        ),
    }
    found = []
    for name, config in configs.items():
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
    ratios, accuracies = {}, {}
    for name in ("square", "square144"):
        accuracies[name] = common = min(means["navit"].max(), means[name].max())
        needed = [compute_for(common, budgets, means[key]) for key in (name, "navit")]
        ratios[name] = needed[0] / needed[1]
    baseline = size_baseline(options.data)
    table = [["training TFLOP", *(f"{TITLES[name]}, {TOKENS[name][0]} tokens" for name in TOKENS)]]
    for i, budget in enumerate(budgets):
        table.append([f"{budget / 1e12:g}", *(percent(by_budget[name][i]) for name in TOKENS)])
    table.append(["compute, times NaViT's", "1", *(f"{ratio:.1f}" for ratio in ratios.values())])
    table.append(["height and width alone", f"{100 * baseline:.1f}", "", ""])
    publish(
        FINDING,
        options,
        ours={
            "compute_ratio": ratios["square144"],
            "at_accuracy": accuracies["square144"],
            "compute_ratio_of_squares_of_96_px": ratios["square"],
            "at_accuracy_of_squares_of_96_px": accuracies["square"],
            "tflop": (budgets / 1e12).tolist(),
            **{name: found.tolist() for name, found in means.items()},
            "size_baseline": baseline,
        },
        agrees=bool(ratios["square144"] >= FINDING.paper["compute_ratio"]),
        table=table,
        figure=draw(budgets, by_budget, baseline),
    )


def draw(budgets: np.ndarray, by_budget: dict[str, list[list[float]]], baseline: float) -> bytes:
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for colour, (name, found) in zip(COLORS, by_budget.items(), strict=False):
        means, spreads = zip(*(mean_and_spread(values) for values in found), strict=True)
        axes.errorbar(
            budgets / 1e12, 100 * np.array(means), 100 * np.array(spreads), color=colour,
            marker="o", capsize=3, label=TITLES[name],
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
