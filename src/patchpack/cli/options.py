"""One set of options for all tasks: a verb offers every task's, and rejects those of other tasks.

Option dataclasses of tasks are merged by inheritance, so that an option that several tasks have is
one option, with one help text: a docstring below the field, as comments of a merged class are lost.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, make_dataclass
from typing import Any

from patchpack.printable import message_of
from patchpack.tasks.registry import TASKS
from patchpack.tasks.task import TaskSpec
from patchpack.writing import OutputExists


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
