"""Image-text pairs for tests: plain and striped images, and captions with their color."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from patchpack.config import RunConfig
from patchpack.data.config import DataConfig
from patchpack.data.loader import LoaderConfig
from patchpack.data.transforms.augment import Augment
from patchpack.model.navit import NaViTConfig
from patchpack.model.text import TextConfig
from patchpack.tasks.contrastive.model import ContrastiveConfig
from patchpack.train.config import TrainConfig
from patchpack.train.optim import OptimConfig

COLORS = {"red": (255, 0, 0), "green": (0, 200, 0), "blue": (0, 0, 255), "gray": (128, 128, 128)}
TEXT = TextConfig(dim=16, depth=1, num_heads=2, mlp_dim=32, vocab_size=300, max_length=16)


def write_pairs(root: Path, per_split: dict[str, int], seed: int = 0) -> Path:
    """Write root/captions.jsonl and images of one color, plain or striped, with two captions."""
    rng = np.random.default_rng(seed)
    root.mkdir(parents=True, exist_ok=True)
    lines = []
    for split, count in per_split.items():
        for number in range(count):
            color = list(COLORS)[number % 4]
            striped = number // 4 % 2 == 1
            h, w = rng.integers(10, 36, 2)
            stripes = np.mgrid[:h, :w][1] // 3 % 2 if striped else np.ones((h, w))
            pixels = stripes[..., None] * np.array(COLORS[color]) + rng.integers(0, 20, (h, w, 1))
            name = f"{split}{number}.png"
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / name)
            kind = "stripes" if striped else "plain"
            lines.append({
                "path": name, "split": split, "label": f"{color} {kind}", "side": number % 2,
                "captions": [f"{color} {kind}", f"an image of {color} {kind}"],
            })  # fmt: skip
    path = root / "captions.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def tiny_pairs(root: Path, out: Path, steps: int = 8, **task: object) -> RunConfig:
    return RunConfig(
        out=out,
        data=DataConfig(
            root=root, max_tokens=300, max_text_tokens=200, eval_tokens=64,
            augment=Augment(flip="horizontal"), loader=LoaderConfig(workers=1),
        ),
        model=NaViTConfig(dim=16, depth=1, num_heads=2, mlp_dim=32, patch_size=4),
        task=ContrastiveConfig(**{"text": TEXT, "dim": 8, **task}),
        optim=OptimConfig(optimizer="muon", lr=3e-3, warmup=3),
        train=TrainConfig(
            steps=steps, eval_every=4, save_every=4, log_every=1, ema=0.9, precision="float32"
        ),
    )  # fmt: skip
