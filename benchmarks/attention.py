"""Block-diagonal attention on CPUs, forward and backward: several implementations.

    python benchmarks/attention.py [--json]

Implementations are interleaved in one process after a warmup; times are medians of ten. `dense`
uses one block-diagonal mask, `each image` one fused call per image, `each length` one fused call
per group of images of equal length, and `tiled` is the implementation of the models. Speeds count
useful operations: 4 Σn² · dim forward, 8 Σn² · dim backward.
"""

import argparse
import json
import random
import statistics
import time
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor

from patchpack.__main__ import keep_freed_memory, spin_briefly
from patchpack.batch import Segments
from patchpack.model.attention import attend_dense, attend_tiled
from patchpack.model.attention_layout import AttentionLayout

ROUNDS = 10
HEAD_DIM = 64
CPU = torch.device("cpu")


def attend_each(q: Tensor, k: Tensor, v: Tensor, layout: AttentionLayout) -> Tensor:
    """Attention with one fused call per image."""
    return _in_runs(q, k, v, [(n, 1) for n in layout.queries.lengths])


def attend_by_length(q: Tensor, k: Tensor, v: Tensor, layout: AttentionLayout) -> Tensor:
    """Attention with one fused call per run of images of equal length."""
    runs = [(n, len(list(group))) for n, group in groupby(layout.queries.lengths)]
    return _in_runs(q, k, v, runs)


def _in_runs(q: Tensor, k: Tensor, v: Tensor, runs: list[tuple[int, int]]) -> Tensor:
    sizes = [n * count for n, count in runs]
    outs = []
    for (n, _), *qkv in zip(runs, q.split(sizes), k.split(sizes), v.split(sizes), strict=True):
        images = [x.unflatten(0, (-1, n)).transpose(1, 2) for x in qkv]
        outs.append(F.scaled_dot_product_attention(*images).transpose(1, 2).flatten(0, 1))
    return torch.cat(outs)


IMPLEMENTATIONS = {
    "dense": attend_dense,
    "each image": attend_each,
    "each length": attend_by_length,
    "tiled": attend_tiled,
}


def packs() -> dict[str, tuple[tuple[int, ...], int]]:
    """Return (sorted image lengths, attention heads) by the name of the case."""
    draw = random.Random(0)
    small = [max(2, min(256, int(draw.lognormvariate(3.4, 0.7)))) for _ in range(75)]
    photographs = [draw.randint(4, 16) * draw.randint(4, 16) for _ in range(32)]
    tiny = [draw.choice([1, 4, 9, 12, 15, 16, 20, 25]) for _ in range(512)]
    cases = {
        "75 images of 2 to 256 tokens": (small, 3),
        "32 images of 16 to 256 tokens": (photographs, 6),
        "512 images of 1 to 25 tokens": (tiny, 3),
        "50 images of 64 tokens": ([64] * 50, 3),
        "12 images of 300 to 500 tokens": ([300, 400, 450, 500] * 3, 6),
        "4 images of 1024 tokens": ([1024] * 4, 6),
    }
    return {name: (tuple(sorted(lengths)), heads) for name, (lengths, heads) in cases.items()}


def measure(lengths: tuple[int, ...], heads: int, dtype: torch.dtype) -> dict[str, float]:
    """Return the median seconds of forward and backward by implementation."""
    layout = AttentionLayout.within(Segments(lengths, CPU))
    shape = (sum(lengths), 3, heads, HEAD_DIM)
    qkv, weight = torch.randn(shape, dtype=dtype), torch.randn(shape, dtype=dtype)[:, 0]
    seconds: dict[str, list[float]] = {name: [] for name in IMPLEMENTATIONS}
    for _ in range(ROUNDS + 1):
        for name, attend in IMPLEMENTATIONS.items():
            tensors = [x.detach().requires_grad_() for x in qkv.unbind(1)]
            start = time.perf_counter()
            torch.autograd.grad(attend(*tensors, layout), tensors, weight)
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON, not a table")
    options = parser.parse_args()
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        for name, (lengths, heads) in packs().items():
            flops = 12 * sum(n * n for n in lengths) * heads * HEAD_DIM
            for implementation, seconds in measure(lengths, heads, dtype).items():
                rows.append({
                    "pack": name, "dtype": str(dtype).removeprefix("torch."), "way": implementation,
                    "ms": round(seconds * 1e3, 2), "gflops_per_s": round(flops / seconds / 1e9, 1),
                })  # fmt: skip
    if options.json:
        print(json.dumps({"threads": torch.get_num_threads(), "rows": rows}))
        return
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}; ms (useful GFLOP/s)")
    print("| pack | dtype |", " | ".join(IMPLEMENTATIONS), "|")
    print("|---" * (len(IMPLEMENTATIONS) + 2) + "|")
    for (pack, dtype), cells in groupby(rows, key=lambda row: (row["pack"], row["dtype"])):
        times = " | ".join(f"{row['ms']} ({row['gflops_per_s']})" for row in cells)
        print(f"| {pack} | {dtype} | {times} |")


if __name__ == "__main__":
    spin_briefly()
    keep_freed_memory()
    main()
