"""The training loop, one for every task.

    packs → Σ loss → backward → ÷ global count → clip → optimizer → log → evaluate → save

The task module computes `loss(batch) -> (sum, count)`. Gradients of the sums are added over packs
and ranks and divided once, by the count over all of them (images, pixels, objects), so N processes
take the step that a single process would take with all the packs.

Every random number of a step follows from (seed, step, rank), and every pack from (seed, epoch,
step): the state of a run is its weights, its optimizer and its progress.
"""

import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from patchpack.batch import PackedBatch
from patchpack.checkpoint import (
    Checkpoint,
    flatten_optimizer,
    save,
)
from patchpack.data.bad_images import BadImages
from patchpack.data.loader import LoadedPack
from patchpack.distributed import (
    World,
    all_gather_objects,
    all_reduce_floats,
    all_reduce_tensor,
    parallelize,
)
from patchpack.losses import Loss
from patchpack.metrics.metric import Metric
from patchpack.train.config import TrainConfig
from patchpack.train.log import RunLog
from patchpack.train.meter import Meter, StepTotals
from patchpack.train.optim import OptimConfig, build_optimizers, learning_rate
from patchpack.train.precision import autocast
from patchpack.train.progress import Progress
from patchpack.train.restore import restore_training
from patchpack.train.stopping import Stopped, TrainingError, saved_on_loss


class Objective(nn.Module):
    """A task module whose forward is its loss, as DistributedDataParallel needs it."""

    def __init__(self, task: nn.Module) -> None:
        super().__init__()
        self.task = task

    def forward(self, batch: PackedBatch) -> Loss:
        return self.task.loss(batch)  # pyrefly: ignore


class Trainer:
    """The weights, the optimizers and the progress of one run."""

    def __init__(
        self,
        task: nn.Module,
        train: TrainConfig,
        optim: OptimConfig,
        world: World,
        dtype: torch.dtype,
    ) -> None:
        self.task, self.world, self.dtype = task.to(world.device), world, dtype
        self.train_config, self.optim = train, optim
        self.flops: Callable[[PackedBatch], int] = task.training_flops  # pyrefly: ignore
        self.optimizers = build_optimizers(task, optim)
        self.average = deepcopy(self.task) if train.ema else None
        self.progress = Progress()
        self.grad_norm = torch.zeros(())
        # On GPUs the host runs ahead of the device: it reads a step's numbers one step later.
        self.lag = 1 if world.device.type == "cuda" else 0
        self._unchecked: deque[Step] = deque()
        objective = Objective(task)
        self.objective = parallelize(
            objective,
            task,
            world,
            activation_checkpointing=train.activation_checkpointing,
            compile=train.compile,
        )

    @property
    def eval_module(self) -> nn.Module:
        """The module to evaluate and to save as `best`: the averaged weights, if there are any."""
        return self.average or self.task

    def step(self, loaded: list[LoadedPack], stop: bool, seconds: float = 0.0) -> StepTotals:
        """One optimizer step over these packs; raises TrainingError before a bad update.

        stop     whether this process received a stop signal
        seconds  since the last step; all ranks use the mean
        """
        progress, train = self.progress, self.train_config
        self.task.train()
        torch.manual_seed((train.seed * 1_000_003 + progress.step) * 4096 + self.world.rank)
        self.learning_rate = learning_rate(self.optim, progress.step, progress.steps(train))
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate * group["scale"]
            optimizer.zero_grad()
        batches = [self._to_device(pack.batch) for pack in loaded]
        losses = [self._backward(b, last=i == len(batches) - 1) for i, b in enumerate(batches)]
        loss = all_reduce_tensor(torch.stack([loss.sum.detach() for loss in losses]).sum())
        local = {
            "count": sum(loss.count for loss in losses),
            "images": sum(batch.num_images for batch in batches),
            "tokens": sum(batch.num_tokens for batch in batches),
            "flops": float(sum(self.flops(batch) for batch in batches)),
            "stop": float(stop),
            "unreadable": sum(len(pack.unreadable) for pack in loaded),
            "seconds": seconds,
        }
        summed = zip(local, all_reduce_floats(list(local.values()), self.world), strict=True)
        totals = StepTotals(loss=loss.double(), **dict(summed))
        if totals.count:
            self._update(loss, totals.count, batches)
        self._advance(loaded[-1], totals)
        return totals

    def _to_device(self, batch: PackedBatch) -> PackedBatch:
        """Copy a batch to the device; from pinned memory, so that the host does not wait."""
        device = self.world.device
        return (batch.pin_memory() if device.type == "cuda" else batch).to(device)

    def _backward(self, batch: PackedBatch, last: bool) -> Loss:
        waits = isinstance(self.objective, nn.parallel.DistributedDataParallel) and not last
        with self.objective.no_sync() if waits else nullcontext():  # pyrefly: ignore
            with autocast(self.world.device, self.dtype):
                loss: Loss = self.objective(batch)
            loss.sum.backward()
        return loss

    def _update(self, loss: Tensor, count: float, batches: list[PackedBatch]) -> None:
        """Divide by the global count, clip and step; undoes the mean that DDP takes over ranks."""
        grads = [p.grad for p in self.task.parameters() if p.grad is not None]
        scale = self.world.size / count
        self.grad_norm = get_total_norm(grads) * scale
        finite = self.grad_norm.isfinite() & loss.isfinite()
        self._unchecked.append(
            Step(self.progress.step + 1, DeferredScalar(finite), DeferredScalar(loss), batches)
        )
        self.check(self.lag)
        clip = self.optim.grad_clip_norm or torch.inf
        torch._foreach_mul_(grads, scale * (clip / (self.grad_norm + 1e-6)).clamp(max=1))
        if self.lag:  # so that weights stay finite until the host reads it
            for grad in grads:
                grad.masked_fill_(~finite, 0)
        for optimizer in self.optimizers.values():
            optimizer.step()
        if self.average:
            self._update_ema(self.average)

    def _update_ema(self, average: nn.Module) -> None:
        """Update the exponential moving average, faster in the first steps."""
        n = self.progress.step
        share = 1 - min(self.train_config.ema, n / (n + 9))
        with torch.no_grad():
            torch._foreach_lerp_(tuple(average.parameters()), tuple(self.task.parameters()), share)

    def values(self) -> dict[str, float]:
        """What the log holds of a step beside loss and rates."""
        progress = self.progress
        return {
            "lr": self.learning_rate,
            "grad_norm": float(self.grad_norm),
            "epoch": progress.epoch,
            "images": progress.images,
            "tokens": progress.tokens,
            "flops": progress.flops,
        }

    def check(self, lag: int = 0) -> None:
        """Raise TrainingError if a loss or gradient was not finite; the last `lag` steps are not
        read."""
        while len(self._unchecked) > lag:
            step = self._unchecked.popleft()
            if not step.finite.read():
                raise TrainingError(self._find_nonfinite_images(step))

    def _advance(self, last: LoadedPack, totals: StepTotals) -> None:
        progress = self.progress
        progress.step += 1
        progress.epoch, progress.pack = last.epoch, last.step + 1
        progress.images += int(totals.images)
        progress.tokens += int(totals.tokens)
        progress.flops += totals.flops
        progress.seconds += totals.seconds / self.world.size

    def _find_nonfinite_images(self, step: "Step") -> str:
        """The error message of a step: the images of this rank whose loss is not finite."""
        self.task.eval()
        nonfinite, total = [], 0
        with torch.no_grad(), autocast(self.world.device, self.dtype):
            for batch in step.batches:
                for i, key in enumerate(batch.keys):
                    single = self.task.loss(batch.select([i]))  # pyrefly: ignore
                    total += 1
                    if not torch.isfinite(single.sum):
                        nonfinite.append(key)
        where = f"step {step.number}: the loss is {step.loss.read()}"
        if len(nonfinite) == total:
            return f"{where} for all {total} images: the weights have diverged; lower optim.lr"
        if nonfinite:
            return f"{where}; images whose own loss is not finite: {', '.join(nonfinite[:10])}"
        keys = ", ".join(key for batch in step.batches for key in batch.keys[:5])
        return (
            f"{where} or its gradient is not finite, for no single image; "
            f"images of the step: {keys}, …"
        )

    def save(self, parent: Path, name: str, extra: dict, keep: int) -> None:
        """Save a checkpoint; `best` holds the weights to use, `last` all that resume needs."""
        tensors: dict[str, dict[str, Tensor]] = {"model": self.eval_module.state_dict()}
        if name == "last":
            tensors["model"] = self.task.state_dict()
            for kind, optimizer in self.optimizers.items():
                tensors[kind] = flatten_optimizer(optimizer, self.task.named_parameters())
            if self.average:
                tensors["average"] = self.average.state_dict()
        state = {"progress": asdict(self.progress), **extra}
        save(parent, name, self.progress.step, tensors=tensors, state=state, keep=keep)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Restore a `last` checkpoint exactly; raise CheckpointError where it is not this run's."""
        self.progress = restore_training(checkpoint, self.task, self.average, self.optimizers)


class DeferredScalar:
    """A scalar on a device that the host reads later.

    Reading waits for the operations queued before it, not for those queued since.
    """

    def __init__(self, value: Float[Tensor, ""]) -> None:
        self._copy = value.to("cpu", non_blocking=True)
        self._event = torch.cuda.Event() if value.is_cuda else None
        if self._event:
            self._event.record()

    def read(self) -> float:
        if self._event:
            self._event.synchronize()
        return self._copy.item()


class Step(NamedTuple):
    """A step that the host has queued, and whose values it has not read."""

    number: int
    finite: DeferredScalar
    loss: DeferredScalar
    batches: list[PackedBatch]


class Validation(NamedTuple):
    """How weights are evaluated in training, and which metric decides which are best."""

    evaluate: Callable[[nn.Module], dict[str, float]]
    """Called by every process with the module; every process gets the same metrics."""
    metric: Metric


class CheckpointWriter(NamedTuple):
    """Where checkpoints go, and the JSON that all of them hold."""

    run: Path
    checkpoints: Path
    extra: dict[str, Any]

    def save(self, trainer: Trainer, name: str, unreadable: dict[str, str]) -> None:
        if trainer.world.is_main:
            state = {**self.extra, "bad_images": unreadable}
            trainer.save(self.checkpoints, name, state, keep=2 if name == "last" else 1)

    def save_last_step(self, trainer: Trainer, unreadable: dict[str, str]) -> str:
        """Save the last completed step of a run that cannot go on; return how to continue."""
        trainer.check()
        if not (step := trainer.progress.step):
            return "no step was completed"
        self.save(trainer, "last", unreadable)
        return f"step {step} is saved; continue with patchpack train --resume {self.run}"


def fit(
    trainer: Trainer,
    packs: Iterator[LoadedPack],
    log: RunLog,
    unreadable: BadImages,
    validation: Validation,
    writer: CheckpointWriter,
    *,
    pack_tokens: int,
    received: Sequence[int],
) -> None:
    """Train to the configured number of steps or budget, with evaluations and checkpoints.

    unreadable   images that could not be read so far
    pack_tokens  token slots per pack, for the fill in the log
    received     stop signals that this process has received, as they come

    Raises Stopped after saving on SIGINT, SIGTERM or SIGHUP; TrainingError when the run cannot go
    on, after saving the last completed step if data cannot be read or another process has ended;
    BadDataset when too many images cannot be read.
    """
    train, progress, world = trainer.train_config, trainer.progress, trainer.world
    slots = pack_tokens * train.grad_accumulation * world.size
    meter = Meter()

    def save_last_step() -> str:
        return writer.save_last_step(trainer, unreadable.reasons)

    def evaluate() -> None:
        metrics = validation.evaluate(trainer.eval_module)
        log.evaluation(progress.step, metrics)
        progress.evaluation_due = False
        value = metrics[validation.metric.name]
        if validation.metric.improves(value, progress.best):
            progress.best, progress.best_step = value, progress.step
            writer.save(trainer, "best", unreadable.reasons)

    with saved_on_loss(save_last_step):
        if progress.evaluation_due:  # it failed when the run stopped
            evaluate()
            writer.save(trainer, "last", unreadable.reasons)
        while progress.fraction_done(train) < 1:
            with meter.waiting():
                loaded = [next(packs) for _ in range(train.grad_accumulation)]
            totals = trainer.step(loaded, stop=bool(received), seconds=meter.lap())
            meter.add(totals, slots)
            step, done = progress.step, progress.fraction_done(train)
            if totals.unreadable:
                errors = [error for pack in loaded for error in pack.unreadable]
                log.log_unreadable(step, unreadable.add(all_gather_objects(errors, world)))
            logs, progress.evaluation_due, saves = (
                step % every == 0 or done >= 1
                for every in (train.log_every, train.eval_every, train.save_every)
            )
            if logs or progress.evaluation_due or saves or totals.stop:
                trainer.check()
            if logs:
                log.train(step, done, trainer.values() | meter.read())
            if progress.evaluation_due:
                with meter.pausing():
                    evaluate()
            if saves or totals.stop:
                with meter.pausing():
                    writer.save(trainer, "last", unreadable.reasons)
            if totals.stop and done < 1:
                number = received[0] if received else signal.SIGTERM
                raise Stopped(number, step, writer.run)
    progress.seconds += meter.lap()  # the last step's; ranks need no longer agree
