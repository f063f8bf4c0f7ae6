"""The demo's images are what it says, and its report holds everything it shows."""

import re

import numpy as np
import pytest

from patchpack.demo.shapes import CLASSES, SPLITS, draw, drawings
from patchpack.demo.show import show


def test_images_vary_in_size_and_are_the_same_every_time():
    first = [drawing.pixels for drawing, _ in zip(drawings("val"), range(40), strict=False)]
    again = [drawing.pixels for drawing, _ in zip(drawings("val"), range(40), strict=False)]
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    aspects = [pixels.shape[1] / pixels.shape[0] for pixels in first]
    assert min(aspects) < 0.7 and max(aspects) > 1.4
    assert sum(1 for _ in drawings("test")) == SPLITS["test"] * len(CLASSES)


@pytest.mark.parametrize("label", CLASSES)
def test_the_canvas_does_not_tell_the_class(label):
    """Every class has canvases of every aspect."""
    rng = np.random.default_rng(0)
    shapes = [draw(label, rng).pixels.shape for _ in range(60)]
    logs = [np.log(shape[1] / shape[0]) for shape in shapes]
    assert abs(np.mean(logs)) < 0.3 and np.std(logs) > 0.4


def test_a_folder_of_other_things_is_not_cleared(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "mine.jpg").touch()
    with pytest.raises(ValueError, match="holds other files"):
        show(tmp_path, steps=1)
    assert (tmp_path / "images" / "mine.jpg").exists()


@pytest.mark.slow
def test_the_report_is_whole(tmp_path):
    summary = show(tmp_path / "demo", steps=4)
    html = (tmp_path / "demo" / "report.html").read_text()
    assert html.count("<img") == 6 and len(re.findall(r"<tr>", html)) == 3 + 9
    assert "http" not in html and set(summary) == {"report", "seconds", "navit", "square"}
    compute = [summary[name]["train_tflop"] for name in ("navit", "square")]
    assert compute[0] == pytest.approx(compute[1], rel=0.2)
