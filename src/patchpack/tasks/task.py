"""What a run knows of its task: a Job, made of the run's config and the index of its data.

It says which images can be trained on and judged with, builds the module, judges it, and makes the
card that its weights need to be used. One file a task; `jobs.py` picks.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn

from patchpack.data.images import BadImage
from patchpack.data.index import Index
from patchpack.data.loader import LoadedPack
from patchpack.data.pipeline import EvalView, evaluation_batches
from patchpack.data.tokenizer import Tokenizer
from patchpack.distributed import World
from patchpack.inference.model_spec import ModelSpec
from patchpack.serialization import to_json
from patchpack.tasks.backbone_module import BackboneModule
from patchpack.train.config import RunConfig, Task


class Judged(NamedTuple):
    """What an evaluation came to."""

    values: dict[str, float]  # none where no image could be read
    bad: list[BadImage]  # images that could not


class TaskRun(Protocol):
    """A task on the data of one run."""

    metric: str  # of an evaluation's values, decides which weights are best; higher is better
    train: Index
    val: Index
    skipped: list[BadImage]  # images that the task has no use for, and why
    messages: list[str]  # what else is to be told of the data

    def build(self) -> BackboneModule:
        """The module, with new weights."""
        ...

    def head_matches(self, spec: dict[str, Any]) -> bool:
        """Whether the head of a model with this card answers the same question."""
        ...

    def evaluate(self, module: nn.Module, world: World, dtype: torch.dtype) -> Judged:
        """Judge a module on the validation split; all processes get the same values."""
        ...

    def spec(self, dtype: str) -> ModelSpec:
        """What the weights need beside them to be used."""
        ...

    def write(self, folder: Path) -> None:
        """Put into the run's folder what a resumed run reads again."""
        ...


def validation_batches(val: Index, config: RunConfig, world: World) -> Iterator[LoadedPack]:
    """This rank's packs of the validation split, as a run is evaluated while it trains."""
    data = config.data
    view = EvalView(
        tokens=config.evaluation_tokens,
        resolution=data.resolution,
        clip_sampling=config.clip_sampling,
    )
    shard = (world.rank, world.size)
    return evaluation_batches(
        val, config.input, view, max_tokens=data.max_tokens, loader=data.loader, shard=shard
    )


def same_fields(kept: Mapping[str, Any], task: Task, names: Sequence[str]) -> bool:
    """Whether a task kept in a card is of the kind of another, and these fields of it are equal."""
    own = to_json(task)
    same = all(kept.get(name) == own[name] for name in names)
    return kept.get("type") == type(task).__name__ and same


def build_spec(
    config: RunConfig,
    dtype: str,
    *,
    classes: tuple[str, ...] = (),
    tokenizer: Tokenizer | None = None,
) -> ModelSpec:
    """The card of a model trained by a config: shown images as it was when it was judged."""
    return ModelSpec(
        model=config.model,
        task=config.task,
        classes=classes,
        tokenizer=tokenizer,
        resolution=config.data.resolution,
        frames=config.data.frames if config.clip_sampling else None,
        eval_tokens=config.evaluation_tokens,
        dtype=dtype,
    )
