"""Options of several verbs: limits of one file, and one set of options for all tasks.

A verb offers every task's options, and rejects those of other tasks.

Option dataclasses of tasks are merged by inheritance, so that an option that several tasks have is
one option, with one help text: a docstring below the field, as comments of a merged class are lost.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, make_dataclass, replace
from pathlib import Path
from typing import Any

from patchpack.data.depth_notice import depth_notice
from patchpack.data.reading import ReadingConfig
from patchpack.loading import load
from patchpack.printable import message_of
from patchpack.tasks.registry import TASKS
from patchpack.tasks.task import TaskSpec
from patchpack.writing import OutputExists


@dataclass(frozen=True, kw_only=True)
class LimitOptions:
    """Limits of one file, in place of those of the run."""

    max_pixels: int | None = None
    """Maximum pixels of an image, a mask or a video frame; without it, that of the run, by default
    89,478,485."""
    max_side_px: int | None = None
    """Maximum height and width of an image or a video frame in pixels; without it, that of the run,
    by default 65,535."""
    max_scans: int | None = None
    """Maximum scans of a progressive JPEG; without it, that of the run, by default 64."""
    max_bytes: int | None = None
    """Maximum bytes of an image or mask file; without it, that of the run, by default
    1,000,000,000."""
    max_seconds: float | None = None
    """Maximum duration of a video in seconds; without it, that of the run, by default 14,400."""
    max_frames: int | None = None
    """Maximum frames of a clip; without it, that of the run, by default 1,000,000."""

    def over(self, reading: ReadingConfig) -> ReadingConfig:
        """Return a config with the limits that were given."""
        values = {field.name: getattr(self, field.name) for field in fields(LimitOptions)}
        return replace(reading, **{name: v for name, v in values.items() if v is not None})


def load_within(run: Path, limits: LimitOptions) -> Any:
    """Load the predictor of a run, with the limits that were given."""
    predictor = load(run)
    predictor.spec = replace(predictor.spec, reading=limits.over(predictor.spec.reading))
    return predictor


def print_depth_notice(paths: Sequence[Path], reading: ReadingConfig) -> None:
    """Print a line on stderr if 16-bit images hold the values of fewer bits."""
    if notice := depth_notice(paths, reading):
        print(f"patchpack: {notice}", file=sys.stderr)


def with_task_options(common: type, options_of: Callable[[TaskSpec], type]) -> type:
    """A dataclass of the common options of a verb and the options of every task."""
    bases = tuple(dict.fromkeys(options_of(task) for task in TASKS))
    merged = make_dataclass(common.__name__, [], bases=(common, *bases), frozen=True, kw_only=True)
    merged.__doc__ = common.__doc__
    return merged


def task_options(parsed: Any, task: TaskSpec, options_of: Callable[[TaskSpec], type]) -> Any:
    """The options of one task among those parsed.

    Raises ValueError for an option that was given, and that the task does not have.
    """
    names = {field.name for field in fields(options_of(task))}
    for other in TASKS:
        for field in fields(options_of(other)):
            if field.name not in names and getattr(parsed, field.name) != field.default:
                tasks = ", ".join(_tasks_with(field.name, options_of))
                raise ValueError(
                    f"{option_name(field.name)} is for {tasks}; {parsed.run} is a model of "
                    f"{task.name}"
                )
    return options_of(task)(**{name: getattr(parsed, name) for name in names})


def _tasks_with(name: str, options_of: Callable[[TaskSpec], type]) -> Sequence[str]:
    return [task.name for task in TASKS if name in {f.name for f in fields(options_of(task))}]


def kept(write: Callable[[], object]) -> bool:
    """Write into a run folder what the command has printed; a run on a read-only or full disk is
    used all the same, and the reason printed on stderr. Returns whether it was written."""
    try:
        write()
    except (OSError, OutputExists) as error:
        print(f"patchpack: not kept: {message_of(error)}", file=sys.stderr)
        return False
    return True


def option_name(name: str) -> str:
    """A field as an option of the command line."""
    return f"--{name.replace('_', '-')}"
