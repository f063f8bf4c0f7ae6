"""What a run says while it runs: a live line, a JSONL file, and TensorBoard where it is installed.

The JSONL file is the record: one object a line, `{"kind": "train", "step": 10, "loss": 2.31, …}`.
A resumed run drops the lines after the step it resumes from, so the record reads as if the run had
never stopped.
"""

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table

from patchpack.checkpoint import write_text_atomic
from patchpack.data.images import BadImage

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
    """The record of one run, shown live on a terminal and as plain lines elsewhere."""

    def __init__(
        self, folder: Path | None, *, resume_step: int, resume_done: float, live: bool
    ) -> None:
        """`folder` is None in the processes that keep no record; `done` is the share of the run."""
        self._is_writer = folder is not None
        self.console = Console(stderr=True, markup=False, highlight=False)
        path = folder / "log.jsonl" if folder else Path(os.devnull)
        if folder and resume_step:
            _truncate_after(path, resume_step)
        self._file: TextIO = path.open("a" if resume_step else "w")
        self._board = _tensorboard(folder) if folder else None
        self._latest: dict[str, float] = {}
        self._evaluated: dict[str, float] = {}
        self._began, self._began_done, self._done = time.monotonic(), resume_done, resume_done
        self._live = None
        if live and self.console.is_terminal:
            self._live = Live(console=self.console, refresh_per_second=4, transient=True)
            self._live.start()
        self._lines = live and self._live is None

    def train(self, step: int, done: float, values: dict[str, float]) -> None:
        self._latest, self._done = values, min(1.0, done)
        self._write("train", step, values)
        if self._live:
            self._live.update(self._table(step))
        elif self._lines:
            self.console.print(self._line(step, values), soft_wrap=True)

    def evaluation(self, step: int, values: dict[str, float]) -> None:
        self._evaluated = values
        self._write("eval", step, values)
        if self._lines:
            text = "  ".join(f"{k} {v:.4f}" for k, v in values.items())
            self.console.print(f"step {step}  {text}", soft_wrap=True)

    def message(self, text: str) -> None:
        """Something a person should read, above the live display; said by one process."""
        if self._is_writer:
            self.console.print(text, soft_wrap=True)

    def note(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Something for the record only."""
        self._write(kind, step, values)

    def log_unreadable(self, step: int, errors: Sequence[BadImage]) -> None:
        """Images that could not be read."""
        for error in errors:
            self.message(f"left out: {error}")
            self.note("bad_image", step, {"error": str(error)})

    def close(self) -> None:
        if self._live:
            self._live.stop()
        self._file.close()
        if self._board:
            self._board.close()

    def _write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        self._file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        self._file.flush()
        if self._board and kind in ("train", "eval"):
            for name, value in values.items():
                self._board.add_scalar(f"{kind}/{name}", value, step)

    def _place(self, step: int) -> str:
        return f"step {step:,} ({self._done:.0%})"

    def _left(self) -> str:
        """Minutes and seconds, at the pace of this process."""
        since = self._done - self._began_done
        if since <= 0:
            return "?"
        left = (time.monotonic() - self._began) / since * (1 - self._done)
        return f"{int(left // 60)}:{int(left % 60):02d}"

    def _line(self, step: int, values: dict[str, float]) -> str:
        shown = (f"{title} {form.format(values[key])}" for key, title, form in TRAIN_COLUMNS)
        return f"{self._place(step)}  " + "  ".join(shown) + f"  left {self._left()}"

    def _table(self, step: int) -> Table:
        table = Table.grid(padding=(0, 2))
        table.add_row(*self._place(step).split(" ", 1), "left", self._left())
        cells = [(title, form.format(self._latest[key])) for key, title, form in TRAIN_COLUMNS]
        for left, right in zip(cells[::2], cells[1::2], strict=True):
            table.add_row(*left, *right)
        for name, value in self._evaluated.items():
            table.add_row(name, f"{value:.4f}")
        return table


def read_log(path: Path, kind: str) -> list[dict[str, Any]]:
    """The lines of one kind; a last line cut short by a crash is left out."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    records = [json.loads(line) for line in lines if line.endswith("\n")]
    return [record for record in records if record["kind"] == kind]


def _truncate_after(path: Path, step: int) -> None:
    """Drop the lines that a resumed run will write again."""
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
