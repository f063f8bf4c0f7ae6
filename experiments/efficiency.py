"""Efficiency: accuracy over training compute of a NaViT and of square ViTs (Fig. 1).

    python experiments/efficiency.py --data caltech40

All models use the recipe `caltech40.py`; only the resizing and token dropping differ. The NaViT
keeps the aspect ratio at a sampled size of 64 to 160 px and drops half of the tokens on average, as
in the paper's main runs. The ViTs resize to squares: 144 px has the same ratio to NaViT's maximum
size as the paper's 224 px to 256 px; 96 px was the best size for a square ViT at this budget.

Each model is trained with four compute budgets, with a schedule for each. The compute ratio is that
of the compute two models need for the same accuracy, the best that both reach, from linear
interpolation between budgets on a logarithmic compute axis.
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
from patchpack.visualize.style import COLORS, figure_to_png, style_axes

BUDGETS = (4e12, 8e12, 16e12, 32e12)  # training operations
STEP = 3.6e10  # operations per step, approximately
TOKENS = {"navit": (64, 100), "square": (36,), "square144": (81,)}  # per image in evaluation
TITLES = {"navit": "NaViT", "square": "square ViT, 96 px", "square144": "square ViT, 144 px"}
FINDING = Finding(
    name="efficiency",
    title="Efficiency",
    claim="NaViT reaches the accuracy of the best ViT with a quarter of the compute (Fig. 1).",
    paper={"compute_ratio": 4.0},
    remarks=(
        "Squares in the paper's ratio to NaViT's largest size need 3.0 times its compute, not 4: "
        "for the same compute a NaViT processes 4.2 times as many images here, in the paper about "
        "five. Squares of 96 px, compared with which it processes 1.8 times as many, need 1.5 "
        "times its compute: most of the gain comes from more, smaller images, which a square ViT "
        "can use too, at that one size only. Twelve hundred photographs are few, and each "
        "repetition adds less."
    ),
)


def contenders() -> list[Contender]:
    """Return each model with each compute budget."""
    native, square = recipe("caltech40"), recipe("caltech40_square")
    dropping = BetaDrop(mean=0.5, max=0.9)
    configs = {
        "navit": replace(native, data=replace(native.data, dropping=dropping)),
        "square": replace(square, data=replace(square.data, dropping=NoDrop())),
        "square144": replace(
            square, data=replace(square.data, resolution=SquareResize(grid=9), dropping=NoDrop())
        ),
    }
    return [
        Contender(
            name=f"{name}-{budget / 1e12:g}",
            config=budgeted(config, budget, STEP),
            tokens=TOKENS[name],
        )
        for name, config in configs.items()
        for budget in BUDGETS
    ]


def compute_for(accuracy: float, budgets: np.ndarray, reached: np.ndarray) -> float:
    """Return the minimum operations at which a curve reaches an accuracy."""
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
        name: np.array([mean_and_spread(values)[0] for values in rows])
        for name, rows in by_budget.items()
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
            **{name: mean.tolist() for name, mean in means.items()},
            "size_baseline": baseline,
        },
        agrees=bool(ratios["square144"] >= FINDING.paper["compute_ratio"]),
        table=table,
        figure=draw(budgets, by_budget, baseline),
    )


def draw(budgets: np.ndarray, by_budget: dict[str, list[list[float]]], baseline: float) -> bytes:
    """Draw test accuracy over training compute; returns a PNG."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for color, (name, rows) in zip(COLORS, by_budget.items(), strict=False):
        means, spreads = zip(*(mean_and_spread(values) for values in rows), strict=True)
        axes.errorbar(
            budgets / 1e12, 100 * np.array(means), 100 * np.array(spreads), color=color,
            marker="o", capsize=3, label=TITLES[name],
        )  # fmt: skip
    axes.axhline(100 * baseline, color="#888", lw=1, ls=":", label="height and width alone")
    axes.set_xscale("log", base=2)
    axes.set_xticks(budgets / 1e12, [f"{b / 1e12:g}" for b in budgets])
    style_axes(axes, "training compute (TFLOP)", "test accuracy (%)")
    axes.legend(frameon=False)
    return figure_to_png(figure)


if __name__ == "__main__":
    main()
