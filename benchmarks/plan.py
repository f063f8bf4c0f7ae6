"""Pack fill and planning time of patchpack's planner and of the paper's first-fit.

    python benchmarks/plan.py                              log-normal sizes, 1,000,000 images
    python benchmarks/plan.py --sizes sizes.csv            columns dataset,width,height,count

Images are drawn with replacement from each dataset's sizes, so all plans have the same length.
First-fit fills 256 open packs at a time: an image goes to the first pack with enough free slots,
and if it fits in none, all packs are closed (arXiv 2307.06304, App. A.3). `trimmed` is the cost of
filling packs exactly: the share of tokens that it drops. Each row runs in its own process on one
core; compare CPU seconds if the machine has other load.
"""

import argparse
import multiprocessing
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sizes import draw, log_normal_sizes, read_sizes

from patchpack.data.config import PackingConfig
from patchpack.data.packing.plan import ItemSizes, Plan, make_plan
from patchpack.data.packing.resolution import Native, Resolution, SampledArea

RESOLUTIONS: dict[str, Resolution] = {
    "sampled 64:256 px": SampledArea(low=64, high=256),
    "native": Native(),
}
OPEN_PACKS = 256
COLUMNS = (
    "dataset", "resolution", "budget", "images", "packs", "images/pack", "fill", "trimmed",
    "fill without trimming", "first-fit", "CPU seconds", "wall seconds", "peak RSS MiB",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Case:
    """One row of the table."""

    dataset: str
    sizes: np.ndarray  # [size, 3]: height, width, count
    resolution: str
    max_tokens: int
    images: int


def first_fit(lengths: np.ndarray, max_tokens: int) -> float:
    """Return the share of slots that hold a token under first-fit packing."""
    capacity = np.full(OPEN_PACKS, max_tokens)
    packs = 0
    for length in lengths.tolist():
        fits = capacity >= length
        first = int(fits.argmax())
        if not fits[first]:
            packs += OPEN_PACKS
            capacity[:] = max_tokens
            first = 0
        capacity[first] -= length
    packs += int((capacity < max_tokens).sum())
    return float(lengths.sum() / (packs * max_tokens))


def measure(case: Case) -> tuple[str, ...]:
    """Return the cells of a row."""
    rng = np.random.default_rng(0)
    heights, widths = draw(case.sizes, case.images).T

    def plan(fill: bool) -> Plan:
        packing = PackingConfig(
            patch_size=16,
            max_tokens=case.max_tokens,
            resolution=RESOLUTIONS[case.resolution],
            trim_to_fill=fill,
        )
        return make_plan(ItemSizes(heights, widths), packing, seed=0, epoch=0)

    start, cpu_start = time.perf_counter(), time.process_time()
    filled = plan(True)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    untrimmed = plan(False)
    lengths = filled.grids.prod(1)[np.argsort(rng.random(case.images))]
    return (
        case.dataset,
        case.resolution,
        f"{case.max_tokens}",
        f"{case.images}",
        f"{filled.num_packs}",
        f"{case.images / filled.num_packs:.1f}",
        f"{filled.fill:.3%}",
        f"{1 - filled.kept.sum() / lengths.sum():.3%}",
        f"{untrimmed.fill:.3%}",
        f"{first_fit(lengths, case.max_tokens):.2%}",
        f"{cpu_seconds:.1f}",
        f"{seconds:.1f}",
        f"{peak:.0f}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=Path, help="CSV of dataset,width,height,count")
    parser.add_argument("--datasets", nargs="+", help="datasets of the CSV; default: all")
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--max-tokens", type=int, nargs="+", default=[1024, 8192])
    options = parser.parse_args()
    datasets = read_sizes(options.sizes) if options.sizes else log_normal_sizes()
    cases = [
        Case(dataset=name, sizes=datasets[name], resolution=resolution, max_tokens=budget,
             images=options.images)
        for name in options.datasets or datasets
        for resolution in RESOLUTIONS
        for budget in options.max_tokens
    ]  # fmt: skip
    print("| " + " | ".join(COLUMNS) + " |")
    print("|" + "---|" * len(COLUMNS))
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as pool:
        for row in pool.map(measure, cases):
            print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
