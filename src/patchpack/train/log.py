"""Log of a run: a live display, a JSONL file, and TensorBoard if it is installed.

The JSONL file has one object per line: `{"kind": "train", "step": 10, "loss": 2.31, …}`. A resumed
run removes the lines after the step it resumes from, so the file equals that of an uninterrupted
run.
"""

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from rich.live import Live
from rich.table import Table

from patchpack.checkpoint import write_text_atomic
from patchpack.data.images import BadImage
from patchpack.metrics.undefined import defined, json_values, shown
from patchpack.terminal import Terminal

TRAIN_COLUMNS = (
    ("loss", "loss", "{:.4f}"),
    ("lr", "learning rate", "{:.2e}"),
    ("grad_norm", "gradient norm", "{:.2f}"),
    ("images_per_s", "images/s", "{:,.0f}"),
    ("tokens_per_s", "tokens/s", "{:,.0f}"),
    ("gflops_per_s", "GFLOP/s", "{:,.0f}"),
    ("fill", "fill", "{:.2%}"),
    ("data_wait", "data wait", "{:.1%}"),
)


class RunLog:
    """The log of one run, shown live on a terminal and as plain lines elsewhere."""

    def __init__(
        self, folder: Path | None, *, resume_step: int, resume_fraction: float, live: bool
    ) -> None:
        """Open the log in `folder`; None on ranks that write no log.

        `resume_fraction` is the fraction of the run that is done at `resume_step`.
        """
        self._is_writer = folder is not None
        self.console = Terminal(stderr=True)
        path = folder / "log.jsonl" if folder else Path(os.devnull)
        if folder and resume_step:
            _truncate_after(path, resume_step)
        self._file: TextIO = path.open("a" if resume_step else "w")
        self._board = _tensorboard(folder) if folder else None
        self._latest: dict[str, float] = {}
        self._evaluated: dict[str, float] = {}
        self._start = time.monotonic()
        self._start_fraction = self._fraction = resume_fraction
        self._live = None
        if live and self.console.is_terminal:
            self._live = Live(console=self.console, refresh_per_second=4, transient=True)
            self._live.start()
        self._lines = live and self._live is None

    def train(self, step: int, fraction_done: float, values: dict[str, float]) -> None:
        """Log the training values of a step."""
        self._latest, self._fraction = values, min(1.0, fraction_done)
        self._write("train", step, values)
        if self._live:
            self._live.update(self._table(step))
        elif self._lines:
            self.console.print(self._line(step, values), soft_wrap=True)

    def evaluation(self, step: int, values: dict[str, float]) -> None:
        """Log the metrics of an evaluation; an undefined one, NaN, is null in the file."""
        self._evaluated = values
        self._write("eval", step, values)
        if self._lines:
            text = "  ".join(f"{k} {shown(v, '.4f')}" for k, v in values.items())
            self.console.print(f"step {step}  {text}", soft_wrap=True)

    def message(self, text: str) -> None:
        """Print a message above the live display, on the writing rank only."""
        if self._is_writer:
            self.console.print(text, soft_wrap=True)

    def note(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Write a line to the file only."""
        self._write(kind, step, values)

    def log_unreadable(self, step: int, errors: Sequence[BadImage]) -> None:
        """Log images that could not be read."""
        for error in errors:
            self.message(f"skipped: {error}")
            self.note("bad_image", step, {"error": str(error)})

    def close(self) -> None:
        """Close the display and the files."""
        if self._live:
            self._live.stop()
        self._file.close()
        if self._board:
            self._board.close()

    def _write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        record = json_values({"kind": kind, "step": step, **values})
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        if self._board and kind in ("train", "eval"):
            for name, value in values.items():
                if not defined(value):
                    continue
                self._board.add_scalar(f"{kind}/{name}", value, step)

    def _progress(self, step: int) -> str:
        return f"step {step:,} ({self._fraction:.0%})"

    def _time_left(self) -> str:
        """Return the estimated minutes and seconds left, at the pace since the start."""
        fraction = self._fraction - self._start_fraction
        if fraction <= 0:
            return "?"
        seconds = (time.monotonic() - self._start) / fraction * (1 - self._fraction)
        return f"{int(seconds // 60)}:{int(seconds % 60):02d}"

    def _line(self, step: int, values: dict[str, float]) -> str:
        shown = (f"{title} {form.format(values[key])}" for key, title, form in TRAIN_COLUMNS)
        return f"{self._progress(step)}  " + "  ".join(shown) + f"  left {self._time_left()}"

    def _table(self, step: int) -> Table:
        table = Table.grid(padding=(0, 2))
        table.add_row(*self._progress(step).split(" ", 1), "left", self._time_left())
        cells = [(title, form.format(self._latest[key])) for key, title, form in TRAIN_COLUMNS]
        for left, right in zip(cells[::2], cells[1::2], strict=True):
            table.add_row(*left, *right)
        for name, value in self._evaluated.items():
            table.add_row(name, shown(value, ".4f"))
        return table


def read_log(path: Path, kind: str) -> list[dict[str, Any]]:
    """Return the lines of one kind, without a last line truncated by a crash."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    records = [json.loads(line) for line in lines if line.endswith("\n")]
    return [record for record in records if record["kind"] == kind]


def _truncate_after(path: Path, step: int) -> None:
    """Remove the lines that a resumed run will write again."""
    if path.exists():
        lines = path.read_text().splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and _step(line) <= step]
        write_text_atomic(path, "".join(kept))


def _step(line: str) -> int:
    return int(json.loads(line)["step"])


def _tensorboard(folder: Path) -> Any | None:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "tensorboard"))
