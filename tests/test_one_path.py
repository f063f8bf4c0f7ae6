"""Train (validation), eval, predict, embed and search prepare one file in one way, so their outputs
agree: a temperature or threshold fitted by one verb is valid in all."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import patchpack as pp
from pairs import tiny_pairs
from patchpack.data.annotations.boxes import attach_boxes
from patchpack.data.annotations.masks import attach_masks
from patchpack.evaluation.run_data import data_of
from patchpack.inference.measure import view_batches, view_of
from patchpack.run import start
from patchpack.tasks.registry import task_of
from runs import tiny
from scenes import tiny_segmenter
from test_detecting import tiny_detector

BUDGETS = (4, 30, 100)


def smooth_noise(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Detail at every scale, so that a scaled JPEG decode differs from a full one."""
    image = np.zeros((height, width, 3))
    for side in (4, 16, 64, 256):
        noise = Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))
        image += np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC), float) / 4
    return image.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Large JPEGs, PNGs and photos with EXIF rotation, with labels, captions, masks and boxes."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    lines = []
    for split, count in (("train", 6), ("val", 3), ("test", 3)):
        for number in range(count):
            height, width = (640, 900) if number % 2 else (820, 500)
            image = Image.fromarray(smooth_noise(rng, height, width))
            name = f"{split}{number}" + (".png" if number % 3 == 1 else ".jpg")
            rotated = number % 3 == 2
            image.save(root / name, **({"exif": exif} if rotated else {}), quality=95)
            size = (width, height) if rotated else (height, width)
            mask = np.zeros(size, np.uint8)
            mask[: size[0] // 2] = 1
            Image.fromarray(mask).save(root / f"mask-{split}{number}.png")
            lines.append({
                "path": name, "split": split, "label": ("a", "b")[number % 2],
                "caption": f"image {number}", "mask": f"mask-{split}{number}.png",
                "objects": [{"bbox": [10, 20, 200, 300], "category": "c"}],
            })  # fmt: skip
    (root / "classes.json").write_text('["ground", "top"]')
    path = root / "manifest.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def configs(root: Path, out: Path) -> dict:
    text = {"classification": tiny, "contrastive": tiny_pairs, "segmentation": tiny_segmenter,
            "detection": tiny_detector}  # fmt: skip
    return {name: make(root, out / name, steps=1) for name, make in text.items()}


@pytest.fixture(
    scope="module", params=["classification", "contrastive", "segmentation", "detection"]
)
def run(request, root, tmp_path_factory) -> Path:
    config = configs(root, tmp_path_factory.mktemp("runs"))[request.param]
    start(config, live=False)
    return config.out


def outputs(predictor, batch) -> torch.Tensor:
    """Whatever the model computes of a pack, in rows per token or image."""
    with torch.inference_mode():
        out = predictor.model(batch)
    return torch.cat(list(out), dim=-1) if isinstance(out, tuple) else out


def annotated(name: str, data, predictor):
    """The data as the task's own evaluation reads them."""
    index = data.index
    if name == "segmentation":
        return attach_masks(index, 2, None)[0]
    if name == "detection":
        return attach_boxes(index, predictor.classes, 0.0)[0]
    return index


@pytest.mark.parametrize("tokens", BUDGETS)
def test_evaluation_and_predict_compute_the_same_logits_of_the_same_file(run, root, tokens):
    predictor, data = pp.load(run), data_of(run, split="test")
    task = task_of(predictor.spec.task)
    index = annotated(task.name, data, predictor)
    files = [index.path(number) for number in range(len(index))]
    dense = task.supports_mosaic  # masks and boxes: the predictor decodes the whole image
    images = [np.asarray(pixels) for pixels in map(pp_decode, files)] if dense else files
    (predicted,) = predictor.packs(images, tokens)
    unreadable = data.unreadable()
    (evaluated,) = view_batches(predictor, index, view_of(predictor, tokens), unreadable)
    order = [evaluated.keys.index(key) for key in index.keys]
    evaluated = evaluated.select(order)
    assert torch.equal(predicted.patches, evaluated.patches)
    assert torch.equal(predicted.coords, evaluated.coords)
    torch.testing.assert_close(
        outputs(predictor, predicted), outputs(predictor, evaluated), atol=1e-6, rtol=0
    )


def pp_decode(path: Path) -> np.ndarray:
    from patchpack.data.images import decode

    return decode(path, key=str(path))
