"""Where a run is, and how much of it is left."""

from dataclasses import dataclass

from patchpack.train.config import TrainConfig

LARGEST = 1e30  # of any count: operations are the largest


@dataclass
class Progress:
    """Where a run is: all that a checkpoint holds beside tensors."""

    step: int = 0  # optimizer steps taken
    epoch: int = 0  # of the next pack …
    pack: int = 0  # … and its number in the epoch
    images: int = 0  # trained on, over all ranks
    tokens: int = 0
    flops: float = 0.0  # operations of forward and backward passes
    seconds: float = 0.0  # spent, evaluation included; in checkpoints, up to the last step
    best: float | None = None  # best value of the metric so far
    best_step: int = 0
    evaluation_due: bool = False  # of this step, because it failed when the run stopped

    def __post_init__(self) -> None:
        for name in ("step", "epoch", "pack", "images", "tokens", "flops", "seconds", "best_step"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, not {getattr(self, name)}")
            if getattr(self, name) > LARGEST:
                raise ValueError(f"{name} is {getattr(self, name):.3g}, more than any run counts")
        if self.best_step > self.step or (self.best is None) != (self.best_step == 0):
            raise ValueError(f"best {self.best} at step {self.best_step} is of another run")

    def fraction_done(self, config: TrainConfig) -> float:
        """The share of a run that lies behind; 1 or more at its end."""
        if config.flops is None and config.seconds is None:
            return self.step / config.steps
        by_flops = self.flops / config.flops if config.flops else 0.0
        by_seconds = self.seconds / config.seconds if config.seconds else 0.0
        return max(by_flops, by_seconds)

    def steps(self, config: TrainConfig) -> float:
        """Steps of the whole run: as configured, or extrapolated from the fraction done."""
        if config.flops is None and config.seconds is None:
            return config.steps
        fraction_done = self.fraction_done(config)
        return self.step / fraction_done if fraction_done else float("inf")
