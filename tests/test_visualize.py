"""Figures, contact sheets and HTML pages render the data they get."""

import io

import numpy as np
from PIL import Image

from conftest import make_images
from patchpack.batch import collate
from patchpack.metrics.operating_points import cascade_points, single_points
from patchpack.metrics.outputs import Predictions
from patchpack.visualize.contact_sheet import GAP, LINE, Hit, draw_hits, evenly_spaced
from patchpack.visualize.figures import draw_confusion, draw_curves, draw_pack
from patchpack.visualize.html import Picture, page, paragraph, pictures, table
from patchpack.visualize.overlay import overlay, palette
from patchpack.visualize.plots import (
    draw_accuracy_over_cost,
    draw_bars,
    draw_cascades,
    draw_intervals,
    draw_reliability,
)


def predictions(sharpness: float, gflops: float) -> Predictions:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 100)
    logits = sharpness * np.eye(5)[labels] + rng.normal(size=(100, 5))
    return Predictions(logits, labels, tuple(map(str, range(100))), None, gflops, gflops)


def assert_png(data: bytes) -> None:
    image = Image.open(io.BytesIO(data))
    assert image.format == "PNG" and min(image.size) > 100


def test_figures_of_a_run_are_pngs():
    train = [{"step": step, "loss": 2.0 / step, "images_per_s": 9.0} for step in (1, 2, 3)]
    evals = [{"step": 3, "nll": 1.0, "top1": 0.5, "top5": 0.9}]
    for data in (
        draw_confusion(np.array([[3, 1], [0, 2]]), ["a", "b"]),
        draw_curves(train, evals),
        draw_curves(train[:1], []),
    ):
        assert_png(data)


def test_plots_of_suites_are_pngs_with_captions():
    outputs = {16: predictions(1.0, 0.1), 64: predictions(2.5, 0.4)}
    singles = single_points(outputs)
    cascades = cascade_points(16, outputs[16], 64, outputs[64])
    by_name = {f"{tokens} tokens": o for tokens, o in outputs.items()}
    for picture in (
        draw_accuracy_over_cost({"run": [(64, 0.8), (16, 0.5)]}, "GFLOP/image", "caption"),
        draw_cascades(singles, cascades),
        draw_cascades(singles, []),
        draw_reliability(by_name, 1.5),
        draw_reliability(by_name, None),
        draw_bars({"fog": {"1": 0.5, "2": 0.3}, "snow": {"1": 0.4}}, "top-1 (%)", "caption", 0.6),
        draw_intervals({"group a": (0.5, 0.4, 0.6)}, "caption"),
    ):
        assert picture.caption
        assert_png(picture.png)


def test_a_contact_sheet_has_one_row_per_heading():
    images = [np.full((30, 60, 3), 40 * n, np.uint8) for n in range(3)]
    hits = [Hit(image, f"title {n}") for n, image in enumerate(images)]
    sheet = draw_hits([("first", hits), ("second", hits[:1])], side=60)
    assert sheet.size == (GAP + 3 * (60 + GAP), GAP + 2 * (2 * (LINE + GAP) + 30))
    assert evenly_spaced(3) == [0, 1, 2] and evenly_spaced(101) == [0, 20, 40, 60, 80, 100]
    assert evenly_spaced(0) == []


def test_an_overlay_keeps_the_background_gray():
    pixels = np.full((2, 2, 3), (30, 60, 90), np.uint8)
    drawn = overlay(pixels, np.array([[0, 1], [1, 0]], np.uint8))
    assert (drawn[0, 0] == 60).all() and not (drawn[0, 1] == 60).all()
    assert len(np.unique(palette(), axis=0)) > 200 and (palette()[0] == 0).all()


def test_a_drawn_pack_has_a_border_per_image_and_gray_dropped_patches():
    batch = collate(make_images(), 12)
    batch = type(batch)(patches=batch.patches.byte(), coords=batch.coords, grids=batch.grids,
                        lengths=batch.lengths)  # fmt: skip
    drawn = draw_pack(batch, 2)
    border = (drawn == (0xD1, 0x60, 0x3D)).all(-1)
    assert border.sum() > 4 * 6 and (drawn == 128).all(-1).any()


def test_a_page_is_self_contained_and_escaped():
    content = paragraph("<b>bold</b>") + table(["x"], [["<1>"]])
    html = page("a < b", "summary", [("one & two", content)])
    assert "<b>" not in html and "a &lt; b" in html and "&lt;1&gt;" in html
    assert "data:image/png;base64,aGk=" in pictures(Picture(b"hi", "caption"))
    assert "http" not in html.replace("http-equiv", "")
