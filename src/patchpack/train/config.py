"""The configuration of the training loop."""

from dataclasses import dataclass
from typing import Literal

MAX_SEED = 2**31 - 1  # so that the seed of every step and rank is below 2**63
MAX_STEPS = 10**12


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The training loop: budget, precision, intervals."""

    steps: int = 1000  # optimizer steps, unless --train.flops or --train.seconds is given
    flops: float | None = None  # operations after which the run ends; None: no such limit
    seconds: float | None = None
    """Seconds after which the run ends, evaluation included; None: no limit."""
    grad_accumulation: int = 1  # packs per optimizer step on each device
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Dtype of matrix products; auto: bfloat16 where the hardware multiplies it fast."""
    freeze_backbone: bool = False
    """Train the head alone on the backbone of --init (linear probe, LiT)."""
    ema: float = 0.0  # decay per step of the averaged weights that are evaluated and kept; 0: none
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    compile: bool = False  # compile each transformer block with torch.compile
    eval_every: int = 200  # steps between evaluations on the validation split
    save_every: int = 200  # steps between checkpoints
    log_every: int = 10  # steps between lines of the log
    seed: int = 0  # random seed of weights, order, sizes, augmentation, dropping; 0 to 2147483647

    def __post_init__(self) -> None:
        for name in ("steps", "grad_accumulation", "eval_every", "save_every", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
            if getattr(self, name) > MAX_STEPS:
                raise ValueError(f"{name} must be at most {MAX_STEPS}, not {getattr(self, name)}")
        if not 0 <= self.seed <= MAX_SEED:
            raise ValueError(f"seed must lie in [0, {MAX_SEED}], not {self.seed}")
        for name in ("flops", "seconds"):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise ValueError(f"{name} must be more than 0, not {value}")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema must lie in [0, 1), not {self.ema}")
