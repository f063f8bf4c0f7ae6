"""`patchpack predict`: the predictions of a trained model for image or video files."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from patchpack.cli.options import (
    LimitOptions,
    load_within,
    print_depth_notice,
    task_options,
    with_task_options,
)
from patchpack.data.images import BadImage
from patchpack.data.records import CLIPS, IMAGES
from patchpack.data.sources.scan_notes import ScanNotes
from patchpack.inference.image_files import image_files, in_groups
from patchpack.inference.output_files import check_outside
from patchpack.inference.predictor import Predictor, readable
from patchpack.printable import printable
from patchpack.tasks.registry import TASKS, task_of
from patchpack.tasks.task import TaskSpec


@dataclass(frozen=True, kw_only=True)
class Predict(LimitOptions):
    """Predict labels with probabilities (classification, contrastive), the class of every pixel
    (segmentation) or boxes (detection) for image or video files."""

    run: Positional[Path]
    """Run folder."""
    images: Annotated[Positional[tuple[Path, ...]], arg(metavar="IMAGE...")]
    """Image or video files, or folders of them."""
    max_tokens: int | None = None
    """Cost dial: maximum tokens per image or clip; without it, the saved operating point."""
    output: Annotated[Path | None, arg(aliases=["-o"])] = None
    """Folder for predicted masks (segmentation), or COCO file for predicted boxes (detection)."""
    json: bool = False
    """Print one JSON object per image."""


PredictOptions = with_task_options(Predict, lambda task: task.predict_options)


def run_predict(parsed: Any) -> int:
    predictor = load_within(parsed.run, parsed)
    task = task_of(predictor.spec.task)
    options = task_options(parsed, task, lambda task: task.predict_options)
    paths = named_files(predictor, parsed.images)
    writer = None
    if parsed.output is not None:
        if task.writer is None:
            raise ValueError(f"--output is for {_tasks_with_writer()}; {parsed.run} prints labels")
        if parsed.output.suffix.lower() != ".json":  # a folder of pictures
            check_outside(parsed.output, parsed.images)
        writer = task.writer(parsed.output, predictor, paths, options)
    print_depth_notice(paths, predictor.spec.reading)
    bad: list[BadImage] = []
    for group in in_groups(paths, predictor.spec.reading):
        unreadable: list[BadImage] = []
        predictions = task.predict(predictor, group, options, parsed.max_tokens, unreadable)
        for path, prediction in zip(readable(group, unreadable), predictions, strict=True):
            written = writer.add(path, prediction) if writer else None
            _print(task, path, prediction, written, parsed.json)
        bad += unreadable
    if writer and (file := writer.close()) and not parsed.json:
        print(printable(file))
    return report_unreadable(bad)


def named_files(predictor: Predictor, images: Sequence[Path]) -> list[Path]:
    """The files that a user names; prints what is passed over in folders to stderr."""
    notes = ScanNotes()
    media_type = CLIPS if predictor.spec.input.tubelets else IMAGES
    files = image_files(images, media_type, notes)
    for message in notes.messages():
        print(f"patchpack: {printable(message)}", file=sys.stderr)
    return files


def _print(
    task: TaskSpec, path: Path, prediction: Any, written: Path | None, as_json: bool
) -> None:
    if as_json:
        record = {"image": str(path), **task.report.to_json(prediction)}
        print(json.dumps(record | ({"output": str(written)} if written else {})))
        return
    suffix = f" → {printable(written)}" if written else ""
    print(f"{printable(path)}: {task.report.to_text(prediction)}{suffix}")


def _tasks_with_writer() -> str:
    return ", ".join(task.name for task in TASKS if task.writer)


def report_unreadable(bad: Sequence[BadImage]) -> int:
    """Name what could not be read on stderr; returns the exit status."""
    for error in bad:
        print(f"patchpack: {error}", file=sys.stderr)
    return 1 if bad else 0
