"""Whole training runs from the command line: startup, throughput and data wait.

    python benchmarks/runs.py [--data DIR] [--steps 60] [--rounds 2] [--out FILE.md]

`patchpack train recipes/caltech40.py` runs for a fixed number of steps on the images of DIR
(train/, val/) or on the generated dataset of `patchpack demo`. The settings are interleaved:

    foreground     images are loaded between steps, compute on all cores
    threads        two threads prefetch: the setting of the recipe
    processes      one process prefetches
    1 thread       compute on one core, images are loaded between steps
    2 processes    torchrun with two processes of one thread each, gradients averaged over gloo

Rates exclude the first two logged steps. The efficiency of two processes is their rate divided by
twice the rate of `1 thread`. Import times of patchpack and of PyTorch only are measured first.
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
    """Processes, threads per process and options of a run."""

    processes: int
    threads: int
    options: tuple[str, ...]


FOREGROUND = ("--data.loader.workers", "0")
SETTINGS = {
    "foreground": Setting(1, CORES, FOREGROUND),
    "threads": Setting(1, CORES, ()),
    "processes": Setting(
        1, CORES, ("--data.loader.workers", "1", "--data.loader.worker-type", "processes")
    ),
    "1 thread": Setting(1, 1, FOREGROUND),
    "2 processes": Setting(2, 1, FOREGROUND),
}


class Run(NamedTuple):
    """The timings of one run."""

    first_step: float  # seconds from the command to the first logged step
    all_steps: float  # seconds from the command to its end
    tokens_per_s: float
    data_wait: float  # share of time, in [0, 1]


def import_seconds(statement: str) -> float:
    """Return the seconds of a statement in a new interpreter, the minimum of five."""

    def once() -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", statement], check=True)
        return time.perf_counter() - start

    return min(once() for _ in range(5))


def train(setting: Setting, data: Path, out: Path, steps: int) -> Run:
    """Run one training; raise SystemExit if it fails."""
    command = [sys.executable, "-m"]
    if setting.processes > 1:
        command += ["torch.distributed.run", "--nproc-per-node", str(setting.processes), "-m"]
    command += [
        "patchpack", "train", str(RECIPE), "--data.root", str(data), "--out", str(out),
        "--train.steps", str(steps), "--train.log-every", "1", *setting.options,
    ]  # fmt: skip
    log, first = out / "log.jsonl", 0.0
    start = time.perf_counter()
    process = subprocess.Popen(
        command,
        env={**os.environ, "OMP_NUM_THREADS": str(setting.threads)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None:
        if not first and log.exists() and '"train"' in log.read_text():
            first = time.perf_counter() - start
        time.sleep(0.02)
    seconds = time.perf_counter() - start
    if process.returncode:
        assert process.stderr is not None
        raise SystemExit(f"{' '.join(command)} failed:\n{process.stderr.read()}")
    lines = list(read_log(log, "train"))[2:]
    rate, wait = (statistics.median(line[key] for line in lines) for key in Run._fields[2:])
    return Run(first, seconds, rate, wait)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of images; default: generated")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, help="write FILE.json and FILE.md")
    options = parser.parse_args()
    # `import patchpack` is lazy; importing all names loads all modules.
    imports = {
        "torch": import_seconds("import torch"),
        "patchpack": import_seconds("from patchpack import *"),
    }
    results: dict[str, list[Run]] = {name: [] for name in SETTINGS}
    with tempfile.TemporaryDirectory() as folder:
        data = options.data or Path(folder) / "images"
        if options.data is None:
            write_images(data)
        for number in range(options.rounds):
            for name, setting in SETTINGS.items():
                out = Path(folder) / f"{name}-{number}"
                results[name].append(train(setting, data.resolve(), out, options.steps))
    medians = {
        name: Run(*map(statistics.median, zip(*runs, strict=True)))
        for name, runs in results.items()
    }
    efficiency = medians["2 processes"].tokens_per_s / (2 * medians["1 thread"].tokens_per_s)
    lines = [
        f"| {options.steps} steps | s to first step | s to end | tokens/s | data wait |",
        "|---|---|---|---|---|",
        *(
            f"| {name} | {run.first_step:.1f} | {run.all_steps:.1f} | {run.tokens_per_s:,.0f} | "
            f"{run.data_wait:.1%} |"
            for name, run in medians.items()
        ),
        "",
        f"Two processes: {efficiency:.0%} scaling efficiency. Import: "
        f"{imports['patchpack']:.2f} s, PyTorch only {imports['torch']:.2f} s.",
    ]
    print("\n".join(lines))
    if options.out:
        runs = {name: [run._asdict() for run in each] for name, each in results.items()}
        record = {"imports": imports, "efficiency": efficiency, "runs": runs}
        options.out.with_suffix(".json").write_text(json.dumps(record, indent=1))
        options.out.with_suffix(".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
