"""Cost of a training step over tokens per image, images per pack, and threads.

    python benchmarks/scaling.py [--model navit_s16] [--out FILE.md]

Three tables. Each row is the median of five steps (forward, loss, backward), in bfloat16 if the
hardware supports it. The rows of a table are interleaved:

    tokens    about 4,096 tokens in images of equal length: attention's share of the cost grows
    images    packs with more and more images of 64 tokens: shows the fixed cost of a step
    threads   one pack of mixed images on 1, 2, … threads

GFLOP/s count useful operations (`training_flops`).
"""

import argparse
import os
import random
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from training_memory import full_pack

from patchpack.__main__ import keep_freed_memory, spin_briefly
from patchpack.batch import PackedBatch
from patchpack.model.presets import model_config
from patchpack.tasks.classification.model import Classifier
from patchpack.train.precision import autocast, choose_dtype

ROUNDS = 5
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def pack(lengths: Iterable[int], patch_dim: int) -> PackedBatch:
    """Return a pack of noise images with these token counts."""
    lengths = tuple(lengths)
    tokens = sum(lengths)
    x = torch.cat([torch.arange(length) for length in lengths]).int()
    coords = torch.stack([x // 64, x % 64], dim=1)
    return PackedBatch(
        patches=torch.randint(0, 256, (tokens, patch_dim), dtype=torch.uint8),
        coords=coords,
        grids=torch.full((len(lengths), 2), 64, dtype=torch.int32),
        lengths=lengths,
        targets={"label": torch.randint(0, 1000, (len(lengths),))},
    ).to(DEVICE)


def step(model: Classifier, batch: PackedBatch) -> None:
    """Run forward, loss and backward."""
    model.zero_grad()
    with autocast(DEVICE, choose_dtype("auto", DEVICE)):
        loss = model.loss(batch)
    loss.sum.backward()
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def medians(steps: dict[str, Callable[[], None]]) -> dict[str, float]:
    """Return the median seconds of each step over interleaved rounds, after a warmup round."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    shuffle = random.Random(0)
    for round_number in range(ROUNDS + 1):
        for name in shuffle.sample(list(steps), len(steps)):
            start = time.perf_counter()
            steps[name]()
            if round_number:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def table(title: str, model: Classifier, packs: dict[str, PackedBatch]) -> list[str]:
    """Return a Markdown table with one row per pack: time per step, image and token."""
    seconds_by_name = medians(
        {name: lambda b=batch: step(model, b) for name, batch in packs.items()}
    )
    lines = [f"| {title} | images | ms/step | ms/image | µs/token | GFLOP/s |", "|" + "---|" * 6]
    for name, seconds in seconds_by_name.items():
        batch = packs[name]
        flops = model.training_flops(batch)
        lines.append(
            f"| {name} | {batch.num_images} | {1e3 * seconds:.0f} | "
            f"{1e3 * seconds / batch.num_images:.2f} | {1e6 * seconds / batch.num_tokens:.1f} | "
            f"{flops / seconds / 1e9:.0f} |"
        )
    return [*lines, ""]


def threads_table(model: Classifier, batch: PackedBatch) -> list[str]:
    """Return a Markdown table with one row per thread count."""

    def on(threads: int) -> Callable[[], None]:
        def run() -> None:
            torch.set_num_threads(threads)
            step(model, batch)

        return run

    counts = [n for n in (1, 2, 4, 8, 16, 32, 64) if n <= len(os.sched_getaffinity(0))]
    seconds_by_count = medians({str(n): on(n) for n in counts})
    lines = ["| threads | ms/step | speed-up | efficiency |", "|---|---|---|---|"]
    for name, seconds in seconds_by_count.items():
        gain = seconds_by_count["1"] / seconds
        lines.append(f"| {name} | {1e3 * seconds:.0f} | {gain:.2f} | {gain / int(name):.0%} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="navit_s16")
    parser.add_argument("--out", type=Path, help="also write the tables to this file")
    options = parser.parse_args()
    torch.manual_seed(0)
    config = model_config(options.model)
    model = Classifier(config, 1000).to(DEVICE)
    by_tokens = {
        f"{n:,}": pack([n] * (4096 // n), config.patch_dim)
        for n in (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
    }
    by_images = {f"{64 * n:,}": pack([64] * n, config.patch_dim) for n in (1, 4, 16, 64, 128)}
    lines = table("tokens per image", model, by_tokens)
    lines += table("tokens per pack, 64 per image", model, by_images)
    if DEVICE.type == "cpu":
        lines += threads_table(model, full_pack(4096, config.patch_dim))
    print("\n".join(lines))
    if options.out:
        options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    spin_briefly()
    keep_freed_memory()
    main()
