"""Which process this is, and sums over all of them.

A model never knows that it is distributed: `prepare` is applied from outside, in the order that
works: activation checkpointing, compilation of each block, then the wrapper that reduces gradients.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class World:
    """This process among those of a run."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_main(self) -> bool:
        return self.rank == 0


@contextmanager
def init_distributed() -> Iterator[World]:
    """The world that torchrun describes in the environment, or a world of one."""
    local, size = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if size == 1:
        yield World(device=device)
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    try:
        yield World(rank=dist.get_rank(), size=size, device=device)
    finally:
        dist.destroy_process_group()


def all_reduce_floats(values: Sequence[float], world: World) -> list[float]:
    """Element-wise sums over all processes, in float64, between hosts: no device is waited for."""
    if world.size == 1:
        return list(values)
    tensor = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(tensor)
    return tensor.tolist()


def all_reduce_tensor(value: Float[Tensor, "..."], op: str = "sum") -> Float[Tensor, "..."]:
    """The sum, or the "max", over all processes, in place and on their devices: no host waits."""
    if dist.is_initialized():
        dist.all_reduce(value, {"sum": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX}[op])
    return value


def all_gather_rows(x: Float[Tensor, "row dim"]) -> tuple[Float[Tensor, "all dim"], slice]:
    """The rows of all processes, in order of rank, and which of them are this process's own.

    Processes may hold different numbers of rows, also none. No gradient flows through this.
    """
    if not dist.is_initialized():
        return x, slice(0, len(x))
    counts = [torch.zeros(1, dtype=torch.int64) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, torch.tensor([len(x)]))  # between hosts
    sizes = [int(count) for count in counts]
    padded = x.new_zeros(max(sizes), x.shape[1])
    padded[: len(x)] = x
    gathered = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(gathered, padded)
    start = sum(sizes[: dist.get_rank()])
    rows = torch.cat([part[:size] for part, size in zip(gathered, sizes, strict=True)])
    return rows, slice(start, start + len(x))


def all_gather_objects(items: Sequence[Item], world: World) -> list[Item]:
    """The items of all processes, in order of rank; every process gets the same."""
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
    checkpoint_blocks: bool,
    compile_blocks: bool,
) -> nn.Module:
    """Ready a task for training; `objective` is the module around it that gives its loss."""
    encoder = task.backbone.encoder  # pyrefly: ignore
    encoder.checkpoint_blocks = checkpoint_blocks
    if compile_blocks:
        encoder.compile_blocks()
    if world.size == 1:
        return objective
    return DistributedDataParallel(objective, gradient_as_bucket_view=True)
