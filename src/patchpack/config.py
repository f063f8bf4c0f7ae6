"""The configuration of a run: a tree of the parts' own configs, and recipes that hold one.

Each part's options stand in that part's file; this file only composes them.
"""

import runpy
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Union

from patchpack.data.config import DataConfig, InputSpec
from patchpack.inference.model_spec import input_spec
from patchpack.model.navit import NaViTConfig
from patchpack.model.presets import model_config
from patchpack.model.video import Inflation, VideoConfig
from patchpack.old_names import renamed_python
from patchpack.serialization import ConfigError, to_json
from patchpack.tasks.classification.model import ClassificationConfig
from patchpack.tasks.registry import TASKS, task_of
from patchpack.train.config import TrainConfig
from patchpack.train.optim import OptimConfig

RECIPE_SECONDS = 60  # after which a recipe that still runs is stopped
Task = Union[tuple(task.config for task in TASKS)]  # pyrefly: ignore  # noqa: UP007


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything about a run; saved with it as config.json."""

    out: Path = Path("runs/run")  # run folder, which must not hold a run yet
    init: Path | None = None
    """Weights that initialize the model: a run folder, weights of another library, or
    hf-hub:owner/name; None: random weights."""
    inflate: Inflation = "central"
    """How patches of an image model become tubelets with --init; central: the middle frame alone,
    average: all frames equally."""
    # Which images or clips are trained on, and how they are prepared.
    data: DataConfig = field(default_factory=DataConfig)
    # Architecture of the backbone.
    model: NaViTConfig | VideoConfig = field(default_factory=lambda: model_config("navit_s16"))
    # What the model is trained for.
    task: Task = field(default_factory=ClassificationConfig)  # pyrefly: ignore
    # Optimizer and learning-rate schedule.
    optim: OptimConfig = field(default_factory=OptimConfig)
    # Budget, precision and intervals of the training loop.
    train: TrainConfig = field(default_factory=TrainConfig)

    @property
    def input(self) -> InputSpec:
        """The model's input."""
        return input_spec(self.model, self.data.reading)

    def __post_init__(self) -> None:
        to_json(self)  # raises ConfigError, with the field, for NaN, infinity and wrong types
        task = task_of(self.task)
        if self.input.tubelets and not task.supports_video:
            supported = ", ".join(other.option for other in TASKS if other.supports_video)
            raise ValueError(f"{task.name} takes images, not clips; clips are for {supported}")
        if isinstance(self.model, VideoConfig):
            self._check_time(self.model)
        if self.data.augment.mosaic and not task.supports_mosaic:
            supported = ", ".join(other.option for other in TASKS if other.supports_mosaic)
            raise ValueError(f"data.augment.mosaic is for {supported}: labels would be wrong")
        if self.train.freeze_backbone and self.init is None:
            raise ValueError("train.freeze_backbone needs init: weights of a trained backbone")

    def _check_time(self, model: VideoConfig) -> None:
        """Raise ValueError for more frames than the time table covers, or than fit the budget."""
        sampling = self.data.clip_sampling(self.input)
        assert sampling is not None
        tubelets = sampling.max_frames // model.tubelets[0].frames
        if model.time_coordinates == "absolute" and tubelets > model.time_table_size:
            raise ValueError(
                f"{sampling.max_frames} frames are {tubelets} tubelets, but "
                f"model.time_table_size is {model.time_table_size}: raise it, "
                f"or lower data.frames.frames"
            )
        sampling.patches_for_tokens(self.data.evaluation_tokens(self.input))


def load_recipe(path: Path) -> RunConfig:
    """Run a recipe, a Python file, and take its `config`; raises ConfigError where there is none.

    A recipe is code: run only files from sources that you trust.
    """
    if not path.is_file():
        raise ConfigError(f"there is no recipe {path}")
    try:
        with redirect_stdout(sys.stderr), _time_limit(RECIPE_SECONDS):
            config = runpy.run_path(str(path)).get("config")
    except (Exception, SystemExit) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        if not isinstance(error, ConfigError | _TooLong):
            reason = f"{type(error).__name__}: {reason}"
        names = "".join(
            f"; {old!r} is now {new!r}" for old, new in renamed_python(str(error))
        )  # fmt: skip
        raise ConfigError(f"{path}{_line_of(error, path)}: {reason}{names}") from error
    if not isinstance(config, RunConfig):
        raise ConfigError(f"{path} is not a recipe: it defines no `config` that is a RunConfig")
    return config


class _TooLong(Exception):
    """A recipe takes too long."""


@contextmanager
def _time_limit(seconds: int) -> Iterator[None]:
    """Raise _TooLong inside the context after this many seconds; in the main thread only."""

    def stop(number: int, frame: object) -> None:
        raise _TooLong(f"the recipe still runs after {seconds} s; it should only define `config`")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)


def _line_of(error: BaseException, path: Path) -> str:
    """Where in a file an error arose: ", line 3"; empty if nowhere in it."""
    if isinstance(error, SyntaxError) and error.filename == str(path) and error.lineno:
        return f", line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    return f", line {lines[-1]}" if lines else ""
