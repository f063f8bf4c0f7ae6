"""Figures, contact sheets and HTML pages render the data they get."""

import io

import numpy as np
from PIL import Image

from conftest import make_images
from patchpack.batch import collate
from patchpack.visualize.figures import draw_budgets, draw_confusion, draw_curves, draw_pack
from patchpack.visualize.html import Picture, page, paragraph, pictures, rows


def test_pictures_are_pictures():
    images = [Image.open(io.BytesIO(data)) for data in (
        draw_confusion(np.array([[3, 1], [0, 2]]), ["a", "b"]),
        draw_budgets({"one": [(16, 0.5), (64, 0.8)]}, "tokens"),
        draw_curves([{"step": 1, "loss": 2.0, "images_per_s": 9.0}], []),
    )]  # fmt: skip
    assert all(image.format == "PNG" and min(image.size) > 200 for image in images)


def test_a_drawn_pack_shows_every_image_and_its_border():
    batch = collate(make_images(), 12)
    batch = type(batch)(patches=batch.patches.byte(), coords=batch.coords, grids=batch.grids,
                        lengths=batch.lengths)  # fmt: skip
    drawn = draw_pack(batch, 2)
    border = (drawn == (0xD1, 0x60, 0x3D)).all(-1)
    assert border.sum() > 4 * 6 and (drawn == 128).all(-1).any()  # dropped patches are gray


def test_a_page_is_whole_and_escaped():
    html = page("a < b", "lead", [("one & two", paragraph("<b>bold</b>") + rows(["x"], [["<1>"]]))])
    assert "<b>" not in html and "a &lt; b" in html and "&lt;1&gt;" in html
    assert "data:image/png;base64,aGk=" in pictures(Picture(b"hi", "caption"))
    assert "http" not in html.replace("http-equiv", "")
