"""Modules and optimizers are restored from tensors bit for bit, all or nothing."""

import pytest
import torch
from torch import nn

from checkpoints import same
from patchpack.checkpoint import (
    CheckpointError,
    flatten_optimizer,
    load,
    load_into,
    restore_optimizer,
    save,
)

# Modules


def test_load_into_copies_all_or_nothing():
    module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    expected = {name: torch.randn_like(value) for name, value in before.items()}
    wrong = {**expected, "0.weight": torch.zeros(3, 5), "2.bias": torch.zeros(1)}
    del wrong["1.bias"]
    with pytest.raises(CheckpointError) as caught:
        load_into(module, wrong, "run/best")
    assert str(caught.value) == (
        "run/best does not fit the model: 1 missing (1.bias); 1 unexpected (2.bias); "
        "1 of another shape (0.weight: [3, 5] for [3, 2])"
    )
    assert all(same(value, before[name]) for name, value in module.state_dict().items())
    load_into(module, expected, "run/best")
    assert all(same(value, expected[name]) for name, value in module.state_dict().items())


def test_the_error_lists_the_first_mismatches():
    tensors = {f"x{i}": torch.ones(1) for i in range(9)}
    with pytest.raises(CheckpointError, match=r"9 unexpected \(x0, x1, x2, x3, x4, …\)$"):
        load_into(nn.Module(), tensors, "run")


# Optimizers


def make_training(fused: bool) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A model whose last layer gets no gradient, and an optimizer with two groups out of order."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2), nn.Linear(2, 2))
    body, rest = [], []
    for parameter in module.parameters():
        (body if parameter.ndim == 2 else rest).append(parameter)
    groups = [{"params": rest, "weight_decay": 0.0}, {"params": body, "weight_decay": 0.1}]
    return module, torch.optim.AdamW(groups, lr=0.01, fused=fused)


def train(module: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        optimizer.zero_grad()
        module[:2](torch.randn(5, 4, generator=generator)).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("fused", [True, False])
def test_training_resumes_bit_for_bit(tmp_path, fused):
    module, optimizer = make_training(fused)
    train(module, optimizer, range(5))
    flat = flatten_optimizer(optimizer, module.named_parameters())
    assert flat.keys() == {
        f"{key}/{name}"
        for key in ("step", "exp_avg", "exp_avg_sq")
        for name in ("0.weight", "0.bias", "1.weight", "1.bias")
    }
    tensors = {"model": module.state_dict(), "optimizer": flat}
    folder = save(tmp_path, "last", 5, tensors=tensors, state={})
    kept = {key: value.clone() for key, value in flat.items()}
    train(module, optimizer, range(5, 9))

    resumed, restored = make_training(fused)
    train(resumed, restored, range(20, 22))  # replaced by the load
    loaded = load(folder).tensors
    load_into(resumed, loaded["model"], "run")
    restore_optimizer(restored, resumed.named_parameters(), loaded["optimizer"])
    now = flatten_optimizer(restored, resumed.named_parameters())
    assert now.keys() == kept.keys() and all(same(now[key], kept[key]) for key in kept)
    train(resumed, restored, range(5, 9))
    assert all(same(loaded["optimizer"][key], kept[key]) for key in kept), "not a copy"
    for parameter, uninterrupted in zip(resumed.parameters(), module.parameters(), strict=True):
        assert same(parameter, uninterrupted)
    assert [group["weight_decay"] for group in restored.param_groups] == [0.0, 0.1]


def test_an_optimizer_without_steps_is_restored_without_state():
    module, optimizer = make_training(fused=True)
    fresh = flatten_optimizer(optimizer, module.named_parameters())
    assert fresh == {}
    train(module, optimizer, range(2))
    restore_optimizer(optimizer, module.named_parameters(), fresh)
    assert flatten_optimizer(optimizer, module.named_parameters()) == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"exp_avg/3.weight": torch.ones(2)}, "exp_avg/3.weight belongs to no parameter"),
        ({"nonsense": torch.ones(2)}, "nonsense belongs to no parameter"),
        ({"exp_avg/0.weight": torch.ones(8, 5)}, r"exp_avg/0.weight has shape \[8, 5\], not"),
        ({"exp_avg/0.weight": None}, "lacks exp_avg/0.weight$"),
    ],
)
def test_an_optimizer_is_restored_completely_or_not_at_all(change, message):
    module, optimizer = make_training(fused=True)
    train(module, optimizer, range(2))
    before = {
        key: value.clone()
        for key, value in flatten_optimizer(optimizer, module.named_parameters()).items()
    }
    wrong = {key: torch.zeros_like(value) for key, value in before.items()} | change
    wrong = {key: value for key, value in wrong.items() if value is not None}
    with pytest.raises(CheckpointError, match=message):
        restore_optimizer(optimizer, module.named_parameters(), wrong)
    now = flatten_optimizer(optimizer, module.named_parameters())
    assert all(same(now[key], before[key]) for key in before)
