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
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from patchpack.batch import PackedBatch
from patchpack.checkpoint import candidates, load_newest, write_text_atomic
from patchpack.data.bad_images import BadImages
from patchpack.data.dropping import NoDrop
from patchpack.data.images import BadImage
from patchpack.data.index import Index, build_index
from patchpack.data.layouts import EXPECTED, BadDataset
from patchpack.data.loader import Loaded, LoaderConfig, Treatment, load_epoch, load_forever
from patchpack.data.plan import Plan, make_plan
from patchpack.data.resolution import Resolution
from patchpack.distributed import World, gather_over_ranks, join_world, sum_over_ranks
from patchpack.evaluate.classification import Counts, classify
from patchpack.heads.classification import Classifier
from patchpack.model.navit import NaViTConfig, forward_flops
from patchpack.serial import from_json, to_json
from patchpack.serve.predictor import PACK_TOKENS, ModelCard, Predictor
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
    config = replace(config, data=replace(config.data, root=config.data.root.resolve()))
    if candidates(config.out / CHECKPOINTS, "last"):
        raise TrainingError(
            f"{config.out} already holds a run: continue it with --resume {config.out}, "
            "or choose another folder with --out"
        )
    try:
        config.out.mkdir(parents=True, exist_ok=True)
        write_text_atomic(config.out / "config.json", json.dumps(to_json(config), indent=2) + "\n")
    except OSError as error:
        raise TrainingError(f"cannot write to {config.out}: {error.strerror}") from error
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


def training_packs(
    index: Index, config: RunConfig, world: World, progress: Progress
) -> Iterator[Loaded]:
    """This rank's packs, from where the run stands on."""
    data = config.data

    def plan_epoch(epoch: int) -> Plan:
        return make_plan(
            index.heights,
            index.widths,
            patch_size=config.model.patch_size,
            max_tokens=data.max_tokens,
            resolution=data.resolution,
            dropping=data.dropping,
            seed=config.train.seed,
            epoch=epoch,
            world_size=world.size,
            window=data.window,
            max_side=config.model.positions.max_side,
            fill=data.fill,
        )

    packs = load_forever(
        index,
        plan_epoch,
        Treatment(patch_size=config.model.patch_size, augment=data.augment, seed=config.train.seed),
        data.loader,
        start=(progress.epoch, progress.pack),
        rank=world.rank,
    )
    if world.device.type != "cuda":
        return packs
    return (replace(pack, batch=pack.batch.pin_memory()) for pack in packs)


def evaluation_packs(
    index: Index,
    model: NaViTConfig,
    *,
    resolution: Resolution,
    tokens: int,
    max_tokens: int,
    world: World | None = None,
    loader: LoaderConfig | None = None,
) -> Iterator[Loaded]:
    """Every image once, at most `tokens` of it, nothing dropped or trimmed."""
    world = world or World()
    plan = make_plan(
        index.heights,
        index.widths,
        patch_size=model.patch_size,
        max_tokens=max(max_tokens, tokens),
        max_side=model.positions.max_side,
        resolution=resolution.at(tokens),
        dropping=NoDrop(),
        seed=0,
        epoch=0,
        world_size=world.size,
        fill=False,
        shuffle=False,
    )
    treatment = Treatment(patch_size=model.patch_size)
    return load_epoch(index, plan, treatment, loader or LoaderConfig(), rank=world.rank)


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


@dataclass(frozen=True)
class BudgetResult:
    """What a run's best weights do at one token budget."""

    max_tokens: int  # most tokens of an image
    counts: Counts
    gflops_per_image: float  # of a forward pass, the mean
    images_per_s: float  # loading included
    unreadable: tuple[str, ...]


def evaluate_run(
    predictor: Predictor,
    folder: Path,
    *,
    data: Path | None,
    split: str,
    budgets: Sequence[int],
    max_bad_fraction: float | None,
) -> list[BudgetResult]:
    """Accuracy on one split at each budget, of the run's own data or of another folder.

    Another folder's classes must all be known to the model; raises BadDataset where one is not,
    and where more than `max_bad_fraction` of the images cannot be read (the run's own, when None).
    """
    config = load_config(folder).data
    if max_bad_fraction is None:
        max_bad_fraction = config.max_bad_fraction
    root = data or config.root
    if root is None:
        raise TrainingError(f"{folder} does not say where its data are: give --data")
    index = build_index(root, max_bad_fraction=max_bad_fraction)
    chosen = index.split(split)
    index = _relabel(chosen, predictor.card.classes)
    bad = BadImages(index.root, index.label_of, max_bad_fraction)
    return [_evaluate_budget(predictor, index, tokens, bad) for tokens in budgets]


def _evaluate_budget(
    predictor: Predictor, index: Index, tokens: int, bad: BadImages
) -> BudgetResult:
    card = predictor.card
    packs = evaluation_packs(
        index,
        card.model,
        resolution=card.resolution,
        tokens=tokens,
        max_tokens=PACK_TOKENS,
    )
    flops = 0

    def batches() -> Iterator[PackedBatch]:
        nonlocal flops
        for pack in packs:
            flops += forward_flops(card.model, pack.batch.lengths)
            bad.add(pack.bad)
            yield pack.batch

    began = time.perf_counter()
    counts = classify(lambda batch: predictor.forward(batch)[1], batches(), len(card.classes))
    seconds = time.perf_counter() - began
    if not counts.images:
        raise BadDataset(f"no image of {index.root} has a label that could be judged")
    images = counts.images
    unreadable = tuple(f"{key}: {reason}" for key, reason in bad.reasons.items())
    return BudgetResult(tokens, counts, flops / images / 1e9, images / seconds, unreadable)


def _relabel(index: Index, classes: tuple[str, ...]) -> Index:
    """Number labels as the model does."""
    numbers = {name: i for i, name in enumerate(classes)}
    used = {index.classes[label] for label in index.labels if label >= 0}
    foreign = sorted(used - set(classes))
    if foreign:
        raise BadDataset(f"{index.root} has classes that the model was not trained on: {foreign}")
    table = np.array([numbers.get(name, -1) for name in index.classes] + [-1])
    return replace(index, labels=table[index.labels], classes=classes)


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
