"""The rank and device of this process, and reductions over all processes.

Models have no distributed code: `parallelize` wraps them, in this order: activation checkpointing,
compilation of each block, DistributedDataParallel.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

Item = TypeVar("Item")
WATCH_SECONDS = 0.5  # between looks at whether torchrun runs


@dataclass(frozen=True, kw_only=True)
class World:
    """Rank, world size and device of this process."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_main(self) -> bool:
        return self.rank == 0


@contextmanager
def init_distributed() -> Iterator[World]:
    """Join the process group that torchrun describes in the environment; else a world of size 1."""
    local_rank, size = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", local_rank) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if size == 1:
        yield World(device=device)
        return
    if "TORCHELASTIC_RUN_ID" in os.environ:
        _stop_with_torchrun(os.getppid())
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    try:
        yield World(rank=dist.get_rank(), size=size, device=device)
    finally:
        dist.destroy_process_group()


def _stop_with_torchrun(launcher: int) -> None:
    """Send this process SIGTERM once torchrun, its parent, has ended: it would train on unwatched.

    Every process of the run does so, so that they save a checkpoint together.
    """

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(WATCH_SECONDS)
        with suppress(OSError):
            print("patchpack: torchrun has ended, so this run stops", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="patchpack-torchrun", daemon=True).start()


def is_lost_process(error: RuntimeError) -> bool:
    """Return whether a collective operation failed because another process has ended."""
    return isinstance(error, dist.DistError) or "/gloo/" in str(error)


def all_reduce_floats(values: Sequence[float], world: World) -> list[float]:
    """Return element-wise sums over all processes, in float64, on the CPU: no GPU sync."""
    if world.size == 1:
        return list(values)
    tensor = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(tensor)
    return tensor.tolist()


def all_reduce_tensor(value: Float[Tensor, "..."], op: str = "sum") -> Float[Tensor, "..."]:
    """Reduce a tensor over all processes, in place and on its device: no host sync.

    op  "sum" or "max"
    """
    if dist.is_initialized():
        dist.all_reduce(value, {"sum": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX}[op])
    return value


def all_gather_rows(x: Float[Tensor, "row dim"]) -> tuple[Float[Tensor, "all dim"], slice]:
    """Return the rows of all processes in rank order, and the slice of this process's rows.

    Numbers of rows may differ between processes and may be 0. No gradient flows through this.
    """
    if not dist.is_initialized():
        return x, slice(0, len(x))
    counts = [torch.zeros(1, dtype=torch.int64) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, torch.tensor([len(x)]))  # on the CPU
    sizes = [int(count) for count in counts]
    padded = x.new_zeros(max(sizes), x.shape[1])
    padded[: len(x)] = x
    gathered = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(gathered, padded)
    start = sum(sizes[: dist.get_rank()])
    rows = torch.cat([part[:size] for part, size in zip(gathered, sizes, strict=True)])
    return rows, slice(start, start + len(x))


def all_gather_objects(items: Sequence[Item], world: World) -> list[Item]:
    """Return the items of all processes in rank order; the same list on every process."""
    if world.size == 1:
        return list(items)
    gathered: list[list[Item]] = [[] for _ in range(world.size)]
    dist.all_gather_object(gathered, list(items))
    return [item for items in gathered for item in items]


def parallelize(
    objective: nn.Module,
    task: nn.Module,
    world: World,
    *,
    activation_checkpointing: bool,
    compile: bool,
) -> nn.Module:
    """Prepare a task for training; `objective` is the module around it that returns its loss."""
    encoder = task.backbone.encoder  # pyrefly: ignore
    encoder.activation_checkpointing = activation_checkpointing
    if compile:
        encoder.compile_blocks()
    if world.size == 1:
        return objective
    return DistributedDataParallel(objective, gradient_as_bucket_view=True)
