"""Pictures of a run: curves, confusion, accuracy over token budgets, and a pack with its borders.

Needs the `report` extra (matplotlib). Every figure is returned as bytes of a PNG or written where
it is told; nothing touches matplotlib's global state.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from patchpack.batch import PackedBatch
from patchpack.data.patchify import unpatchify

Record = Mapping[str, Any]  # a line of a run's log
COLORS = ("#1b6ca8", "#d1603d", "#4f9d69", "#8a5a9e", "#b8912f", "#5b6770")
SHARES = (  # of what evaluations find
    "top1", "top5", "recall@1", "recall@5", "recall@10", "ap", "ap50", "mean_iou", "pixel_accuracy",
)  # fmt: skip


def png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=120)
    return stream.getvalue()


def png_of(pixels: UInt8[np.ndarray, "height width 3"]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def style_axes(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)


def draw_curves(train: Sequence[Record], evals: Sequence[Record]) -> bytes:
    """Loss, accuracy or recall, and speed of a run over its steps, from the lines of its record."""
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    loss, accuracy, speed = figure.subplots(1, 3)
    steps = [record["step"] for record in train]
    loss.plot(steps, [record["loss"] for record in train], color=COLORS[0], lw=1, label="train")
    if evals:
        at = [record["step"] for record in evals]
        if "nll" in evals[0]:
            nll = [record["nll"] for record in evals]
            loss.plot(at, nll, color=COLORS[1], marker=".", label="validation")
        shown = [name for name in SHARES if name in evals[0]]
        for name, colour in zip(shown, COLORS[1:], strict=False):
            accuracy.plot(at, [r[name] for r in evals], color=colour, marker=".", label=name)
        accuracy.legend(frameon=False)
    loss.legend(frameon=False)
    speed.plot(steps, [record["images_per_s"] for record in train], color=COLORS[0], lw=1)
    style_axes(loss, "step", "loss (nats)")
    style_axes(accuracy, "step", "share of the validation split")
    style_axes(speed, "step", "images/s")
    speed.set_ylim(bottom=0)
    return png(figure)


def draw_confusion(confusion: Int[np.ndarray, "label label"], classes: Sequence[str]) -> bytes:
    """Rows are true classes, columns what was said; shade is the share of the row."""
    counts = np.asarray(confusion)
    shares = counts / np.maximum(1, counts.sum(1, keepdims=True))
    side = max(4.0, min(14.0, 0.32 * len(classes) + 2.5))
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    size = 9 if len(classes) <= 20 else 6
    axes.set_xticks(range(len(classes)), classes, rotation=90, fontsize=size)
    axes.set_yticks(range(len(classes)), classes, fontsize=size)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if len(classes) <= 20:
        for row, column in np.argwhere(counts):
            shade = "white" if shares[row, column] > 0.5 else "black"
            text = str(counts[row, column])
            axes.text(column, row, text, ha="center", va="center", color=shade, fontsize=8)
    return png(figure)


def draw_budgets(
    curves: Mapping[str, Sequence[tuple[float, float]]], x: str, y: str = "accuracy"
) -> bytes:
    """One line per model: accuracy against cost."""
    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    axes = figure.subplots()
    for (name, points), colour in zip(curves.items(), COLORS, strict=False):
        xs, ys = zip(*points, strict=True)
        axes.plot(xs, ys, marker="o", ms=4, color=colour, label=name)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    style_axes(axes, x, y)
    return png(figure)


def draw_pack(
    batch: PackedBatch, patch_size: int, width: int = 1100, gap: int = 6
) -> UInt8[np.ndarray, "height width 3"]:
    """The images of a pack as the model gets them, bordered; dropped patches are gray.

    Images are set in rows; each border is one segment of the stream.
    """
    tiles = _tiles(batch, patch_size)
    rows: list[list[np.ndarray]] = [[]]
    for tile in tiles:
        used = sum(t.shape[1] + gap for t in rows[-1])
        if rows[-1] and used + tile.shape[1] > width:
            rows.append([])
        rows[-1].append(tile)
    widest = max(sum(t.shape[1] + gap for t in row) for row in rows) + gap
    height = sum(max((t.shape[0] for t in row), default=0) + gap for row in rows) + gap
    canvas = Image.new("RGB", (widest, height), "white")
    draw = ImageDraw.Draw(canvas)
    y = gap
    for row in rows:
        x = gap
        for tile in row:
            canvas.paste(Image.fromarray(tile), (x, y))
            box = (x - 2, y - 2, x + tile.shape[1] + 1, y + tile.shape[0] + 1)
            draw.rectangle(box, outline=COLORS[1], width=2)
            x += tile.shape[1] + gap
        y += max((t.shape[0] for t in row), default=0) + gap
    return np.asarray(canvas)


def _tiles(batch: PackedBatch, patch_size: int) -> list[np.ndarray]:
    patches, coords = batch.patches.numpy(), batch.coords.numpy()
    ends = np.cumsum(batch.lengths)
    return [
        unpatchify(patches[end - n : end], coords[end - n : end], (int(h), int(w)), patch_size)
        for n, end, (h, w) in zip(batch.lengths, ends, batch.grids.tolist(), strict=True)
    ]
