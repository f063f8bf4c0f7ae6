"""Classify photographs in 40 classes: sampled sides of 64 to 160 px, 16 px patches.

    patchpack train recipes/caltech40.py --data.root DIR       (DIR has train/, val/ and test/)
    patchpack eval runs/caltech40 --split test --budgets 36 64 100

The training split has only 1,200 photographs, hence the strong augmentation.
"""

from pathlib import Path

from patchpack.config import RunConfig
from patchpack.data.config import DataConfig
from patchpack.data.packing.dropping import BetaDrop
from patchpack.data.packing.resolution import SampledArea
from patchpack.data.transforms.augment import Augment
from patchpack.model.navit import NaViTConfig
from patchpack.tasks.classification.model import ClassificationConfig
from patchpack.train.config import TrainConfig
from patchpack.train.optim import OptimConfig

config = RunConfig(
    out=Path("runs/caltech40"),
    data=DataConfig(
        max_tokens=2048,
        resolution=SampledArea(low=64, high=160, mean=-0.5),
        dropping=BetaDrop(mean=0.3, max=0.7),
        augment=Augment(
            flip="horizontal",
            min_crop_area=0.4,
            color_jitter=0.3,
            randaugment_ops=1,
            randaugment_magnitude=0.5,
        ),
    ),
    model=NaViTConfig(dim=192, depth=6, num_heads=3, mlp_dim=768, patch_size=16, drop_path=0.1),
    task=ClassificationConfig(label_smoothing=0.1),
    optim=OptimConfig(optimizer="muon", lr=2e-3, schedule="cosine", warmup=100, weight_decay=0.1),
    train=TrainConfig(steps=1000, ema=0.998, eval_every=250, save_every=250),
)
