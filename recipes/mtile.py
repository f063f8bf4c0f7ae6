"""Defects of magnetic tiles, every pixel: gray photographs of 110 to 620 px, aspects 0.4 to 2.5.

    patchpack train recipes/mtile.py --data.root DIR/labels.csv
    patchpack eval runs/mtile --split test

Six classes, nine tenths of the pixels of the first; cracks are a few pixels wide, so patches are of
8 px, and the dice loss makes small defects count. As it stands it learns little but the first
class: mean IoU 0.16 on test after 22 minutes on one core.
"""

from pathlib import Path

from patchpack.data.augment import Augment
from patchpack.data.resolution import Sampled
from patchpack.heads.segmentation import SegmentationConfig
from patchpack.model.navit import NaViTConfig
from patchpack.train.config import DataConfig, RunConfig, TrainConfig
from patchpack.train.optim import OptimConfig

config = RunConfig(
    out=Path("runs/mtile"),
    data=DataConfig(
        max_tokens=3072,
        resolution=Sampled(low=128, high=256),
        augment=Augment(symmetry="dihedral", crop=0.5, colour=0.3, operations=1),
    ),
    model=NaViTConfig(dim=128, depth=6, heads=4, mlp_dim=512, patch_size=8, drop_path=0.1),
    task=SegmentationConfig(dice=1.0),
    optim=OptimConfig(body="muon", lr=2e-3, schedule="cosine", warmup=100, weight_decay=0.1),
    train=TrainConfig(steps=1500, ema=0.998, eval_every=250, save_every=250),
)
