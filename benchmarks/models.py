"""Training step and inference of every contender on the same images, in one process.

    python benchmarks/models.py --sizes image_sizes.csv [--cases imagenet-s …] [--out FILE]

Rounds are interleaved, so that other load affects all contenders equally: each round runs every
contender once in a random order; the first round is a warmup. The table has medians, with quartiles
in brackets. `useful` counts only operations on the images' tokens (one forward pass, times three
for a training step). `share` is relative to the machine's matrix product of two 2048 x 2048 (GPU:
8192 x 8192) matrices in the same precision, measured before and after. A training step is forward,
loss and backward, without the optimizer, which is the same for all. Compiled contenders run by
default on GPUs only.
"""

import argparse
import gc
import json
import platform
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from contenders import BUILDERS, Contender, Images, Shape, useful_flops
from sizes import draw, log_normal_sizes, read_sizes
from torch import nn

from patchpack.__main__ import keep_freed_memory, spin_briefly
from patchpack.data.packing.resolution import Native, Resolution, SampledArea

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TI, S, B, L = ({"dim": dim, "heads": dim // 64} for dim in (192, 384, 768, 1024))
PHOTOGRAPHS: Resolution = SampledArea(low=64, high=256)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A benchmark case: image sizes and model size."""

    dataset: str  # in the CSV of sizes
    resolution: Resolution
    shape: Shape
    images: int = 32


CASES = {
    "imagenet-ti": Case(dataset="imagenet_sample1000", resolution=PHOTOGRAPHS, shape=Shape(**TI)),
    "imagenet-s": Case(dataset="imagenet_sample1000", resolution=PHOTOGRAPHS, shape=Shape(**S)),
    "imagenet-b": Case(
        dataset="imagenet_sample1000", resolution=PHOTOGRAPHS, shape=Shape(**B), images=16
    ),
    "caltech-s": Case(
        dataset="caltech40", resolution=Native(max_tokens=256), shape=Shape(**S), images=16
    ),
    "plankton-ti": Case(
        dataset="plankton33",
        resolution=Native(max_tokens=256),
        shape=Shape(**TI, patch_size=8),
        images=64,
    ),
    "tiny": Case(dataset="tiny", resolution=Native(), shape=Shape(**TI), images=512),
}
if DEVICE.type == "cuda":
    CASES |= {
        name: Case(
            dataset="imagenet_sample1000", resolution=PHOTOGRAPHS, shape=shape, images=images
        )
        for name, shape, images in (
            ("imagenet-b", Shape(**B), 512),
            ("imagenet-l", Shape(**L, depth=24), 256),
        )
    }


def tiny_sizes() -> np.ndarray:
    """Return sizes of 16 px height and 32 to 80 px width."""
    return np.array([[16, width, 1] for width in range(32, 81, 16)])


def make_images(case: Case, sizes: np.ndarray) -> Images:
    """Return noise images at the sizes of the case's resolution rule."""
    heights, widths = draw(sizes, case.images).T
    rng = np.random.default_rng(0)
    p = case.shape.patch_size
    grids = case.resolution.grids(heights, widths, patch_size=p, max_tokens=4096, rng=rng)
    return [rng.integers(0, 256, (int(h) * p, int(w) * p, 3), np.uint8) for h, w in grids]


def train_step(contender: Contender, dtype: torch.dtype) -> None:
    """Run forward, loss and backward."""
    contender.module.zero_grad()
    with _precision(dtype):
        logits = contender.logits()
    labels = torch.arange(len(logits), device=DEVICE) % logits.shape[1]
    F.cross_entropy(logits.float(), labels).backward()


@torch.inference_mode()
def infer(contender: Contender, dtype: torch.dtype) -> None:
    """Run the forward pass without gradients."""
    with _precision(dtype):
        contender.logits()


def round_matrices(module: nn.Module, dtype: torch.dtype) -> None:
    """Convert linear layers to the compute precision, as for deployment."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            layer.to(dtype)


def _precision(dtype: torch.dtype) -> torch.autocast:
    return torch.autocast(DEVICE.type, torch.bfloat16, enabled=dtype == torch.bfloat16)


def wait() -> None:
    """Wait until the device has finished all queued work."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


# The timed function and its operations relative to a forward pass.
MODES: dict[str, tuple[Callable[[Contender, torch.dtype], None], int]] = {
    "training": (train_step, 3),
    "inference": (infer, 1),
}


def measure(
    contenders: list[Contender], mode: str, dtype: torch.dtype, rounds: int
) -> dict[str, list[float] | str]:
    """Return the seconds of each round, or the error of a contender that fails."""
    run, _ = MODES[mode]
    seconds: dict[str, list[float] | str] = {contender.name: [] for contender in contenders}
    shuffle = random.Random(0)
    for contender in contenders:
        round_matrices(contender.module, dtype if mode == "inference" else torch.float32)
    for round_number in range(rounds + 1):
        for contender in shuffle.sample(contenders, len(contenders)):
            times = seconds[contender.name]
            if isinstance(times, str):
                continue
            contender.module.train(mode == "training")
            wait()
            start = time.perf_counter()
            try:
                run(contender, dtype)
                wait()
            except Exception as error:  # a failing contender is a result
                seconds[contender.name] = f"{type(error).__name__}: {error}".splitlines()[0]
                continue
            if round_number:
                times.append(time.perf_counter() - start)
    return seconds


def matmul_gflops(dtype: torch.dtype) -> float:
    """Return the machine's peak GFLOP/s: the best of twelve products of square matrices."""
    side = 8192 if DEVICE.type == "cuda" else 2048
    a = torch.randn(side, side, dtype=dtype, device=DEVICE)
    best = float("inf")
    for _ in range(12):
        wait()
        start = time.perf_counter()
        a @ a
        wait()
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best / 1e9


def rows_of(name: str, sizes: np.ndarray, names: list[str], rounds: int) -> list[dict]:
    """Return the result rows of one case."""
    case = CASES[name]
    images = make_images(case, sizes)
    flops = useful_flops(case.shape, images)
    torch.manual_seed(0)
    contenders = [BUILDERS[contender](case.shape, images).on(DEVICE) for contender in names]
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        for mode, (_, passes) in MODES.items():
            before = matmul_gflops(dtype)
            seconds = measure(contenders, mode, dtype, rounds)
            peak = max(before, matmul_gflops(dtype))
            for contender, times in seconds.items():
                row = {"case": name, "what": mode, "dtype": str(dtype)[6:], "contender": contender}
                if isinstance(times, str):
                    rows.append({**row, "error": times})
                    continue
                low, median, high = statistics.quantiles(times, n=4)
                gflops = passes * flops / median / 1e9
                rows.append({
                    **row, "seconds": median, "quartiles": [low, high],
                    "images_per_s": len(images) / median, "useful_gflops_per_s": gflops,
                    "matmul_gflops_per_s": peak, "share": gflops / peak,
                })  # fmt: skip
    del contenders
    gc.collect()
    return rows


def table(rows: list[dict]) -> str:
    """Return a Markdown table, one line per contender, with times relative to patchpack."""
    lines = ["| case | mode | precision | contender | ms | useful GFLOP/s | share | × patchpack |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    ours: dict[tuple, float] = {
        (row["case"], row["what"], row["dtype"]): row["seconds"]
        for row in rows
        if row["contender"] == "patchpack"
    }
    for row in rows:
        head = f"| {row['case']} | {row['what']} | {row['dtype']} | {row['contender']} |"
        if "error" in row:
            lines.append(f"{head} fails: {row['error'][:80]} | | | |")
            continue
        low, high = (1e3 * q for q in row["quartiles"])
        ratio = row["seconds"] / ours.get((row["case"], row["what"], row["dtype"]), float("nan"))
        lines.append(
            f"{head} {1e3 * row['seconds']:.0f} ({low:.0f}-{high:.0f}) | "
            f"{row['useful_gflops_per_s']:.0f} | {row['share']:.0%} | {ratio:.2f} |"
        )
    return "\n".join(lines)


def _default_contenders() -> list[str]:
    """On CPUs, omit compiled models: compiling is slow and gains a few percent (docs/log.md)."""
    return [name for name in BUILDERS if DEVICE.type == "cuda" or "compiled" not in name]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=Path, help="CSV of dataset,width,height,count")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--contenders", nargs="+", choices=BUILDERS, default=_default_contenders())
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, help="update FILE.json and FILE.md; other cases stay")
    options = parser.parse_args()
    datasets = {**(read_sizes(options.sizes) if options.sizes else {}), "tiny": tiny_sizes()}
    (fallback,) = log_normal_sizes().values()
    machine = {
        "machine": torch.cuda.get_device_name() if DEVICE.type == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__, "sizes": str(options.sizes and options.sizes.name),
    }  # fmt: skip
    path = options.out and options.out.with_suffix(".json")
    rows = json.loads(path.read_text())["rows"] if path and path.exists() else []
    rows = [row for row in rows if row["case"] not in options.cases]
    for name in options.cases:
        sizes = datasets.get(CASES[name].dataset, fallback)
        rows += rows_of(name, sizes, options.contenders, options.rounds)
        print(table([row for row in rows if row["case"] == name]), flush=True)
        if options.out:
            path.write_text(json.dumps({**machine, "rows": rows}, indent=1))
            options.out.with_suffix(".md").write_text(table(rows) + "\n")


if __name__ == "__main__":
    spin_briefly()
    keep_freed_memory()
    main()
