"""On the real images in PATCHPACK_DATA (plankton33, caltech40): read, packed and learned from."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from patchpack.config import load_recipe
from patchpack.data.images import decode
from patchpack.data.index import build_index
from patchpack.run import start

DATA = os.environ.get("PATCHPACK_DATA", "")
RECIPES = Path(__file__).parents[1] / "recipes"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DATA, reason="PATCHPACK_DATA names no folder of images"),
]


@pytest.mark.parametrize("name", ["plankton33", "caltech40"])
def test_every_image_is_as_its_header_says(name):
    index = build_index(Path(DATA) / name)
    assert not index.bad
    for i in range(0, len(index), 7):
        pixels = decode(index.path(i), key=index.keys[i])
        assert pixels.shape[:2] == (index.heights[i], index.widths[i])


@pytest.mark.parametrize("recipe", ["plankton", "plankton_square", "caltech40", "caltech40_square"])
def test_recipes_begin_to_learn(recipe, tmp_path):
    config = load_recipe(RECIPES / f"{recipe}.py")
    name = "plankton33" if "plankton" in recipe else "caltech40"
    config = replace(
        config,
        out=tmp_path / "run",
        data=replace(config.data, root=Path(DATA) / name),
        optim=replace(config.optim, warmup=5),
        train=replace(config.train, steps=20, eval_every=20, ema=0.0),
    )
    assert start(config, live=False).best > 1.5 / 40
