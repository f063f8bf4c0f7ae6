"""Figures of a run and of a pack: training curves, confusion matrix, packed images.

Needs the extra `report` (matplotlib). Plots of evaluation suites are in `plots.py`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from patchpack.batch import PackedBatch
from patchpack.data.patchify import unpatchify
from patchpack.printable import printable
from patchpack.visualize.style import COLORS, figure_to_png, style_axes

LogRecord = Mapping[str, Any]  # a line of a run's log.jsonl
MAX_NAME = 32  # characters of a class name beside the confusion matrix
SHARES = (  # validation metrics in [0, 1], in drawing order
    "top1", "top5", "recall@1", "recall@5", "recall@10", "ap", "ap50", "mean_iou", "pixel_accuracy",
)  # fmt: skip


def draw_curves(train: Sequence[LogRecord], evals: Sequence[LogRecord]) -> bytes:
    """Draw loss, validation metrics and images/s over training steps; returns a PNG.

    train, evals  the "train" and "eval" records of a run's log
    """
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    loss, accuracy, speed = figure.subplots(1, 3)
    steps = [record["step"] for record in train]
    loss.plot(steps, [record["loss"] for record in train], color=COLORS[0], lw=1, label="train")
    if evals:
        eval_steps = [record["step"] for record in evals]
        if "nll" in evals[0]:
            nll = [record["nll"] for record in evals]
            loss.plot(eval_steps, nll, color=COLORS[1], marker=".", label="validation")
        shown = [name for name in SHARES if name in evals[0]]
        for name, color in zip(shown, COLORS[1:], strict=False):
            values = [math.nan if record[name] is None else record[name] for record in evals]
            if all(map(math.isnan, values)):
                continue
            accuracy.plot(eval_steps, values, color=color, marker=".", label=name)
        accuracy.legend(frameon=False)
    loss.legend(frameon=False)
    speed.plot(steps, [record["images_per_s"] for record in train], color=COLORS[0], lw=1)
    style_axes(loss, "step", "loss (nats)")
    style_axes(accuracy, "step", "validation metric")
    style_axes(speed, "step", "images/s")
    speed.set_ylim(bottom=0)
    return figure_to_png(figure)


def draw_confusion(
    confusion: Int[np.ndarray, "label label"], classes: Sequence[str], of: int | None = None
) -> bytes:
    """Draw a confusion matrix; returns a PNG. The shade is the share of the true class's images.

    of  number of all classes, where `classes` are those with the most errors; None: all are drawn

    Rows are true classes, columns are predicted classes. Up to 20 classes, cells show counts.
    """
    counts = np.asarray(confusion)
    shares = counts / np.maximum(1, counts.sum(1, keepdims=True))
    side = max(4.0, min(14.0, 0.32 * len(classes) + 2.5))
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    size = 9 if len(classes) <= 20 else 6
    names = [_shortened(printable(name)) for name in classes]
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=size)
    axes.set_yticks(range(len(names)), names, fontsize=size)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if of is not None and of > len(classes):
        axes.set_title(f"{len(classes)} of {of:,} classes: those with the most errors", fontsize=9)
    if len(classes) <= 20:
        for row, column in np.argwhere(counts):
            shade = "white" if shares[row, column] > 0.5 else "black"
            text = str(counts[row, column])
            axes.text(column, row, text, ha="center", va="center", color=shade, fontsize=8)
    return figure_to_png(figure)


def _shortened(name: str) -> str:
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…"


def draw_pack(
    batch: PackedBatch, patch_size: int, width: int = 1100, gap: int = 6
) -> UInt8[np.ndarray, "height width 3"]:
    """Draw the images of a pack as the model sees them, each with a border.

    width  maximum width of a row of images, px
    gap    px between images

    Each border is one segment of the token stream. Dropped patches are gray.
    """
    rows: list[list[np.ndarray]] = [[]]
    for image in _images(batch, patch_size):
        used = sum(i.shape[1] + gap for i in rows[-1])
        if rows[-1] and used + image.shape[1] > width:
            rows.append([])
        rows[-1].append(image)
    canvas_width = max(sum(i.shape[1] + gap for i in row) for row in rows) + gap
    canvas_height = sum(max((i.shape[0] for i in row), default=0) + gap for row in rows) + gap
    canvas = Image.new("RGB", (canvas_width, canvas_height), "white")
    draw = ImageDraw.Draw(canvas)
    y = gap
    for row in rows:
        x = gap
        for image in row:
            canvas.paste(Image.fromarray(image), (x, y))
            box = (x - 2, y - 2, x + image.shape[1] + 1, y + image.shape[0] + 1)
            draw.rectangle(box, outline=COLORS[1], width=2)
            x += image.shape[1] + gap
        y += max((i.shape[0] for i in row), default=0) + gap
    return np.asarray(canvas)


def _images(batch: PackedBatch, patch_size: int) -> list[np.ndarray]:
    """Return the uint8 images [height, width, 3] of a pack."""
    patches, coords = batch.patches.numpy(), batch.coords.numpy()
    ends = np.cumsum(batch.lengths)
    return [
        unpatchify(patches[end - n : end], coords[end - n : end], (int(h), int(w)), patch_size)
        for n, end, (h, w) in zip(batch.lengths, ends, batch.grids.tolist(), strict=True)
    ]
