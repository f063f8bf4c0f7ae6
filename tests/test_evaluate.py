"""Figures are counted, not averaged; pictures and pages show what they are given."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import make_images
from patchpack.batch import collate
from patchpack.data.config import PackingConfig
from patchpack.data.index import build_index
from patchpack.data.packing.resolution import Native
from patchpack.data.statistics import survey
from patchpack.metrics.classification import ClassificationCounts, classify, count, table
from patchpack.model.navit import forward_flops
from patchpack.model.presets import model_config
from patchpack.visualize.figures import draw_budgets, draw_confusion, draw_curves, draw_pack
from patchpack.visualize.html import Picture, page, paragraph, pictures, rows

LOGITS = torch.tensor([[5.0, 1, 0, 0, 0, 0, 0], [0, 0, 3, 2, 0, 0, 0], [9, 8, 7, 6, 5, 4, 0]])
LABELS = torch.tensor([0, 3, 6])


def test_counts():
    counts = count(LOGITS, LABELS)
    assert counts.images == 3 and counts.top1 == 1 / 3 and counts.top5 == 2 / 3
    assert counts.confusion[3, 2] == 1 and counts.confusion[6, 0] == 1
    expected = torch.nn.functional.cross_entropy(LOGITS, LABELS).item()
    assert counts.mean_nll == pytest.approx(expected, rel=1e-6)
    assert counts.per_class[0] == 1 and counts.per_class[3] == 0 and counts.per_class[1].isnan()


def test_parts_add_up():
    whole = count(LOGITS, LABELS)
    parts = count(LOGITS[:1], LABELS[:1]) + count(LOGITS[1:], LABELS[1:])
    assert torch.equal(whole.confusion, parts.confusion) and whole.in_top5 == parts.in_top5
    assert ClassificationCounts.none(7).images == 0 and ClassificationCounts.none(7).top1 == 0


def test_unlabelled_images_are_not_judged():
    images = make_images()
    batch = collate(images, 12)
    batch.targets["label"][0] = -1
    counts = classify(lambda b: torch.eye(3)[[0, 1, 2, 0, 1, 2]], [batch, collate([], 12)], 3)
    assert counts.images == 5 and counts.top1 == 1
    assert table(counts, ["a", "b", "c"])["per_class"] == {"a": 1.0, "b": 1.0, "c": 1.0}


def test_a_survey_counts_tokens_and_compute(folder, tmp_path):
    index = build_index(folder, cache_dir=tmp_path)
    config = model_config("navit_s16", patch_size=4)
    found = survey(
        index,
        PackingConfig(patch_size=4, max_tokens=300, resolution=Native()),
        flops=lambda n: forward_flops(config, n),
    )
    assert found.images == 72 and found.splits == {"train": 48, "val": 12, "test": 12}
    assert found.tokens[0] >= 4 and found.tokens[-1] <= 100 and 0.9 < found.fill <= 1
    assert found.gflops < found.gflops_padded and found.gflops < found.gflops_square
    assert found.json()["packs"] == found.packs


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
