"""Segment cell nuclei in microscopy images of various microscopes, stains and sizes.

    patchpack train recipes/nuclei_masks.py --data.root DIR/labels.csv
    patchpack eval runs/nuclei_masks --split test --budgets 256 512 1024

Nuclei are 10 to 100 px wide, hence 8 px patches. 8 minutes on one core; test mean IoU 0.823 at
1,024 tokens.
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
    out=Path("runs/nuclei_masks"),
    data=DataConfig(
        max_tokens=3072,
        resolution=SampledArea(low=128, high=256),
        augment=Augment(flip="dihedral", min_crop_area=0.3, color_jitter=0.3),
    ),
    model=NaViTConfig(dim=128, depth=6, num_heads=4, mlp_dim=512, patch_size=8, drop_path=0.1),
    task=SegmentationConfig(classes=("background", "nucleus"), dice_weight=1.0),
    optim=OptimConfig(optimizer="muon", lr=2e-3, schedule="cosine", warmup=50, weight_decay=0.1),
    train=TrainConfig(steps=700, ema=0.995, eval_every=100, save_every=350),
)
