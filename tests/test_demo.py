"""The demo's dataset is deterministic, and its report is complete and self-contained."""

import re

import numpy as np
import pytest

from patchpack.demo.shapes import CLASSES, SPLITS, draw, drawings
from patchpack.demo.show import show


def test_images_vary_in_size_and_are_deterministic():
    first = [drawing.pixels for drawing, _ in zip(drawings("val"), range(40), strict=False)]
    second = [drawing.pixels for drawing, _ in zip(drawings("val"), range(40), strict=False)]
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    aspects = [pixels.shape[1] / pixels.shape[0] for pixels in first]
    assert min(aspects) < 0.7 and max(aspects) > 1.4
    assert sum(1 for _ in drawings("test")) == SPLITS["test"] * len(CLASSES)


@pytest.mark.parametrize("label", CLASSES)
def test_canvas_aspect_is_independent_of_the_class(label):
    rng = np.random.default_rng(0)
    shapes = [draw(label, rng).pixels.shape for _ in range(60)]
    logs = [np.log(shape[1] / shape[0]) for shape in shapes]
    assert abs(np.mean(logs)) < 0.3 and np.std(logs) > 0.4


def test_a_folder_with_other_files_is_not_cleared(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "other.jpg").touch()
    with pytest.raises(ValueError, match="contains other files"):
        show(tmp_path, steps=1)
    assert (tmp_path / "images" / "other.jpg").exists()


@pytest.mark.slow
def test_the_report_is_complete(tmp_path):
    summary = show(tmp_path / "demo", steps=4)
    html = (tmp_path / "demo" / "report.html").read_text()
    assert html.count("<img") == 6 and len(re.findall(r"<tr>", html)) == 3 + 9
    assert "http" not in html and set(summary) == {"report", "seconds", "navit", "square"}
    compute = [summary[name]["train_tflop"] for name in ("navit", "square")]
    assert compute[0] == pytest.approx(compute[1], rel=0.2)
