"""A run small enough for tests: seconds, on generated stripes."""

from dataclasses import replace
from pathlib import Path

import torch

from patchpack.checkpoint import list_checkpoints, load
from patchpack.config import RunConfig
from patchpack.data.config import DataConfig
from patchpack.data.index import build_index
from patchpack.data.loader import LoaderConfig
from patchpack.data.packing.dropping import BetaDrop
from patchpack.data.records import CLIPS, IMAGES
from patchpack.data.transforms.augment import Augment
from patchpack.distributed import World
from patchpack.model.navit import NaViTConfig
from patchpack.run import resume, start, task_context
from patchpack.tasks.backbone_module import BackboneModule
from patchpack.tasks.registry import prepare, task_of
from patchpack.tasks.task import TaskRun
from patchpack.train.config import TrainConfig
from patchpack.train.loop import Trainer
from patchpack.train.optim import OptimConfig


def tiny(root: Path, out: Path, steps: int = 12, **train: object) -> RunConfig:
    """Every source of randomness is on, so that an inexact resume shows."""
    return RunConfig(
        out=out,
        data=DataConfig(
            root=root,
            max_tokens=200,
            eval_tokens=64,
            dropping=BetaDrop(mean=0.2, max=0.5),
            augment=Augment(flip="horizontal", randaugment_ops=1),
            loader=LoaderConfig(workers=1),
        ),
        model=NaViTConfig(
            dim=16, depth=2, num_heads=2, mlp_dim=32, patch_size=4, drop_path=0.2, dropout=0.1
        ),
        optim=OptimConfig(optimizer="muon", lr=3e-3, warmup=3),
        train=TrainConfig(
            **{"steps": steps, "eval_every": 5, "save_every": 4, "log_every": 1, "ema": 0.9,
               "precision": "float32", **train},
        ),
    )  # fmt: skip


def with_loader(config: RunConfig, **loader: object) -> RunConfig:
    return replace(config, data=replace(config.data, loader=LoaderConfig(**loader)))


def prepared(config: RunConfig, world: World | None = None) -> tuple[BackboneModule, TaskRun]:
    """The module of a config's task with new weights, and the task on its data."""
    task = task_of(config.task)
    index = build_index(
        config.data.root,
        require_labels=task.needs_labels,
        media_type=CLIPS if config.input.tubelets else IMAGES,
    )
    context = task_context(config, world or World())
    task_run = prepare(index, context)
    return task.build(task_run.model_spec(context, "float32")), task_run


def trainer_of(
    module: BackboneModule,
    config: RunConfig,
    world: World | None = None,
    dtype: torch.dtype = torch.float32,
) -> Trainer:
    return Trainer(module, config.train, config.optim, world or World(), dtype)


def final_tensors(out: Path) -> dict:
    """All tensors of the newest `last` checkpoint: weights, averages and optimizer state."""
    newest = list_checkpoints(out / "checkpoints", "last")[0]
    groups = load(newest).tensors
    return {f"{group}/{name}": t for group, named in groups.items() for name, t in named.items()}


def assert_resumes_exactly(config: RunConfig, parent: Path, **replaced: str) -> None:
    """A run that stops half-way and goes on ends with the bits of one that never stopped.

    replaced  texts of the saved config that are changed before it goes on
    """
    whole = replace(config, out=parent / "whole")
    half = replace(config.train, steps=config.train.steps // 2)
    parts = replace(config, out=parent / "parts", train=half)
    start(whole, live=False)
    start(parts, live=False)
    path = parts.out / "config.json"
    text = path.read_text().replace(f'"steps": {half.steps}', f'"steps": {config.train.steps}')
    for before, after in replaced.items():
        text = text.replace(before, after)
    path.write_text(text)
    resume(parts.out, live=False)
    expected, found = final_tensors(whole.out), final_tensors(parts.out)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
