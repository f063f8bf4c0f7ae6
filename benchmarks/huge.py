"""Packs with one huge image among small ones: time and memory relative to the sum of the parts.

    python benchmarks/huge.py [--tokens 4096 16384] [--small 500] [--model navit_ti16]

A training step (forward, loss, backward; bfloat16 if it is fast) runs on three packs, each in its
own process: one image of the given token count, the small images (4 to 25 tokens), and all of them
together. Attention inside images costs Σ nᵢ², so the last should equal the sum of the others; a
mask over the whole stream would cost (Σ nᵢ)². Memory is the peak RSS above that before the steps.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

import patchpack as pp
from patchpack.batch import PackedBatch
from patchpack.train.precision import autocast, choose_dtype

ROUNDS = 3


def make_pack(huge: int, small: int, patch_size: int = 16) -> PackedBatch:
    """Pack `small` images of 4 to 25 tokens and, unless 0, a square image of `huge` tokens."""
    rng = np.random.default_rng(0)
    side = int(huge**0.5)
    grids = [tuple(rng.integers(2, 6, 2)) for _ in range(small)] + [(side, side)] * bool(huge)
    images = [
        rng.integers(0, 256, (int(h) * patch_size, int(w) * patch_size, 3), np.uint8)
        for h, w in grids
    ]
    return pp.pack(images, patch_size=patch_size)


def measure(model_name: str, huge: int, small: int) -> dict[str, float]:
    """Return the median seconds of a step, and the peak MiB above the start."""
    device = torch.device("cpu")
    dtype = choose_dtype("auto", device)
    model = pp.create_model(model_name, num_classes=1000)
    batch = make_pack(huge, small)
    labels = torch.arange(batch.num_images) % 1000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(ROUNDS):
        model.zero_grad()
        start = time.perf_counter()
        with autocast(device, dtype):
            logits = model(batch)
        torch.nn.functional.cross_entropy(logits.float(), labels).backward()
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": statistics.median(seconds), "mib": (peak - before) / 1024}


def run_in_subprocess(model: str, huge: int, small: int) -> dict[str, float]:
    """Measure one pack in its own process."""
    command = [sys.executable, __file__, "--model", model, "--one", str(huge), str(small)]
    process = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(process.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="navit_ti16")
    parser.add_argument(
        "--tokens", type=int, nargs="+", default=[4096, 16384], help="of the huge image"
    )
    parser.add_argument("--small", type=int, default=500, help="number of small images")
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    parser.add_argument("--one", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.model, *options.one)))
        return
    lines = ["| pack | s | MiB | relative to the sum of its parts |", "|---|---|---|---|"]
    small = run_in_subprocess(options.model, 0, options.small)
    lines.append(
        f"| {options.small} small images | {small['seconds']:.2f} | {small['mib']:,.0f} | |"
    )
    for tokens in options.tokens:
        huge = run_in_subprocess(options.model, tokens, 0)
        both = run_in_subprocess(options.model, tokens, options.small)
        share = {key: both[key] / (huge[key] + small[key]) for key in both}
        lines += [
            f"| one image of {tokens:,} tokens | {huge['seconds']:.2f} | {huge['mib']:,.0f} | |",
            f"| both | {both['seconds']:.2f} | {both['mib']:,.0f} | "
            f"{share['seconds']:.2f} of the time, {share['mib']:.2f} of the memory |",
        ]
    print("\n".join(lines))
    if options.out:
        options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
