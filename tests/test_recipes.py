"""Every recipe loads; full-scale recipes take one step at reduced width."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import randomize
from pairs import write_pairs
from patchpack.config import RunConfig, load_recipe
from patchpack.data.config import PackingConfig
from patchpack.data.index import build_index
from patchpack.data.packing.plan import ItemSizes, make_plan
from patchpack.data.pipeline import training_batches
from patchpack.serialization import from_json, to_json
from patchpack.tasks.classification.model import Classifier
from runs import prepared, trainer_of

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.py"))
LARGE = {"navit_b32": 5.41, "navit_b16": 4.88, "navit_l16": 4.88}  # images per sequence (Table 2)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_load_and_round_trip_through_json(path):
    config = load_recipe(path)
    assert from_json(RunConfig, to_json(config)) == config
    assert f"recipes/{path.name}" in path.read_text().split('"""')[1]


@pytest.mark.parametrize("name", LARGE)
def test_full_scale_recipes_take_a_step_at_reduced_width(name, folder):
    """Only the width, the depth and the pack size differ from the recipe."""
    full = load_recipe(next(path for path in RECIPES if path.stem == name))
    shape = {"dim": 16, "depth": 1, "num_heads": 2, "mlp_dim": 32}
    config = replace(
        full,
        model=replace(full.model, **shape),
        data=replace(
            full.data, root=folder, max_tokens=256, loader=replace(full.data.loader, workers=0)
        ),
        train=replace(full.train, grad_accumulation=1, compile=False),
    )
    index = build_index(folder)
    packs = training_batches(index, config.data, config.input, seed=config.train.seed)
    task = randomize(Classifier(config.model, len(index.classes), config.task))
    trainer = trainer_of(task, config, dtype=torch.bfloat16)
    sums = trainer.step([next(packs)], stop=False)
    assert sums.count > 0 and torch.isfinite(sums.loss)
    assert trainer.learning_rate == pytest.approx(8e-4 / 10_000)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in task.parameters())


def test_the_full_scale_contrastive_recipe_takes_a_step_at_reduced_width(tmp_path):
    full = load_recipe(next(path for path in RECIPES if path.stem == "contrastive_l16"))
    assert full.task.text.max_length == 24 and full.task.text.vocab_size >= 32_000
    shape = {"dim": 16, "depth": 1, "num_heads": 2, "mlp_dim": 32}
    config = replace(
        full,
        model=replace(full.model, **shape),
        data=replace(
            full.data, root=write_pairs(tmp_path, {"train": 12, "val": 4}), max_tokens=512,
            loader=replace(full.data.loader, workers=0),
        ),
        task=replace(full.task, text=replace(full.task.text, **shape), dim=8),
        train=replace(full.train, compile=False),
    )  # fmt: skip
    module, task_run = prepared(config)
    packs = training_batches(task_run.train, config.data, config.input, seed=config.train.seed)
    trainer = trainer_of(randomize(module), config, dtype=torch.bfloat16)
    sums = trainer.step([next(packs)], stop=False)
    assert sums.count > 0 and torch.isfinite(sums.loss)
    assert trainer.learning_rate == pytest.approx(3e-3 / 10_000)
    trained = [p for p in trainer.task.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trained)


@pytest.mark.parametrize("name", LARGE)
def test_full_scale_steps_have_the_image_count_of_the_paper(name):
    """Within 10 %, since grids are rounded to the nearest aspect ratio, not down."""
    config = load_recipe(next(path for path in RECIPES if path.stem == name))
    rng = np.random.default_rng(0)
    aspect = np.exp(rng.normal(0, 0.35, 60_000))
    heights, widths = ((400 * aspect**power).round().astype(int) for power in (-0.5, 0.5))
    packing = PackingConfig(
        patch_size=config.model.patch_size, max_tokens=config.data.max_tokens,
        resolution=config.data.resolution, dropping=config.data.dropping,
    )  # fmt: skip
    plan = make_plan(ItemSizes(heights, widths), packing, seed=0, epoch=0)
    sequence = {32: 64, 16: 256}[config.model.patch_size]
    images = 60_000 / (plan.kept.sum() / sequence)
    assert images == pytest.approx(LARGE[name], rel=0.1)
    tokens = config.data.max_tokens * config.train.grad_accumulation * 8
    assert tokens == 4096 * sequence
