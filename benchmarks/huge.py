"""One huge image among small ones: time and memory of a pack beside those of its parts.

    python benchmarks/huge.py [--tokens 4096 16384] [--small 500] [--model navit_ti16]

A training step (forward, loss, backward; bfloat16 where it is fast) of three packs, each in a
process of its own: one image of so many tokens, the small images (4 to 25 tokens), and all of them
together. Attention that costs Σ nᵢ² makes the last the sum of the others; a mask over the whole
stream would cost (Σ nᵢ)². Memory is what the process held at most above what it held before.
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
    rng = np.random.default_rng(0)
    side = int(huge**0.5)
    grids = [tuple(rng.integers(2, 6, 2)) for _ in range(small)] + [(side, side)] * bool(huge)
    images = [
        rng.integers(0, 256, (int(h) * patch_size, int(w) * patch_size, 3), np.uint8)
        for h, w in grids
    ]
    return pp.pack(images, patch_size=patch_size)


def measure(model_name: str, huge: int, small: int) -> dict[str, float]:
    """Median seconds of a step, and MiB at the peak above the start."""
    device = torch.device("cpu")
    dtype = choose_dtype("auto", device)
    model = pp.create_model(model_name, num_classes=1000)
    batch = make_pack(huge, small)
    labels = torch.arange(batch.num_images) % 1000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(ROUNDS):
        model.zero_grad()
        began = time.perf_counter()
        with autocast(device, dtype):
            logits = model(batch)
        torch.nn.functional.cross_entropy(logits.float(), labels).backward()
        seconds.append(time.perf_counter() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": statistics.median(seconds), "mib": (peak - before) / 1024}


def in_process(model: str, huge: int, small: int) -> dict[str, float]:
    words = [sys.executable, __file__, "--model", model, "--one", str(huge), str(small)]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="navit_ti16")
    parser.add_argument("--tokens", type=int, nargs="+", default=[4096, 16384])
    parser.add_argument("--small", type=int, default=500)
    parser.add_argument("--out", type=Path, help="write the table to this file too")
    parser.add_argument("--one", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.model, *options.one)))
        return
    lines = ["| pack | s | MiB | of the sum of its parts |", "|---|---|---|---|"]
    small = in_process(options.model, 0, options.small)
    lines.append(
        f"| {options.small} small images | {small['seconds']:.2f} | {small['mib']:,.0f} | |"
    )
    for tokens in options.tokens:
        huge = in_process(options.model, tokens, 0)
        both = in_process(options.model, tokens, options.small)
        share = {key: both[key] / (huge[key] + small[key]) for key in both}
        lines += [
            f"| one of {tokens:,} tokens | {huge['seconds']:.2f} | {huge['mib']:,.0f} | |",
            f"| both | {both['seconds']:.2f} | {both['mib']:,.0f} | "
            f"{share['seconds']:.2f} of the time, {share['mib']:.2f} of the memory |",
        ]
    print("\n".join(lines))
    if options.out:
        options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
