"""From a RunConfig to a finished run: where index, task, batches and loop meet.

run/
  config.json                 resolved configuration; --resume starts from it
  log.jsonl                   one line per logged step, evaluation and unreadable image
  curves.png                  loss, metrics and speed over the run
  checkpoints/last-00000500/  weights, optimizer and progress: what resume needs
  checkpoints/best-00000450/  the weights to use: what predict, embed and eval load
"""

import hashlib
import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from patchpack.checkpoint import STATE, CheckpointError, list_checkpoints, load_newest
from patchpack.config import RunConfig
from patchpack.data.bad_images import BadImages
from patchpack.data.depth_notice import depth_notice
from patchpack.data.images import BadImage
from patchpack.data.index import Index, build_index
from patchpack.data.pipeline import evaluation_batches, training_batches
from patchpack.data.reading import ReadingConfig
from patchpack.data.records import CLIPS, IMAGES
from patchpack.distributed import World, all_gather_objects, init_distributed
from patchpack.inference.measure import view_of
from patchpack.inference.model_spec import ModelSpec
from patchpack.manifest import reason_of
from patchpack.metrics.undefined import defined
from patchpack.regular_files import read_json_object
from patchpack.serialization import from_json, to_json
from patchpack.tasks.initialize import initialize_from_run
from patchpack.tasks.registry import prepare, task_of
from patchpack.tasks.task import TaskContext, TaskRun
from patchpack.train.log import RunLog, read_log
from patchpack.train.loop import CheckpointWriter, Trainer, TrainingError, Validation, fit
from patchpack.train.precision import choose_dtype
from patchpack.train.progress import Progress
from patchpack.writing import write_text_atomic

CHECKPOINTS = "checkpoints"


def start(config: RunConfig, *, live: bool = True) -> Progress:
    """Train as configured, in a new folder; raises TrainingError where it holds a run already."""
    if config.data.root is None:
        raise TrainingError("there is no data: give a folder of images or a manifest (data.root)")
    # Absolute, so that the run can be resumed and evaluated from any folder.
    init = config.init.resolve() if config.init else None
    config = replace(config, init=init, data=replace(config.data, root=config.data.root.resolve()))
    if list_checkpoints(config.out / CHECKPOINTS, "last"):
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
        return from_json(RunConfig, read_json_object(path))
    except (FileNotFoundError, NotADirectoryError):
        raise TrainingError(f"{folder} is not a run: it holds no config.json") from None
    except (OSError, ValueError) as error:
        raise TrainingError(f"{path} is no config of a run: {reason_of(error)}") from error


def _train(config: RunConfig, *, resumed: bool, live: bool) -> Progress:
    """1. index the data, 2. prepare the task, 3. build the module, 4. initialize it from --init
    or restore it from the last checkpoint, 5. train."""
    data, task = config.data, task_of(config.task)
    assert data.root is not None
    index = build_index(
        data.root,
        max_bad_fraction=data.max_bad_fraction,
        require_labels=task.needs_labels,
        media_type=CLIPS if config.input.tubelets else IMAGES,
        reading=data.reading,
    ).where(data.where)
    if task.needs_labels:
        index.require_read_classes()
    with init_distributed() as world:
        context = task_context(config, world, resumed=resumed)
        task_run = prepare(index, context)
        dtype = choose_dtype(config.train.precision, world.device)
        spec = task_run.model_spec(context, str(dtype).removeprefix("torch."))
        torch.manual_seed(config.train.seed)
        module = task.build(spec)
        if config.init and not resumed:

            def head_matches(other: ModelSpec) -> bool:
                same_task = type(other.task) is type(spec.task)
                return same_task and task.head_key(other) == task.head_key(spec)

            initialize_from_run(module, config.init, head_matches, config.inflate)
        if config.train.freeze_backbone:
            module.freeze()
        trainer = Trainer(module, config.train, config.optim, world, dtype)
        bad_before = _restore(trainer, config.out, task_run) if resumed else {}
        if world.is_main and not resumed:
            _begin_folder(config, task_run)
        log = RunLog(
            config.out if world.is_main else None,
            resume_step=trainer.progress.step,
            resume_fraction=trainer.progress.fraction_done(config.train),
            live=live and world.is_main,
        )
        try:
            if not resumed:
                _log_data(log, index, task_run, data.reading)
            for message in task_run.messages:
                log.message(message)
            _fit(trainer, config, task_run, spec, bad_before, log)
        finally:
            log.close()
            if world.is_main:
                _draw(config.out)
        return trainer.progress


def task_context(config: RunConfig, world: World, *, resumed: bool = False) -> TaskContext:
    """What a task gets of a run's config."""
    return TaskContext(
        data=config.data,
        model=config.model,
        task=config.task,
        out=config.out,
        init=config.init,
        resumed=resumed,
        world=world,
    )


def _log_data(log: RunLog, index: Index, task_run: TaskRun, reading: ReadingConfig) -> None:
    """Log what is not used of the data, how it is split, and whether it seems too dark."""
    unreadable = [BadImage(key, reason) for key, reason in index.bad]
    log.log_unreadable(0, [*unreadable, *task_run.skipped])
    if notice := depth_notice(index.paths, reading):
        log.message(notice)
    for message in index.messages:
        log.message(message)


def _begin_folder(config: RunConfig, task_run: TaskRun) -> None:
    """Write the run folder, after the data have been checked."""
    try:
        config.out.mkdir(parents=True, exist_ok=True)
        task_run.write(config.out)
        write_text_atomic(config.out / "config.json", json.dumps(to_json(config), indent=2) + "\n")
    except OSError as error:
        raise TrainingError(f"cannot write to {config.out}: {error.strerror}") from error


def _fit(
    trainer: Trainer,
    config: RunConfig,
    task_run: TaskRun,
    spec: ModelSpec,
    bad_before: dict[str, str],
    log: RunLog,
) -> None:
    world, task = trainer.world, task_of(config.task)
    shard = world.rank, world.size
    bad, bad_val = (
        BadImages(
            split.root, split.label_of, config.data.max_bad_fraction, reasons, split.item_name
        )
        for split, reasons in ((task_run.train, bad_before), (task_run.val, {}))
    )
    evaluator = task.run_evaluator(task_run)

    def evaluate(module: nn.Module) -> dict[str, float]:
        predictor = task.predictor(spec)(module, spec, world.device)
        view = view_of(predictor, spec.eval_tokens)
        errors: list[BadImage] = []

        def batches():
            for pack in evaluation_batches(
                task_run.val, spec.input, view, max_tokens=config.data.max_tokens,
                loader=config.data.loader, shard=shard,
            ):  # fmt: skip
                errors.extend(pack.unreadable)
                yield pack.batch

        result = evaluator.run(predictor, batches(), world)
        metrics = result.metrics
        errors = all_gather_objects(errors, world)
        log.log_unreadable(trainer.progress.step, bad_val.add(errors))
        if not metrics:
            raise TrainingError("no image of the validation split can be read")
        if not defined(metrics[task.metric.name]):
            reasons = "; ".join(result.notes) or "it is computed over nothing"
            raise TrainingError(
                f"the validation split gives no {task.metric.name}, so no weights can be chosen as "
                f"best: {reasons}"
            )
        return metrics

    batches = training_batches(
        task_run.train,
        config.data,
        spec.input,
        seed=config.train.seed,
        start=(trainer.progress.epoch, trainer.progress.pack),
        shard=shard,
    )
    extra = {
        "model_spec": to_json(spec),
        "images": fingerprint(task_run.train),
        "world_size": world.size,
    }
    writer = CheckpointWriter(config.out, config.out / CHECKPOINTS, extra)
    validation = Validation(evaluate, task.metric)
    fit(trainer, batches, log, bad, validation, writer, pack_tokens=config.data.max_tokens)


def _restore(trainer: Trainer, folder: Path, task_run: TaskRun) -> dict[str, str]:
    """Restore a run from its newest good checkpoint; returns the images it could not read."""
    checkpoint = load_newest(folder / CHECKPOINTS, "last")
    if checkpoint.state.get("images") != fingerprint(task_run.train):
        raise TrainingError(
            f"the training images are not those that {folder} started with (files were added, "
            "removed or changed), so it cannot continue exactly; restore them, or start a new run"
        )
    processes, bad_images = checkpoint.state.get("world_size"), checkpoint.state.get("bad_images")
    if type(processes) is not int or not isinstance(bad_images, dict):
        raise CheckpointError(f"{checkpoint.folder / STATE} is not that of a run's checkpoint")
    if processes != trainer.world.size:
        raise TrainingError(
            f"{folder} was trained by {processes} processes, not {trainer.world.size}, which "
            f"would plan other packs; continue it with torchrun --nproc-per-node {processes} "
            f"-m patchpack train --resume {folder}"
        )
    trainer.restore(checkpoint)
    return bad_images


def fingerprint(index: Index) -> str:
    """A hash of the items, their sizes, labels and annotations."""
    digest = hashlib.sha256("\0".join(index.keys).encode("utf-8", "surrogatepass"))
    for array in (index.heights, index.widths, index.labels):
        digest.update(array.astype("<i8").tobytes())
    if index.clips is not None:
        for array in (index.clips.lengths, index.clips.rates):
            digest.update(array.astype("<f8").tobytes())
    for annotation in index.annotations.values():
        annotation.digest(digest)
    return digest.hexdigest()


def _draw(folder: Path) -> None:
    try:
        from patchpack.visualize.figures import draw_curves
    except ImportError:  # the report extra is not installed
        return
    train, evals = (read_log(folder / "log.jsonl", kind) for kind in ("train", "eval"))
    if train:
        with suppress(OSError):  # a full disk has been reported by what mattered more
            (folder / "curves.png").write_bytes(draw_curves(train, evals))
