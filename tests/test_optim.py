"""Learning-rate schedules, and the weight decay of each parameter group."""

from itertools import pairwise

import pytest

import patchpack as pp
from patchpack.batch import Tubelet
from patchpack.model.video import VideoConfig
from patchpack.tasks.classification.model import Classifier
from patchpack.train.optim import OptimConfig, build_optimizers, learning_rate


def test_rsqrt_warms_up_falls_and_cools_down():
    config = OptimConfig(lr=1.0, schedule="rsqrt", warmup=10, timescale=100, cooldown=0.2)
    rates = [learning_rate(config, step, 1000) for step in range(1000)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == pytest.approx(1.0)
    assert rates[109] == pytest.approx(2**-0.5)  # one timescale after warm-up
    assert rates[799] == pytest.approx((1 + 790 / 100) ** -0.5)
    assert rates[900] == pytest.approx((1 + 891 / 100) ** -0.5 * 0.5)  # half way down
    assert rates[999] < 0.01 * rates[799] * 1.0001


def test_cosine_warms_up_and_ends_at_zero():
    config = OptimConfig(lr=2.0, schedule="cosine", warmup=10)
    rates = [learning_rate(config, step, 110) for step in range(110)]
    assert rates[4] == pytest.approx(1.0) and max(rates) == pytest.approx(2.0)
    assert rates[59] == pytest.approx(1.0) and rates[-1] == pytest.approx(0.0, abs=1e-9)
    assert all(a >= b for a, b in pairwise(rates[9:]))


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_weight_decay_is_for_matrices_and_separate_for_the_head(optimizer):
    model = pp.create_model("navit_ti16", 5, bias=True, registers=2, layer_scale=0.1)
    config = OptimConfig(optimizer=optimizer, weight_decay=0.1, head_weight_decay=0.7)
    optimizers = build_optimizers(model, config)
    decays = {
        id(p): group["weight_decay"]
        for built in optimizers.values()
        for group in built.param_groups
        for p in group["params"]
    }
    by_name = {name: decays[id(p)] for name, p in model.named_parameters()}
    assert len(by_name) == len(decays)
    assert by_name["head.weight"] == 0.7 and by_name["head.bias"] == 0
    for name, decay in by_name.items():
        matrix = name.endswith("weight") and "norm" not in name and not name.startswith("head")
        assert decay == (0.1 if matrix else 0.7 if name == "head.weight" else 0), name
    if optimizer == "muon":
        (muon,) = optimizers["muon"].param_groups
        assert {id(p) for p in muon["params"]} == {i for i, decay in decays.items() if decay == 0.1}


def test_the_time_table_is_updated_like_positions():
    """With AdamW, without weight decay, at the depth of positions."""
    shapes = (Tubelet(2, 4, 4),)
    model = Classifier(
        VideoConfig(dim=12, depth=2, num_heads=2, mlp_dim=20, patch_size=4, tubelets=shapes), 3
    )
    config = OptimConfig(optimizer="muon", weight_decay=0.1, layer_decay=0.5)
    groups = {
        id(p): (name, group["weight_decay"], group["scale"])
        for name, optimizer in build_optimizers(model, config).items()
        for group in optimizer.param_groups
        for p in group["params"]
    }
    assert groups[id(model.backbone.time)] == groups[id(model.backbone.positions.y)]
    assert groups[id(model.backbone.time)] == ("adamw", 0, 0.5**3)


@pytest.mark.parametrize("invalid", [{"lr": 0}, {"cooldown": 2}, {"grad_clip_norm": -1}])
def test_invalid_settings_are_rejected(invalid):
    with pytest.raises(ValueError, match=next(iter(invalid))):
        OptimConfig(**invalid)
