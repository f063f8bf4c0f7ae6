"""Train an image and a text tower on rendered formulas and their LaTeX; aspect ratios up to 26.

    patchpack train recipes/contrastive_formulas.py --data.root DIR/captions.jsonl
    patchpack eval runs/contrastive_formulas --split test --budgets 64 256
    patchpack inspect DIR/captions.jsonl --max-tokens 8192        (image sizes and pack fill)

Images keep their aspect ratio and, up to 256 tokens, their native size, since strokes are 1 to 2 px
wide. 3 minutes; image-to-text recall@10 is 50 % on 100 formulas.
"""

from pathlib import Path

from patchpack.config import RunConfig
from patchpack.data.config import DataConfig
from patchpack.data.packing.dropping import BetaDrop
from patchpack.data.packing.resolution import Native
from patchpack.data.transforms.augment import Augment
from patchpack.model.navit import NaViTConfig
from patchpack.model.text import TextConfig
from patchpack.tasks.contrastive.model import ContrastiveConfig
from patchpack.train.config import TrainConfig
from patchpack.train.optim import OptimConfig

config = RunConfig(
    out=Path("runs/contrastive_formulas"),
    data=DataConfig(
        max_tokens=8192,
        max_text_tokens=16_384,
        resolution=Native(max_tokens=256),
        dropping=BetaDrop(mean=0.2, max=0.5),
        augment=Augment(flip="none", color_jitter=0.2),
        eval_tokens=256,
        max_bad_fraction=0.05,
    ),
    model=NaViTConfig(
        dim=192, depth=4, num_heads=3, mlp_dim=768, patch_size=8, pixel_mean=255.0, pixel_std=64.0
    ),
    task=ContrastiveConfig(
        text=TextConfig(
            dim=192, depth=3, num_heads=3, mlp_dim=768, vocab_size=1024, max_length=128
        ),
        dim=192,
    ),
    optim=OptimConfig(optimizer="muon", lr=2e-3, schedule="cosine", warmup=50, weight_decay=0.1),
    train=TrainConfig(steps=150, ema=0.99, eval_every=50, save_every=50),
)
