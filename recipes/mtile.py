"""Segment defects of magnetic tiles: gray photographs of 110 to 620 px, aspect ratios 0.4 to 2.5.

    patchpack train recipes/mtile.py --data.root DIR/labels.csv
    patchpack eval runs/mtile --split test --budgets 256 400

Six classes. Background covers 90 % of the pixels and a defect about 1 % of an image, hence the Dice
loss and class weights. Contrast is low, so pixels are normalized by the dataset's own mean and
standard deviation. The grinding marks have one direction, so images are flipped but not rotated.

The 214 training images show about 30 tiles, and the model generalizes poorly to other tiles:
7 minutes on one core, test mean IoU 0.214 at 256 tokens (`docs/tasks.md`).
"""

from pathlib import Path

from patchpack.config import RunConfig
from patchpack.data.config import DataConfig
from patchpack.data.packing.resolution import SampledArea
from patchpack.data.transforms.augment import Augment
from patchpack.model.navit import NaViTConfig
from patchpack.tasks.segmentation.model import SegmentationConfig
from patchpack.train.config import TrainConfig
from patchpack.train.optim import OptimConfig

config = RunConfig(
    out=Path("runs/mtile"),
    data=DataConfig(
        max_tokens=3072,
        eval_tokens=256,
        resolution=SampledArea(low=112, high=192),
        augment=Augment(flip="horizontal", min_crop_area=0.3, color_jitter=0.3),
    ),
    model=NaViTConfig(
        dim=96, depth=4, num_heads=3, mlp_dim=288, patch_size=8, pixel_mean=110.0, pixel_std=25.0
    ),
    task=SegmentationConfig(dice_weight=1.0, class_weights=(1.0, 15.0, 5.0, 15.0, 6.0, 3.0)),
    optim=OptimConfig(optimizer="muon", lr=5e-3, schedule="cosine", warmup=50, weight_decay=0.05),
    train=TrainConfig(steps=1500, ema=0.998, eval_every=500, save_every=500),
)
