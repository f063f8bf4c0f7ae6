"""Peak memory (RSS) of training steps.

    python benchmarks/training_memory.py [--model navit_s16] [--max-tokens 8192]

Packs are full of images of 64 to 256 px. Memory includes the optimizer state and the gradients.
"""

import argparse
import json
import random
import resource
import time
from dataclasses import replace

import torch

from patchpack.batch import PackedBatch
from patchpack.config import RunConfig
from patchpack.data.loader import LoadedPack
from patchpack.distributed import World
from patchpack.model.presets import model_config
from patchpack.tasks.classification.model import Classifier
from patchpack.train.loop import Trainer
from patchpack.train.precision import choose_dtype


def full_pack(max_tokens: int, patch_dim: int) -> PackedBatch:
    """Return a full pack of images of 16 to 256 tokens; the last image is cut to fill it."""
    draw = random.Random(0)
    lengths: list[int] = []
    while (free := max_tokens - sum(lengths)) > 0:
        lengths.append(min(free, draw.randint(16, 256)))
    lengths.sort()
    return PackedBatch(
        patches=torch.randint(0, 256, (max_tokens, patch_dim), dtype=torch.uint8),
        coords=torch.randint(0, 16, (max_tokens, 2), dtype=torch.int32),
        grids=torch.full((len(lengths), 2), 16, dtype=torch.int32),
        lengths=tuple(lengths),
        targets={"label": torch.randint(0, 1000, (len(lengths),))},
    )


def peak_gib() -> float:
    """Return the peak RSS of this process in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="navit_s16")
    parser.add_argument("--max-tokens", type=int, default=8192)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--activation-checkpointing", action="store_true")
    options = parser.parse_args()
    config = RunConfig(model=model_config(options.model))
    train = replace(config.train, activation_checkpointing=options.activation_checkpointing)
    world, dtype = World(), choose_dtype("auto", torch.device("cpu"))
    trainer = Trainer(Classifier(config.model, 1000), train, config.optim, world, dtype)
    before = peak_gib()
    pack = full_pack(options.max_tokens, config.model.patch_dim)
    start = time.perf_counter()
    for step in range(options.steps):
        trainer.step([LoadedPack(batch=pack, epoch=0, step=step)], stop=False)
    seconds = (time.perf_counter() - start) / options.steps
    print(json.dumps({
        **vars(options), "dtype": str(dtype), "torch": torch.__version__,
        "threads": torch.get_num_threads(), "before_gib": round(before, 2),
        "peak_gib": round(peak_gib(), 2), "seconds_per_step": round(seconds, 2),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
