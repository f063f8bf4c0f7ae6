"""NaViT-B/16 as trained in the paper (arXiv 2307.06304, §4.1, App. B.1 and Table 2).

    torchrun --nproc-per-node 8 -m patchpack train recipes/navit_b16.py --data.root DIR

For billions of labeled images: 9.2e5 steps of 1,048,576 tokens, 1.9e4 images per step, here on
eight GPUs; `--train.steps 93000 --optim.cooldown 0.108` is the paper's shortest run. Sides √area
are uniform in 64 to 256 px and the mean drop rate is 0.5 (the printed 4.88 images per sequence
follow from it); no other augmentation. Details that the paper omits (AdamW for Adafactor, warmup,
timescale, gradient clipping) follow big_vision's configuration of the same group.
"""

from pathlib import Path

from patchpack.config import RunConfig
from patchpack.data.config import DataConfig
from patchpack.data.loader import LoaderConfig
from patchpack.data.packing.dropping import BetaDrop
from patchpack.data.packing.resolution import SampledArea
from patchpack.model.presets import model_config
from patchpack.tasks.classification.model import ClassificationConfig
from patchpack.train.config import TrainConfig
from patchpack.train.optim import OptimConfig

config = RunConfig(
    out=Path("runs/navit_b16"),
    data=DataConfig(
        max_tokens=32_768,
        resolution=SampledArea(low=64, high=256),
        dropping=BetaDrop(mean=0.5, max=0.9),
        packing_window=65_536,
        loader=LoaderConfig(workers=12, worker_type="processes"),
    ),
    model=model_config("navit_b16"),
    task=ClassificationConfig(loss="sigmoid"),
    optim=OptimConfig(
        lr=8e-4,
        schedule="rsqrt",
        warmup=10_000,
        timescale=10_000,
        cooldown=1e5 / 9.2e5,
        weight_decay=0.03,
        head_weight_decay=3.0,
        grad_clip_norm=1.0,
    ),
    train=TrainConfig(
        steps=920_000,
        grad_accumulation=4,
        precision="bfloat16",
        compile=True,
        eval_every=10_000,
        save_every=5_000,
        log_every=50,
    ),
)
