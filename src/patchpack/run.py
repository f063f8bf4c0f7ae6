"""From a RunConfig to a finished run: where index, task, batches and loop meet.

run/
  config.json                 resolved configuration; --resume starts from it
  items.safetensors           keys and digests of the items that the run began with
  log.jsonl                   one line per logged step, evaluation and unreadable image
  curves.png                  loss, metrics and speed over the run
  checkpoints/last-00000500/  weights, optimizer and progress: what resume needs
  checkpoints/best-00000450/  the weights to use: what predict, embed and eval load
"""

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import nn

from patchpack.config import RunConfig
from patchpack.continuation import Continuation, check_classes, check_items, continuation
from patchpack.data.bad_images import BadImages
from patchpack.data.config import DataConfig
from patchpack.data.depth_notice import depth_notice
from patchpack.data.images import BadImage
from patchpack.data.index import Index, build_index
from patchpack.data.pipeline import evaluation_batches, training_batches
from patchpack.data.records import CLIPS, IMAGES, BadDataset
from patchpack.distributed import World, all_gather_objects, init_distributed
from patchpack.inference.measure import view_of
from patchpack.inference.model_spec import ModelSpec
from patchpack.manifest import reason_of
from patchpack.metrics.undefined import defined
from patchpack.pretrained.hub import absolute_source
from patchpack.pretrained.read import read_trained
from patchpack.regular_files import read_json_object
from patchpack.serialization import ConfigError, from_json, to_json
from patchpack.tasks.initialize import initialize
from patchpack.tasks.registry import prepare, task_of
from patchpack.tasks.task import TaskContext, TaskRun
from patchpack.train.items import Items, items_of, write_items
from patchpack.train.log import RunLog, read_log
from patchpack.train.loop import CheckpointWriter, Trainer, Validation, fit
from patchpack.train.precision import choose_dtype
from patchpack.train.progress import Progress
from patchpack.train.provenance import environment
from patchpack.train.run_folder import CHECKPOINTS, CONFIG, check_new_folder, locked
from patchpack.train.stopping import TrainingError, catch_stop_signals, naming_lost_process
from patchpack.writing import OutputExists, replace_file, write_text_atomic


def start(config: RunConfig, *, live: bool = True) -> Progress:
    """Train as configured, in a new folder; raise TrainingError where it would overwrite files, or
    become part of its own data."""
    if config.data.root is None:
        raise TrainingError("there is no data: give a folder of images or a manifest (data.root)")
    # Absolute, so that the run can be resumed and evaluated from any folder.
    init = absolute_source(config.init) if config.init else None
    root = config.data.root.resolve()
    config = replace(config, init=init, data=replace(config.data, root=root))
    check_new_folder(config.out, root)
    return _train(config, resumed=False, live=live)


def resume(folder: Path, *, data_root: Path | None = None, live: bool = True) -> Progress:
    """Continue a run from its newest good checkpoint, exactly as if it had never stopped.

    data_root  new place of data that have moved; kept in config.json

    Raise TrainingError where the config or the data are not those of the run.
    """
    config = replace(load_config(folder), out=folder)
    if data_root is not None:
        config = replace(config, data=replace(config.data, root=data_root.resolve()))
    return _train(config, resumed=True, live=live)


def load_config(folder: Path) -> RunConfig:
    """The configuration saved with a run; raise TrainingError where there is none."""
    path = folder / CONFIG
    try:
        return from_json(RunConfig, read_json_object(path))
    except (FileNotFoundError, NotADirectoryError):
        raise TrainingError(f"{folder} is not a run: it holds no config.json") from None
    except ConfigError as error:
        raise TrainingError(f"{path} is not the config of a run: {str(error)[:500]}") from error
    except (OSError, ValueError) as error:
        raise TrainingError(f"{path} is not the config of a run: {reason_of(error)}") from error


def _train(config: RunConfig, *, resumed: bool, live: bool) -> Progress:
    """1. index the data, 2. prepare the task, 3. build the module, 4. initialize it from --init
    or restore it from the last checkpoint, 5. train."""
    task = task_of(config.task)
    with naming_lost_process(), ExitStack() as held, init_distributed() as world:
        notes = [held.enter_context(locked(config.out))] if resumed and world.is_main else []
        before = continuation(config, world) if resumed else None
        context = task_context(config, world, resumed=resumed)
        index = _index(config, resumed)
        task_run = prepare(index, context)
        items = _items(task_run, world, before, config.out)
        dtype = before.dtype if before else choose_dtype(config.train.precision, world.device)
        spec = task_run.model_spec(context, str(dtype).removeprefix("torch."))
        if before:
            check_classes(before.checkpoint, config.out, spec)
        torch.manual_seed(config.train.seed)
        module = task.build(spec)
        if config.init and not resumed:

            def head_matches(other: ModelSpec) -> bool:
                same_task = type(other.task) is type(spec.task)
                return same_task and task.head_key(other) == task.head_key(spec)

            initialize(module, read_trained(config.init), head_matches, config.inflate)
        if config.train.freeze_backbone:
            module.freeze()
        trainer = Trainer(module, config.train, config.optim, world, dtype)
        if before:
            trainer.restore(before.checkpoint)
            notes += before.notes
        if world.is_main:
            notes += _begin_folder(config, task_run, items, held, resumed)
        log = RunLog(
            config.out if world.is_main else None,
            resume_step=trainer.progress.step,
            resume_fraction=trainer.progress.fraction_done(config.train),
            live=live and world.is_main,
        )
        received = held.enter_context(catch_stop_signals())  # also while all is closed
        try:
            if not resumed:
                _log_data(log, index, task_run, config.data)
            for message in filter(None, (*notes, *task_run.messages)):
                log.message(message)
            bad_before = before.checkpoint.state["bad_images"] if before else {}
            _fit(trainer, config, task_run, spec, bad_before, items, log, received)
        finally:
            log.close()
            if world.is_main:
                _draw(config.out)
        return trainer.progress


def _index(config: RunConfig, resumed: bool) -> Index:
    """Index the data; of a resumed run whose data are gone, raise TrainingError with a remedy."""
    data = config.data
    if data.root is None:  # of a config that was edited
        raise TrainingError(
            f"{config.out}/{CONFIG} names no data: restore data.root, or give it with --data.root"
        )
    moved = f"if they have moved: patchpack train --resume {config.out} --data.root NEW"
    if resumed and not data.root.exists():
        raise TrainingError(f"{data.root}, the data of {config.out}, is gone; {moved}")
    needs_labels = task_of(config.task).needs_labels
    try:
        index = build_index(
            data.root,
            max_bad_fraction=data.max_bad_fraction,
            require_labels=needs_labels,
            media_type=CLIPS if config.input.tubelets else IMAGES,
            reading=data.reading,
        ).where(data.where)
        if needs_labels:
            index.require_read_classes()
        return index
    except BadDataset as error:
        if not resumed:
            raise
        raise TrainingError(f"the data of {config.out} have changed: {error}; {moved}") from error


def _items(
    task_run: TaskRun, world: World, before: Continuation | None, folder: Path
) -> dict[str, Items]:
    """Read the items of both splits, on the main process; raise TrainingError on all of them where
    they are not those that a resumed run started with."""
    items: dict[str, Items] = {}
    problems: list[str] = []
    if world.is_main:
        items = {"train": items_of(task_run.train), "val": items_of(task_run.val)}
        if before:
            problems = [check_items(before.checkpoint, folder, items)]
    for problem in filter(None, all_gather_objects(problems, world)):
        raise TrainingError(problem)
    return items


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


def _log_data(log: RunLog, index: Index, task_run: TaskRun, data: DataConfig) -> None:
    """Log what is not used of the data, how it is split, and whether it seems too dark."""
    unreadable = [BadImage(key, reason) for key, reason in index.bad]
    log.log_unreadable(0, [*unreadable, *task_run.skipped])
    if notice := depth_notice(index.paths, data.reading):
        log.message(notice)
    for message in index.messages:
        log.message(message)
    if data.train_split == data.val_split:
        log.message(
            f"the validation split is the training split, {data.val_split}: its metrics are "
            "of images that are trained on"
        )


def _begin_folder(
    config: RunConfig, task_run: TaskRun, items: dict[str, Items], held: ExitStack, resumed: bool
) -> list[str]:
    """Write what a run folder begins with, after the data have been checked; return notes.

    A new folder is locked first, and checked again: another run may have begun in it.
    """
    notes = []
    try:
        if not resumed:
            config.out.mkdir(parents=True, exist_ok=True)
            notes.append(held.enter_context(locked(config.out)))
            assert config.data.root is not None
            check_new_folder(config.out, config.data.root)
        if not resumed or load_config(config.out).data.root != config.data.root:
            write_text_atomic(config.out / CONFIG, json.dumps(to_json(config), indent=2) + "\n")
        if not resumed:
            task_run.write(config.out)
        write_items(config.out, items)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise TrainingError(f"cannot write to {config.out}: {reason}") from error
    return notes


def _fit(
    trainer: Trainer,
    config: RunConfig,
    task_run: TaskRun,
    spec: ModelSpec,
    bad_before: dict[str, str],
    items: dict[str, Items],
    log: RunLog,
    received: Sequence[int],
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
        "config": to_json(config),
        "environment": environment(world.device),
        "items": {split: of_split.hash for split, of_split in items.items()},
        "world_size": world.size,
    }
    writer = CheckpointWriter(config.out, config.out / CHECKPOINTS, extra)
    validation = Validation(evaluate, task.metric)
    with closing(batches):
        fit(
            trainer, batches, log, bad, validation, writer,
            pack_tokens=config.data.max_tokens, received=received,
        )  # fmt: skip


def _draw(folder: Path) -> None:
    try:
        from patchpack.visualize.figures import draw_curves
    except ImportError:  # the report extra is not installed
        return
    try:
        train, evals = (read_log(folder / "log.jsonl", kind) for kind in ("train", "eval"))
    except OSError:
        return
    fields = Counter(frozenset(record) for record in evals).most_common(1)
    evals = [record for record in evals if frozenset(record) == fields[0][0]]
    if train:
        with suppress(OSError, OutputExists):  # a full disk has been reported by what mattered more
            replace_file(folder / "curves.png", draw_curves(train, evals))
