"""Memory and time of the chunked contrastive losses and of the full logit matrix.

    python benchmarks/contrastive_memory.py [--pairs 32768] [--json]

Each form runs one forward and backward pass in its own process. Memory is the peak RSS above the
vectors and their gradients.
"""

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from patchpack.tasks.contrastive.loss import sigmoid_contrastive, softmax_contrastive

Total = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def naive_softmax(images: Tensor, texts: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Return the summed softmax loss from the full logit matrix."""
    logits = (scale * images) @ texts.T
    both = logits.logsumexp(1).sum() + logits.logsumexp(0).sum()
    return 0.5 * both - logits.diagonal().sum()


def naive_sigmoid(images: Tensor, texts: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Return the summed sigmoid loss from the full logit matrix."""
    logits = torch.addmm(bias, scale * images, texts.T)
    return F.softplus(logits).sum() - logits.diagonal().sum()


LOSSES: dict[str, dict[str, Total]] = {
    "softmax": {
        "chunked": lambda i, t, scale, bias: softmax_contrastive(i, t, scale).sum,
        "naive": naive_softmax,
    },
    "sigmoid": {
        "chunked": lambda i, t, scale, bias: sigmoid_contrastive(i, t, scale, bias).sum,
        "naive": naive_sigmoid,
    },
}


def status_gib(field: str) -> float:
    """Return a memory field of this process from /proc/self/status, in GiB (Linux only)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 2**20
    raise RuntimeError(f"/proc/self/status has no {field}")


def measure(kind: str, form: str, pairs: int, dim: int) -> dict[str, float]:
    """Run one pass in this process."""
    torch.manual_seed(0)
    images, texts = (F.normalize(torch.randn(pairs, dim), dim=1) for _ in range(2))
    tensors = [t.requires_grad_() for t in (images, texts, torch.tensor(10.0), torch.tensor(-10.0))]
    for tensor in tensors:
        tensor.grad = torch.zeros_like(tensor)
    _ = images.detach()[:256] @ texts.detach()[:256].T  # allocates the BLAS buffers
    before = status_gib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak
    start = time.perf_counter()
    loss = LOSSES[kind][form](*tensors)
    loss.backward()
    return {
        "peak_extra_gib": round(status_gib("VmHWM") - before, 3),
        "seconds": round(time.perf_counter() - start, 2),
        "loss_per_pair": round(float(loss.detach()) / pairs, 6),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=32_768)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--loss", choices=LOSSES, default="softmax")
    parser.add_argument("--json", action="store_true")
    parser.add_argument(
        "--form", choices=["chunked", "naive"], help="measure one form in this process"
    )
    options = parser.parse_args()
    if options.form:
        print(json.dumps(measure(options.loss, options.form, options.pairs, options.dim)))
        return
    results = {form: run_in_subprocess(form) for form in ("chunked", "naive")}
    record = {
        "loss": options.loss, "pairs": options.pairs, "dim": options.dim,
        "torch": torch.__version__, "threads": torch.get_num_threads(),
        **results["chunked"], "naive": results["naive"],
    }  # fmt: skip
    if options.json:
        print(json.dumps(record))
        return
    for form, values in results.items():
        print(f"{form:8}", ", ".join(f"{name} {value}" for name, value in values.items()))


def run_in_subprocess(form: str) -> dict[str, Any]:
    """Measure one form with the options of this process; report if it runs out of memory."""
    command = [sys.executable, __file__, *sys.argv[1:], "--form", form]
    process = subprocess.run(command, stdout=subprocess.PIPE)
    if process.returncode == -signal.SIGKILL:
        return {"failed": "out of memory"}
    process.check_returncode()
    return json.loads(process.stdout)


if __name__ == "__main__":
    main()
