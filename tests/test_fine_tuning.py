"""Runs initialized from another run: copied, resized, frozen and rejected weights."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from conftest import randomize, write_folder
from patchpack.batch import Tubelet
from patchpack.checkpoint import CheckpointError, list_checkpoints, load
from patchpack.data.index import build_index
from patchpack.data.pipeline import training_batches
from patchpack.model.position_resize import IncompatiblePositions, resize_positions, resize_time
from patchpack.model.positions import UNLIMITED, Factorized, Interpolated, Learned2D, Rotary
from patchpack.model.video import VideoConfig
from patchpack.run import start
from patchpack.tasks.classification.model import Classifier
from patchpack.train.optim import OptimConfig
from runs import tiny, trainer_of


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    sizes = {"train": 16, "val": 4, "test": 4}
    return write_folder(tmp_path_factory.mktemp("data") / "images", sizes)


@pytest.fixture(scope="module")
def pretrained(root, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "pretrained"
    start(tiny(root, out), live=False)
    return out


def test_a_run_is_initialized_with_the_best_weights_of_another(root, pretrained, tmp_path):
    """Including the head if the classes are the same; a learning rate near 0 keeps the weights."""
    config = tiny(root, tmp_path / "same", steps=1)
    start(replace(config, init=pretrained, optim=replace(config.optim, lr=1e-12)), live=False)
    best = load(list_checkpoints(pretrained / "checkpoints", "best")[0]).tensors["model"]
    initial = load(list_checkpoints(tmp_path / "same" / "checkpoints", "last")[0]).tensors["model"]
    for name, tensor in best.items():
        torch.testing.assert_close(initial[name], tensor)

    other = write_folder(tmp_path / "other", {"train": 8, "val": 4})
    for split in ("train", "val"):
        (other / split / "plain").rename(other / split / "smooth")
    config = tiny(other, tmp_path / "new head", steps=1)
    start(replace(config, init=pretrained, optim=replace(config.optim, lr=1e-12)), live=False)
    initial = load(list_checkpoints(tmp_path / "new head" / "checkpoints", "last")[0]).tensors[
        "model"
    ]
    torch.testing.assert_close(
        initial["backbone.embedding.weight"], best["backbone.embedding.weight"]
    )
    assert initial["head.weight"].abs().max() < 1e-6


def test_a_frozen_backbone_is_a_linear_probe(root, pretrained, tmp_path):
    config = replace(tiny(root, tmp_path / "probe", steps=3), init=pretrained)
    config = replace(config, train=replace(config.train, freeze_backbone=True))
    start(config, live=False)
    best = load(list_checkpoints(pretrained / "checkpoints", "best")[0]).tensors["model"]
    after = load(list_checkpoints(tmp_path / "probe" / "checkpoints", "last")[0]).tensors["model"]
    same = {name for name in best if torch.equal(best[name], after[name])}
    assert set(best) - same == {"head.weight", "head.bias"}
    with pytest.raises(ValueError, match="freeze_backbone needs init"):
        replace(config, init=None)


def test_layer_decay_lowers_the_rate_from_block_to_block(root, tmp_path):
    """Adam's first step equals the learning rate, whatever the gradient."""
    config = tiny(root, tmp_path / "run", steps=1, ema=0.0)
    config = replace(
        config, model=replace(config.model, depth=3),
        optim=OptimConfig(lr=1e-3, warmup=0, layer_decay=0.5, weight_decay=0, head_weight_decay=0),
    )  # fmt: skip
    torch.manual_seed(0)
    task = randomize(Classifier(config.model, 3))
    before = {name: p.detach().clone() for name, p in task.named_parameters()}
    trainer = trainer_of(task, config)
    train = build_index(root).split("train")
    packs = training_batches(train, config.data, config.input, seed=config.train.seed)
    trainer.step([next(packs)], stop=False)
    steps = {n: float((p.detach() - before[n]).abs().max()) for n, p in task.named_parameters()}
    rate = trainer.learning_rate
    for name, halvings in {
        "head.weight": 0, "backbone.encoder.norm.weight": 0, "backbone.pool.probe": 0,
        "backbone.encoder.blocks.2.mlp.up.weight": 1, "backbone.encoder.blocks.0.mlp.up.weight": 3,
        "backbone.embedding.weight": 4, "backbone.positions.y": 4,
    }.items():  # fmt: skip
        assert steps[name] == pytest.approx(rate * 0.5**halvings, rel=0.02)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (Factorized(table_size=64), Factorized(table_size=96),
         "64 learned positions cannot be extended to 96.*give model.positions:factorized "
         "--model.positions.table-size 64 "),
        (Factorized(), Rotary(), "Factorized cannot be converted to Rotary"),
        (Factorized(), Factorized(combine="concat"), "sum of absolute .* be converted to concat"),
        (Learned2D(table_size=20), Learned2D(table_size=30),
         "20 learned positions cannot be extended to 30.*give model.positions:learned2-d "),
        (Rotary(), Rotary(base=7.0), "Rotary.* cannot be converted to Rotary"),
    ],
)  # fmt: skip
def test_positions_that_cannot_be_resized_are_rejected_with_options(
    root, tmp_path, before, after, message
):
    config = tiny(root, tmp_path / "first", steps=1, ema=0.0)
    first = replace(config, model=replace(config.model, positions=before))
    start(first, live=False)
    second = replace(
        config, out=tmp_path / "second", init=first.out,
        model=replace(config.model, positions=after),
    )  # fmt: skip
    with pytest.raises(CheckpointError, match=f"other positions.*{message}"):
        start(second, live=False)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (Factorized(table_size=64), Factorized(table_size=12)),
        (Factorized(table_size=8, coordinates="fractional"),
         Factorized(table_size=16, coordinates="fractional")),
        (Learned2D(table_size=20), Learned2D(table_size=12)),
        (Interpolated(side=4), Interpolated(side=8)),
    ],
)  # fmt: skip
def test_resized_positions_keep_their_embeddings(before, after):
    """Exactly where a table is truncated, approximately where it is resampled."""
    torch.manual_seed(0)
    old, new = before.build(8), after.build(8)
    for parameter in old.parameters():  # smooth tables, like learned ones
        rows = torch.linspace(0, 1, parameter[..., 0].numel()).view(*parameter.shape[:-1], 1)
        parameter.data = rows * torch.linspace(1, 2, 8)
    tensors = {f"positions.{name}": t for name, t in old.state_dict().items()}
    resized = resize_positions(tensors | {"other": torch.ones(1)}, before, after)
    new.load_state_dict({n.removeprefix("positions."): t for n, t in resized.items() if "." in n})
    y, x = torch.meshgrid(torch.arange(9), torch.arange(7), indexing="ij")
    coords = torch.stack([y, x], -1).view(-1, 2).int()
    grids = torch.tensor([[9, 7]]).expand(63, 2)
    truncated = isinstance(before, Learned2D) or before.max_side < UNLIMITED
    atol = 0 if truncated else 0.15
    torch.testing.assert_close(new(coords, grids), old(coords, grids), atol=atol, rtol=0)


def test_a_resized_time_table_keeps_its_embeddings():
    """Absolute tables are truncated, fractional ones resampled; the type never changes."""
    shapes = (Tubelet(2, 4, 4),)
    before = VideoConfig(
        dim=8, depth=1, num_heads=2, mlp_dim=8, patch_size=4, tubelets=shapes, time_table_size=6
    )  # fmt: skip
    tensors = {"time": torch.linspace(0, 1, 6)[:, None] * torch.ones(8), "other": torch.ones(1)}
    truncated = resize_time(tensors, before, replace(before, time_table_size=4))
    assert torch.equal(truncated["time"], tensors["time"][:4]) and "other" in truncated
    with pytest.raises(IncompatiblePositions, match="6 learned positions cannot be extended to 9"):
        resize_time(tensors, before, replace(before, time_table_size=9))
    fractional = replace(before, time_coordinates="fractional")
    longer = resize_time(tensors, fractional, replace(fractional, time_table_size=12))["time"]
    expected = ((torch.arange(12) + 0.5) / 12 * 6 - 0.5).clamp(0, 5) / 5
    torch.testing.assert_close(longer[:, 0], expected, atol=1e-5, rtol=0)
    with pytest.raises(
        IncompatiblePositions, match="time_coordinates are absolute, not fractional"
    ):
        resize_time(tensors, before, fractional)


def test_weights_that_do_not_fit_are_rejected_with_options(root, pretrained, tmp_path):
    config = tiny(root, tmp_path / "run", steps=1)
    wider = replace(config, model=replace(config.model, dim=32), init=pretrained)
    message = r"another architecture \(dim 16, not 32\): give --model.dim 16"
    with pytest.raises(CheckpointError, match=message):
        start(wider, live=False)
    other = replace(config.model, activation="gelu_tanh", bias=not config.model.bias)
    message = "give --model.(no-)?bias --model.activation gelu$"
    with pytest.raises(CheckpointError, match=message):
        start(replace(config, model=other, init=pretrained), live=False)
    with pytest.raises(CheckpointError, match="holds no checkpoint `best`"):
        start(replace(config, init=tmp_path), live=False)
