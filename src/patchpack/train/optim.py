"""The optimizers and their learning rate.

AdamW, with weight decay apart for the head and the body, and none on norms, biases, positions,
registers and scales. The matrices of the body can go to Muon instead (Jordan et al., 2024): it
steps by the orthogonalised momentum, scaled to the size of AdamW's steps (Liu et al., arXiv
2502.16982, §2.2), so that one learning rate serves both.

The paper's schedule falls with the reciprocal square root of the step and ends in a linear
cool-down, so that a run can be cut anywhere and cooled (arXiv 2106.04560, §3.3).
"""

import re
from dataclasses import dataclass
from math import cos, pi
from typing import Literal

from torch import nn
from torch.optim import AdamW, Muon, Optimizer

EMBEDDING_TABLES = ("registers", "class_tokens", "backbone.time")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """What steps the weights, and the schedule; steps count optimizer steps."""

    optimizer: Literal["adamw", "muon"] = "adamw"  # steps the body's matrices; AdamW all the rest
    lr: float = 1e-3  # highest learning rate
    schedule: Literal["rsqrt", "cosine"] = "rsqrt"
    warmup: int = 100  # steps of linear warm-up
    cooldown: float = 0.2  # share of the run spent in rsqrt's linear cool-down
    timescale: int = 1000  # steps after which rsqrt has fallen by √2
    weight_decay: float = 0.03  # of the body's matrices
    head_weight_decay: float = 0.03  # of the head's (the paper: 100 times the body's)
    layer_decay: float = 1.0  # of the rate from each block to the one before, in fine-tuning
    betas: tuple[float, float] = (0.9, 0.999)  # of AdamW
    grad_clip_norm: float = 1.0  # largest norm of the gradient; 0 for none

    def __post_init__(self) -> None:
        if self.lr <= 0 or self.warmup < 0 or self.timescale < 1 or self.grad_clip_norm < 0:
            raise ValueError(
                "lr and timescale must be positive; warmup and grad_clip_norm not negative"
            )
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay must lie in (0, 1], not {self.layer_decay}")
        if not 0 <= self.cooldown <= 1:
            raise ValueError(f"cooldown must lie in [0, 1], not {self.cooldown}")


def learning_rate(config: OptimConfig, step: int, steps: float) -> float:
    """The rate of the optimizer step numbered `step` from 0, in a run of `steps` (inf: unknown)."""
    warm = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    after = max(0, step + 1 - config.warmup)
    if config.schedule == "cosine":
        progress = min(1.0, after / max(1, steps - config.warmup))
        return config.lr * warm * 0.5 * (1 + cos(pi * progress))
    decay = (1 + after / config.timescale) ** -0.5
    left = 1 - step / steps
    cool = min(1.0, left / config.cooldown) if config.cooldown else 1.0
    return config.lr * warm * decay * cool


def build_optimizers(module: nn.Module, config: OptimConfig) -> dict[str, Optimizer]:
    """By name: AdamW over the body's matrices, the head's, and the rest; or Muon for the first.

    Every group has a `scale` that its learning rate is multiplied by.
    """
    parts: dict[tuple[str, float], list[nn.Parameter]] = {}
    depth = len(module.backbone.encoder.blocks)  # pyrefly: ignore
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            scale = config.layer_decay ** (depth + 1 - layer_depth(name, depth))
            parts.setdefault((_param_group(name, parameter), scale), []).append(parameter)
    decays = {"body": config.weight_decay, "head": config.head_weight_decay, "rest": 0.0}
    groups = {
        part: [
            {"params": params, "weight_decay": decay, "scale": scale}
            for (name, scale), params in parts.items()
            if name == part
        ]
        for part, decay in decays.items()
    }
    optimizers: dict[str, Optimizer] = {}
    if config.optimizer == "muon" and groups["body"]:
        optimizers["muon"] = Muon(groups.pop("body"), lr=config.lr, adjust_lr_fn="match_rms_adamw")
    optimizers["adamw"] = AdamW(
        [group for many in groups.values() for group in many],
        lr=config.lr,
        betas=config.betas,
        fused=True,
    )
    return optimizers


def layer_depth(name: str, depth: int) -> int:
    """How far from the pixels a parameter lies: 0 for what embeds patches, 1 for the first block,
    depth + 1 for what comes after the last, and for all that is not of the trunk."""
    inputs = "backbone.embedding.", "backbone.positions.", "backbone.time", "backbone.registers"
    if name.startswith(inputs):
        return 0
    block = re.match(r"backbone\.encoder\.blocks\.(\d+)\.", name)
    return int(block[1]) + 1 if block else depth + 1


def _param_group(name: str, parameter: nn.Parameter) -> str:
    """Matrices of the body and of the head, and the rest: norms, biases, tables, scales."""
    if parameter.ndim < 2 or _is_table(name):
        return "rest"
    return "head" if name.startswith("head.") else "body"


def _is_table(name: str) -> bool:
    """Whether a parameter is looked up or broadcast rather than multiplied with."""
    return ".positions." in name or ".vocabulary." in name or name.endswith(EMBEDDING_TABLES)
