"""Whole runs through the command: to the first step, to the end, and waiting for data.

    python benchmarks/runs.py [--data DIR] [--steps 60] [--rounds 2] [--out FILE.md]

`patchpack train recipes/caltech40.py` for a fixed number of steps, its classes and images those of
DIR (train/, val/), or of the generated set of `patchpack demo`. The same run, interleaved:

    foreground     images are loaded between steps, compute on all cores
    threads        loaded ahead by two threads: the recipe's own setting
    processes      loaded ahead by one process
    1 thread       compute on one core, loaded between steps
    2 processes    torchrun with two processes of one thread each, gradients shared over gloo

Rates leave out the first two logged steps. Efficiency of two processes is their rate over twice
that of `1 thread`. Before the runs: what importing costs, beside PyTorch alone.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from patchpack.demo.shapes import write_images
from patchpack.train.log import read_log

RECIPE = Path(__file__).parents[1] / "recipes" / "caltech40.py"
CORES = len(os.sched_getaffinity(0))


class Setting(NamedTuple):
    """How a run is started."""

    processes: int
    threads: int
    options: tuple[str, ...]


FOREGROUND = ("--data.loader.workers", "0")
SETTINGS = {
    "foreground": Setting(1, CORES, FOREGROUND),
    "threads": Setting(1, CORES, ()),
    "processes": Setting(
        1, CORES, ("--data.loader.workers", "1", "--data.loader.kind", "processes")
    ),
    "1 thread": Setting(1, 1, FOREGROUND),
    "2 processes": Setting(2, 1, FOREGROUND),
}


class Run(NamedTuple):
    """What one run took."""

    first_step: float  # seconds from the command to the first step's line in the log
    all_steps: float  # seconds from the command to its end
    tokens_per_s: float
    data_wait: float


def import_seconds(statement: str) -> float:
    """In a new interpreter, the best of five."""

    def once() -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", statement], check=True)
        return time.perf_counter() - began

    return min(once() for _ in range(5))


def train(setting: Setting, data: Path, out: Path, steps: int) -> Run:
    command = [sys.executable, "-m"]
    if setting.processes > 1:
        command += ["torch.distributed.run", "--nproc-per-node", str(setting.processes), "-m"]
    command += [
        "patchpack", "train", str(RECIPE), "--data.root", str(data), "--out", str(out),
        "--train.steps", str(steps), "--train.log-every", "1", *setting.options,
    ]  # fmt: skip
    log, first = out / "log.jsonl", 0.0
    began = time.perf_counter()
    process = subprocess.Popen(
        command,
        env={**os.environ, "OMP_NUM_THREADS": str(setting.threads)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None:
        if not first and log.exists() and '"train"' in log.read_text():
            first = time.perf_counter() - began
        time.sleep(0.02)
    seconds = time.perf_counter() - began
    if process.returncode:
        assert process.stderr is not None
        raise SystemExit(f"{' '.join(command)} failed:\n{process.stderr.read()}")
    lines = list(read_log(log, "train"))[2:]
    rate, wait = (statistics.median(line[key] for line in lines) for key in Run._fields[2:])
    return Run(first, seconds, rate, wait)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, help="write FILE.json and FILE.md")
    options = parser.parse_args()
    # `import patchpack` alone loads nothing; all of its names load everything.
    imports = {
        "torch": import_seconds("import torch"),
        "patchpack": import_seconds("from patchpack import *"),
    }
    found: dict[str, list[Run]] = {name: [] for name in SETTINGS}
    with tempfile.TemporaryDirectory() as folder:
        data = options.data or Path(folder) / "images"
        if options.data is None:
            write_images(data)
        for number in range(options.rounds):
            for name, setting in SETTINGS.items():
                out = Path(folder) / f"{name}-{number}"
                found[name].append(train(setting, data.resolve(), out, options.steps))
    medians = {
        name: Run(*map(statistics.median, zip(*runs, strict=True))) for name, runs in found.items()
    }
    efficiency = medians["2 processes"].tokens_per_s / (2 * medians["1 thread"].tokens_per_s)
    lines = [
        f"| {options.steps} steps | s to the first | s to the end | tokens/s | waiting for data |",
        "|---|---|---|---|---|",
        *(
            f"| {name} | {run.first_step:.1f} | {run.all_steps:.1f} | {run.tokens_per_s:,.0f} | "
            f"{run.data_wait:.1%} |"
            for name, run in medians.items()
        ),
        "",
        f"Two processes do {efficiency:.0%} of twice the work of one. Importing takes "
        f"{imports['patchpack']:.2f} s, PyTorch alone {imports['torch']:.2f} s.",
    ]
    print("\n".join(lines))
    if options.out:
        runs = {name: [run._asdict() for run in each] for name, each in found.items()}
        found_all = {"imports": imports, "efficiency": efficiency, "runs": runs}
        options.out.with_suffix(".json").write_text(json.dumps(found_all, indent=1))
        options.out.with_suffix(".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
