"""Train (validation), eval, predict, embed and search prepare one file in one way, so their outputs
agree: a temperature or threshold fitted by one verb is valid in all."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import patchpack as pp
from pairs import tiny_pairs
from patchpack.evaluation.run_data import data_of
from patchpack.inference.measure import view_batches, view_of
from patchpack.model.navit import NaViT
from patchpack.run import load_config, start
from patchpack.tasks.contrastive.model import ContrastiveConfig
from runs import tiny
from scenes import tiny_segmenter
from test_cli import patchpack
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


Item = tuple[tuple[int, ...], bytes]  # the grid of an image, and its patches


@contextmanager
def recorded_images(monkeypatch) -> Iterator[set[Item]]:
    """The images that enter a backbone in evaluation mode, without order."""
    images: set[Item] = set()
    embed = NaViT.embed

    def recording(self, batch):
        if not self.training:
            patches = batch.patches.split(list(batch.lengths))
            for grid, part in zip(batch.grids.tolist(), patches, strict=True):
                images.add((tuple(grid), part.numpy().tobytes()))
        return embed(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(NaViT, "embed", recording)
        yield images


@pytest.mark.parametrize("tokens", BUDGETS)
def test_every_verb_gives_the_model_the_same_patches_of_a_file(
    run, capsys, monkeypatch, tmp_path, tokens
):
    data = data_of(run, split="test")
    files = [data.index.path(number) for number in range(len(data.index))]
    name = load_config(run).task
    labels = ["--labels", "a", "b"] if isinstance(name, ContrastiveConfig) else []
    commands = {
        "eval": ["eval", run, "--budgets", tokens, "--out", tmp_path],
        "predict": ["predict", run, *files, "--max-tokens", tokens, *labels],
        "embed": ["embed", run, *files, "--max-tokens", tokens, "-o", tmp_path / "v.npz"],
    }
    if isinstance(name, ContrastiveConfig):
        folder = tmp_path / "files"
        folder.mkdir()
        for file in files:
            (folder / file.name).symlink_to(file)
        commands["search"] = ["search", run, folder, "a", "--max-tokens", tokens]
    seen = {}
    for verb, words in commands.items():
        with recorded_images(monkeypatch) as seen[verb]:
            assert patchpack(capsys, *words)[0] == 0
    with recorded_images(monkeypatch) as seen["validation"]:
        config = load_config(run)
        data_config = replace(config.data, val_split="test", eval_tokens=tokens)
        train = replace(config.train, steps=1, eval_every=1)
        start(replace(config, out=tmp_path / "run", data=data_config, train=train), live=False)
    for verb, images in seen.items():
        assert len(images) == len(files) and images == seen["eval"], verb


@pytest.mark.parametrize("tokens", BUDGETS)
def test_predict_prints_the_probabilities_that_eval_counts(root, tmp_path, capsys, tokens):
    run = start_tiny(root, tmp_path / "run")
    data = data_of(run, split="test")
    files = [data.index.path(number) for number in range(len(data.index))]
    predictor = pp.load(run)
    unreadable = data.unreadable()
    (batch,) = view_batches(predictor, data.index, view_of(predictor, tokens), unreadable)
    expected = dict(zip(batch.keys, predictor.outputs(batch).logits.softmax(1), strict=True))
    _, out, _ = patchpack(capsys, "predict", run, *files, "--max-tokens", tokens, "--json")
    for key, line in zip(data.index.keys, out.splitlines(), strict=True):
        record = json.loads(line)
        probabilities = dict(zip(predictor.classes, expected[key].tolist(), strict=True))
        printed = {entry["label"]: entry["probability"] for entry in record["labels"]}
        assert printed == pytest.approx(probabilities, abs=1e-6)


def start_tiny(root: Path, out: Path) -> Path:
    start(tiny(root, out, steps=1), live=False)
    return out
