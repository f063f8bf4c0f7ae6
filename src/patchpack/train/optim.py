"""Optimizers and their learning-rate schedule.

AdamW, with separate weight decay for the matrices of backbone and head, and none on norms, biases,
positions, registers and scales. Muon can update the backbone's matrices instead (Jordan et al.,
2024): its update is the orthogonalized momentum, scaled to the size of AdamW's updates (Liu et al.,
arXiv 2502.16982, §2.2), so one learning rate fits both.

NaViT's schedule falls with the reciprocal square root of the step and ends in a linear cooldown,
so a run can be stopped anywhere and cooled down (arXiv 2106.04560, §3.3).
"""

import re
from dataclasses import dataclass
from itertools import chain
from math import cos, inf, pi
from typing import Literal

from torch import nn
from torch.optim import AdamW, Muon, Optimizer

EMBEDDING_TABLES = ("registers", "class_tokens", "backbone.time")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Optimizer, learning-rate schedule and weight decay."""

    # optimizer of the backbone's matrices; AdamW updates all other parameters
    optimizer: Literal["adamw", "muon"] = "adamw"
    lr: float = 1e-3  # peak learning rate
    # learning-rate schedule after warmup: rsqrt falls with the reciprocal square root of the step
    # and ends in a linear cooldown, cosine falls to 0
    schedule: Literal["rsqrt", "cosine"] = "rsqrt"
    warmup: int = 100  # optimizer steps of linear warmup
    cooldown: float = 0.2  # fraction of the run in the linear cooldown of rsqrt
    timescale: int = 1000  # optimizer steps after which rsqrt has fallen by √2
    weight_decay: float = 0.03  # weight decay of the backbone's matrices
    head_weight_decay: float = 0.03  # weight decay of the head's matrices (NaViT: 100 times larger)
    layer_decay: float = 1.0  # learning-rate factor from each block to the one before; 1: off
    betas: tuple[float, float] = (0.9, 0.999)  # AdamW's decay rates of the first and second moment
    grad_clip_norm: float = 1.0  # maximum norm of the gradient; 0: no clipping

    def __post_init__(self) -> None:
        if not 0 < self.lr < inf:
            raise ValueError(f"lr must be a positive number, not {self.lr}")
        for name in ("weight_decay", "head_weight_decay"):
            if not 0 <= (value := getattr(self, name)) < inf:
                raise ValueError(f"{name} must be a number of at least 0, not {value}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must lie in [0, 1), not {self.betas}")
        if self.warmup < 0 or self.timescale < 1 or not 0 <= self.grad_clip_norm < inf:
            raise ValueError("timescale must be positive; warmup and grad_clip_norm not negative")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay must lie in (0, 1], not {self.layer_decay}")
        if not 0 <= self.cooldown <= 1:
            raise ValueError(f"cooldown must lie in [0, 1], not {self.cooldown}")


def learning_rate(config: OptimConfig, step: int, steps: float) -> float:
    """Return the learning rate of optimizer step `step`, from 0, in a run of `steps`.

    `steps` may be inf if the length of the run is unknown.
    """
    warm = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    after = max(0, step + 1 - config.warmup)
    if config.schedule == "cosine":
        progress = min(1.0, after / max(1, steps - config.warmup))
        return config.lr * warm * 0.5 * (1 + cos(pi * progress))
    decay = (1 + after / config.timescale) ** -0.5
    remaining = 1 - step / steps
    cool = min(1.0, remaining / config.cooldown) if config.cooldown else 1.0
    return config.lr * warm * decay * cool


def build_optimizers(module: nn.Module, config: OptimConfig) -> dict[str, Optimizer]:
    """Return optimizers by name: "adamw" and, for the backbone's matrices if configured, "muon".

    The learning rate of each parameter group is multiplied by its `scale`.
    """
    parameters: dict[tuple[str, float], list[nn.Parameter]] = {}
    depth = len(module.backbone.encoder.blocks)  # pyrefly: ignore
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            scale = config.layer_decay ** (depth + 1 - layer_depth(name, depth))
            parameters.setdefault((_param_group(name, parameter), scale), []).append(parameter)
    decays = {"body": config.weight_decay, "head": config.head_weight_decay, "rest": 0.0}
    groups = {
        group: [
            {"params": params, "weight_decay": decay, "scale": scale}
            for (name, scale), params in parameters.items()
            if name == group
        ]
        for group, decay in decays.items()
    }
    optimizers: dict[str, Optimizer] = {}
    if config.optimizer == "muon" and groups["body"]:
        optimizers["muon"] = Muon(groups.pop("body"), lr=config.lr, adjust_lr_fn="match_rms_adamw")
    optimizers["adamw"] = AdamW(
        list(chain.from_iterable(groups.values())),
        lr=config.lr,
        betas=config.betas,
        fused=True,
    )
    return optimizers


def layer_depth(name: str, depth: int) -> int:
    """Return the depth of a parameter's layer.

    0 for patch embedding and positions, 1 for the first block, depth + 1 for all after the last
    block and outside the backbone.
    """
    inputs = (
        "backbone.embedding.", "backbone.positions.", "backbone.time", "backbone.registers",
        "backbone.embed_norm.",
    )  # fmt: skip
    if name.startswith(inputs):
        return 0
    block = re.match(r"backbone\.encoder\.blocks\.(\d+)\.", name)
    return int(block[1]) + 1 if block else depth + 1


def _param_group(name: str, parameter: nn.Parameter) -> str:
    """Return "body" or "head" for matrices, "rest" for norms, biases, tables and scales."""
    if parameter.ndim < 2 or _is_table(name):
        return "rest"
    return "head" if name.startswith("head.") else "body"


def _is_table(name: str) -> bool:
    """Return whether a parameter is indexed or broadcast, not a factor of a matrix product."""
    return ".positions." in name or ".vocabulary." in name or name.endswith(EMBEDDING_TABLES)
