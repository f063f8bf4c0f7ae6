"""From a RunConfig to a finished run: where index, plan, loader, model, evaluator and loop meet.

run/
  config.json                 the resolved configuration; `--resume` starts from it
  log.jsonl                   one line per logged step, evaluation and unreadable image
  curves.png                  loss, accuracy and speed over the run
  checkpoints/last-00000500/  weights, optimizer and progress: what resume needs
  checkpoints/best-00000450/  the weights to use: what predict, embed and eval load
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from patchpack.batch import PackedBatch
from patchpack.checkpoint import candidates, load_newest, write_text_atomic
from patchpack.data.bad_images import BadImages
from patchpack.data.images import BadImage
from patchpack.data.index import Index, build_index
from patchpack.data.layouts import EXPECTED, BadDataset
from patchpack.distributed import World, gather_over_ranks, join_world, sum_over_ranks
from patchpack.evaluate.classification import classify
from patchpack.heads.classification import Classifier
from patchpack.packs import evaluation_packs, training_packs
from patchpack.serial import from_json, to_json
from patchpack.serve.predictor import ModelCard
from patchpack.train.config import RunConfig
from patchpack.train.initial import begin_with
from patchpack.train.log import RunLog, read_log
from patchpack.train.loop import Trainer, TrainingError, fit
from patchpack.train.precision import autocast, choose_dtype
from patchpack.train.progress import Progress

CHECKPOINTS = "checkpoints"
METRIC = "top1"  # decides which weights are best


def start(config: RunConfig, *, live: bool = True) -> Progress:
    """Train as configured, in a new folder; raises TrainingError where a run is in the way."""
    if config.data.root is None:
        raise TrainingError("there is no data: give a folder of images or a manifest (data.root)")
    # Absolute, so that the run can be resumed and judged from any folder.
    init = config.init.resolve() if config.init else None
    config = replace(config, init=init, data=replace(config.data, root=config.data.root.resolve()))
    if candidates(config.out / CHECKPOINTS, "last"):
        raise TrainingError(
            f"{config.out} already holds a run: continue it with --resume {config.out}, "
            "or choose another folder with --out"
        )
    return _train(config, resumed=False, live=live)


def resume(folder: Path, *, live: bool = True) -> Progress:
    """Continue a run from its newest good checkpoint, exactly as if it had never stopped."""
    return _train(replace(load_config(folder), out=folder), resumed=True, live=live)


def load_config(folder: Path) -> RunConfig:
    """The configuration saved with a run."""
    path = folder / "config.json"
    try:
        return from_json(RunConfig, json.loads(path.read_text()))
    except (FileNotFoundError, NotADirectoryError):
        raise TrainingError(f"{folder} is not a run: it holds no config.json") from None
    except (json.JSONDecodeError, RecursionError) as error:
        raise TrainingError(f"{path} is not JSON: {error}") from error


class Splits(NamedTuple):
    """The images of a run."""

    classes: tuple[str, ...]
    train: Index
    val: Index


def _train(config: RunConfig, *, resumed: bool, live: bool) -> Progress:
    data = config.data
    assert data.root is not None
    index = build_index(data.root, max_bad_fraction=data.max_bad_fraction)
    splits = Splits(index.classes, index.split(data.train_split), index.split(data.val_split))
    if not splits.classes:
        raise TrainingError(f"{data.root} has no labels to learn: {EXPECTED}")
    if len(splits.classes) == 1:
        raise TrainingError(
            f"{data.root} has one class only, {splits.classes[0]!r}: nothing to tell apart"
        )
    splits, unlabelled = _labelled(splits)
    with join_world() as world:
        torch.manual_seed(config.train.seed)
        task = Classifier(config.model, len(splits.classes), config.task)
        if config.init and not resumed:
            begin_with(task, config.init, splits.classes)
        dtype = choose_dtype(config.train.precision, world.device)
        trainer = Trainer(task, config, world, dtype)
        bad_before = _restore(trainer, config.out, splits) if resumed else {}
        if world.is_main and not resumed:
            _write_config(config)
        log = RunLog(
            config.out if world.is_main else None,
            resume_step=trainer.progress.step,
            resume_done=trainer.progress.done(config.train),
            live=live and world.is_main,
        )
        try:
            if not resumed:
                log.left_out(0, [BadImage(key, reason) for key, reason in index.bad])
            if unlabelled:
                log.message(f"left out: {unlabelled:,} images for training without a label")
            _fit(trainer, splits, bad_before, log, dtype)
        finally:
            log.close()
            if world.is_main:
                _draw(config.out)
        return trainer.progress


def _write_config(config: RunConfig) -> None:
    """Begin the run's folder, once all that may be wrong with the data is known to be right."""
    try:
        config.out.mkdir(parents=True, exist_ok=True)
        write_text_atomic(config.out / "config.json", json.dumps(to_json(config), indent=2) + "\n")
    except OSError as error:
        raise TrainingError(f"cannot write to {config.out}: {error.strerror}") from error


def _labelled(splits: Splits) -> tuple[Splits, int]:
    """Splits without their unlabelled images, and how many training loses; raises BadDataset."""
    train, val = (
        split.select(np.flatnonzero(split.labels >= 0).tolist())
        for split in (splits.train, splits.val)
    )
    for name, split in (("training", train), ("validation", val)):
        if not len(split):
            raise BadDataset(f"no image of the {name} split of {split.root} has a label")
    return Splits(splits.classes, train, val), len(splits.train) - len(train)


def _fit(
    trainer: Trainer, splits: Splits, bad_before: dict[str, str], log: RunLog, dtype: torch.dtype
) -> None:
    config, world = trainer.config, trainer.world
    bad, bad_val = (
        BadImages(split.root, split.label_of, config.data.max_bad_fraction, reasons)
        for split, reasons in ((splits.train, bad_before), (splits.val, {}))
    )

    def evaluate(module: nn.Module) -> dict[str, float]:
        values, errors = _evaluate(module, splits.val, config, world, dtype)
        log.left_out(trainer.progress.step, bad_val.add(errors))
        if not values:
            raise TrainingError("no image of the validation split could be read")
        return values

    card = ModelCard(
        model=config.model,
        task=config.task,
        classes=splits.classes,
        resolution=config.data.resolution,
        eval_tokens=config.data.evaluation_tokens(config.model.patch_size),
        dtype=str(dtype).removeprefix("torch."),
    )
    fit(
        trainer,
        training_packs(splits.train, config, world, trainer.progress),
        log,
        bad,
        evaluate=evaluate,
        metric=METRIC,
        checkpoints=config.out / CHECKPOINTS,
        extra={
            "card": to_json(card),
            "images": fingerprint(splits.train),
            "world_size": world.size,
        },
    )


def _evaluate(
    module: nn.Module, val: Index, config: RunConfig, world: World, dtype: torch.dtype
) -> tuple[dict[str, float], list[BadImage]]:
    """Accuracy on the validation split, none where nothing can be read, and what cannot be."""
    module.eval()
    data = config.data
    errors: list[BadImage] = []

    @torch.inference_mode()
    def predict(batch: PackedBatch) -> torch.Tensor:
        with autocast(world.device, dtype):
            return module(batch.to(world.device))

    packs = evaluation_packs(
        val,
        config.model,
        resolution=data.resolution,
        tokens=data.evaluation_tokens(config.model.patch_size),
        max_tokens=data.max_tokens,
        world=world,
        loader=data.loader,
    )

    def batches() -> Iterator[PackedBatch]:
        for pack in packs:
            errors.extend(pack.bad)
            yield pack.batch

    mine = classify(predict, batches(), len(val.classes))
    sums = sum_over_ranks([mine.right, mine.in_top5, mine.nll, mine.images], world)
    images = sums.pop()
    means = [value / images for value in sums] if images else []
    values = dict(zip(("top1", "top5", "nll"), means, strict=False))
    return values, gather_over_ranks(errors, world)


def _restore(trainer: Trainer, folder: Path, splits: Splits) -> dict[str, str]:
    """Put a run where its newest good checkpoint was; returns the images it could not read."""
    checkpoint = load_newest(folder / CHECKPOINTS, "last")
    if checkpoint.state.get("images") != fingerprint(splits.train):
        raise TrainingError(
            f"the training images are not those that {folder} began with (files were added, "
            "removed or changed), so it cannot continue exactly; restore them, or start a new run"
        )
    if (processes := checkpoint.state["world_size"]) != trainer.world.size:
        raise TrainingError(
            f"{folder} was trained by {processes} processes, not {trainer.world.size}, which "
            f"would plan other packs; continue it with torchrun --nproc-per-node {processes} "
            f"-m patchpack train --resume {folder}"
        )
    trainer.restore(checkpoint)
    return checkpoint.state["bad_images"]


def fingerprint(index: Index) -> str:
    """Tells whether two indexes hold the same images, sizes and labels."""
    digest = hashlib.sha256("\0".join(index.keys).encode("utf-8", "surrogatepass"))
    for array in (index.heights, index.widths, index.labels):
        digest.update(array.astype("<i8").tobytes())
    return digest.hexdigest()


def _draw(folder: Path) -> None:
    try:
        from patchpack.evaluate.figures import draw_curves
    except ImportError:  # the report extra is not installed
        return
    train, evals = (read_log(folder / "log.jsonl", kind) for kind in ("train", "eval"))
    if train:
        with suppress(OSError):  # a full disk has been reported by what mattered more
            (folder / "curves.png").write_bytes(draw_curves(train, evals))
