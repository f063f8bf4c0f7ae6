"""Detect cell nuclei in microscopy images: 9,893 boxes in 239 images of 256 to 700 px.

    patchpack train recipes/nuclei.py --data.root DIR/boxes.json
    patchpack eval runs/nuclei --split test --budgets 256 576 1024 --max-detections 400

Nuclei are 10 to 100 px wide, hence 8 px patches. Training uses random crops resized to 128 to
256 px. Some images have several hundred nuclei, more than COCO's 100 detections per image.
39 minutes on one core; test AP at 576 tokens 0.232, or 0.254 with 400 detections per image.
"""

from pathlib import Path

from patchpack.config import RunConfig
from patchpack.data.config import DataConfig
from patchpack.data.packing.resolution import SampledArea
from patchpack.data.transforms.augment import Augment
from patchpack.model.navit import NaViTConfig
from patchpack.tasks.detection.model import DetectionConfig
from patchpack.train.config import TrainConfig
from patchpack.train.optim import OptimConfig

config = RunConfig(
    out=Path("runs/nuclei"),
    data=DataConfig(
        max_tokens=3072,
        resolution=SampledArea(low=128, high=256),
        augment=Augment(flip="dihedral", min_crop_area=0.3, color_jitter=0.3),
        eval_tokens=576,
    ),
    model=NaViTConfig(dim=128, depth=6, num_heads=4, mlp_dim=512, patch_size=8),
    task=DetectionConfig(),
    optim=OptimConfig(optimizer="muon", lr=2e-3, schedule="cosine", warmup=100, weight_decay=0.1),
    train=TrainConfig(steps=2500, ema=0.998, eval_every=250, save_every=250),
)
