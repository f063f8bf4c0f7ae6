"""Classify plankton at native size: 33 classes of in-situ images, 20 to 400 px, 8 px patches.

    patchpack train recipes/plankton.py --data.root DIR        (DIR has train/, val/ and test/)
    patchpack eval runs/plankton --split test

Size distinguishes classes, so images are never enlarged. Organisms have no canonical orientation,
hence flips and 90° rotations. The water is white; pixel_mean 255 maps it to zero.
"""

from pathlib import Path

from patchpack.config import RunConfig
from patchpack.data.config import DataConfig
from patchpack.data.packing.dropping import BetaDrop
from patchpack.data.packing.resolution import Native
from patchpack.data.transforms.augment import Augment
from patchpack.model.navit import NaViTConfig
from patchpack.tasks.classification.model import ClassificationConfig
from patchpack.train.config import TrainConfig
from patchpack.train.optim import OptimConfig

config = RunConfig(
    out=Path("runs/plankton"),
    data=DataConfig(
        max_tokens=3072,
        resolution=Native(max_tokens=256),
        dropping=BetaDrop(mean=0.4, max=0.8),
        augment=Augment(flip="dihedral", randaugment_ops=2, randaugment_magnitude=0.5),
    ),
    model=NaViTConfig(
        dim=128,
        depth=6,
        num_heads=4,
        mlp_dim=512,
        patch_size=8,
        pixel_mean=255,
        pixel_std=64,
        drop_path=0.05,
    ),
    task=ClassificationConfig(label_smoothing=0.1),
    optim=OptimConfig(optimizer="muon", lr=2e-3, schedule="cosine", warmup=200, weight_decay=0.05),
    train=TrainConfig(steps=5000, ema=0.999, eval_every=1000, save_every=1000),
)
