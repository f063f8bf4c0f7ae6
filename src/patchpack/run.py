"""From a RunConfig to a finished run: where index, job, packs and loop meet.

run/
  config.json                 the resolved configuration; `--resume` starts from it
  log.jsonl                   one line per logged step, evaluation and unreadable image
  curves.png                  loss, accuracy and speed over the run
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

from patchpack.checkpoint import list_checkpoints, load_newest, write_text_atomic
from patchpack.data.bad_images import BadImages
from patchpack.data.images import BadImage
from patchpack.data.index import Index, build_index
from patchpack.data.pipeline import training_batches
from patchpack.data.records import CLIPS, IMAGES
from patchpack.distributed import init_distributed
from patchpack.serialization import from_json, to_json
from patchpack.tasks.classification.model import ClassificationConfig
from patchpack.tasks.initialize import initialize_from_run
from patchpack.tasks.registry import prepare
from patchpack.tasks.task import TaskRun
from patchpack.train.config import RunConfig
from patchpack.train.log import RunLog, read_log
from patchpack.train.loop import Trainer, TrainingError, fit
from patchpack.train.precision import choose_dtype
from patchpack.train.progress import Progress

CHECKPOINTS = "checkpoints"


def start(config: RunConfig, *, live: bool = True) -> Progress:
    """Train as configured, in a new folder; raises TrainingError where a run is in the way."""
    if config.data.root is None:
        raise TrainingError("there is no data: give a folder of images or a manifest (data.root)")
    # Absolute, so that the run can be resumed and judged from any folder.
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
        return from_json(RunConfig, json.loads(path.read_text()))
    except (FileNotFoundError, NotADirectoryError):
        raise TrainingError(f"{folder} is not a run: it holds no config.json") from None
    except (json.JSONDecodeError, RecursionError) as error:
        raise TrainingError(f"{path} is not JSON: {error}") from error


def _train(config: RunConfig, *, resumed: bool, live: bool) -> Progress:
    data = config.data
    assert data.root is not None
    require_labels = isinstance(config.task, ClassificationConfig)  # whether labels matter
    index = build_index(
        data.root,
        max_bad_fraction=data.max_bad_fraction,
        require_labels=require_labels,
        media_type=CLIPS if config.clip_sampling else IMAGES,
    )
    index = index.where(data.where)
    with init_distributed() as world:
        task_run = prepare(index, config, world, resumed=resumed)
        torch.manual_seed(config.train.seed)
        task = task_run.build()
        if config.init and not resumed:
            initialize_from_run(task, config.init, task_run.head_matches, config.inflate)
        if config.train.freeze_backbone:
            task.freeze()
        dtype = choose_dtype(config.train.precision, world.device)
        trainer = Trainer(task, config, world, dtype)
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
                unreadable = [BadImage(key, reason) for key, reason in index.bad]
                log.log_unreadable(0, unreadable + task_run.skipped)
            if index.held_out and not resumed:
                log.message(
                    f"no split val: {index.held_out:,} {index.item_name} of train are held out for it"
                )
            for note in task_run.messages:
                log.message(note)
            _fit(trainer, task_run, bad_before, log, dtype)
        finally:
            log.close()
            if world.is_main:
                _draw(config.out)
        return trainer.progress


def _begin_folder(config: RunConfig, task_run: TaskRun) -> None:
    """Write the run's folder, once all that may be wrong with the data is known to be right."""
    try:
        config.out.mkdir(parents=True, exist_ok=True)
        task_run.write(config.out)
        write_text_atomic(config.out / "config.json", json.dumps(to_json(config), indent=2) + "\n")
    except OSError as error:
        raise TrainingError(f"cannot write to {config.out}: {error.strerror}") from error


def _fit(
    trainer: Trainer, task_run: TaskRun, bad_before: dict[str, str], log: RunLog, dtype: torch.dtype
) -> None:
    config, world = trainer.config, trainer.world
    bad, bad_val = (
        BadImages(
            split.root, split.label_of, config.data.max_bad_fraction, reasons, split.item_name
        )
        for split, reasons in ((task_run.train, bad_before), (task_run.val, {}))
    )

    def evaluate(module: nn.Module) -> dict[str, float]:
        values, errors = task_run.evaluate(module, world, dtype)
        log.log_unreadable(trainer.progress.step, bad_val.add(errors))
        if not values:
            raise TrainingError("no image of the validation split could be read")
        return values

    fit(
        trainer,
        training_batches(task_run.train, config, world, trainer.progress),
        log,
        bad,
        evaluate=evaluate,
        metric=task_run.metric,
        checkpoints=config.out / CHECKPOINTS,
        extra={
            "model_spec": to_json(task_run.spec(str(dtype).removeprefix("torch."))),
            "images": fingerprint(task_run.train),
            "world_size": world.size,
        },
    )


def _restore(trainer: Trainer, folder: Path, task_run: TaskRun) -> dict[str, str]:
    """Put a run where its newest good checkpoint was; returns the images it could not read."""
    checkpoint = load_newest(folder / CHECKPOINTS, "last")
    if checkpoint.state.get("images") != fingerprint(task_run.train):
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
    """Tells whether two indexes hold the same images, sizes, labels, captions, masks and boxes."""
    digest = hashlib.sha256("\0".join(index.keys).encode("utf-8", "surrogatepass"))
    for array in (index.heights, index.widths, index.labels):
        digest.update(array.astype("<i8").tobytes())
    if index.captions is not None:
        for array in (
            index.captions.tokens,
            index.captions.token_offsets,
            index.captions.image_offsets,
        ):
            digest.update(array.astype("<i8").tobytes())
    if index.clips is not None:
        for array in (index.clips.lengths, index.clips.rates):
            digest.update(array.astype("<f8").tobytes())
    if index.masks is not None:
        digest.update("\0".join(index.masks.keys).encode("utf-8", "surrogatepass"))
    if index.boxes is not None:
        for there in index.boxes.images:
            digest.update(there.boxes.astype("<f4").tobytes() + there.labels.tobytes())
    return digest.hexdigest()


def _draw(folder: Path) -> None:
    try:
        from patchpack.visualize.figures import draw_curves
    except ImportError:  # the report extra is not installed
        return
    train, evals = (read_log(folder / "log.jsonl", media_type) for media_type in ("train", "eval"))
    if train:
        with suppress(OSError):  # a full disk has been reported by what mattered more
            (folder / "curves.png").write_bytes(draw_curves(train, evals))
