"""Train an image and a text tower from scratch on emoji and their names.

    patchpack train recipes/contrastive_emoji.py --data.root DIR/captions.jsonl
    patchpack eval runs/contrastive_emoji --split test --budgets 16 36 64
    patchpack search runs/contrastive_emoji DIR "a red heart"

13 minutes on one core. On 470 test images and 470 texts, recall@10 is 25 % for image-to-text and
30 % for text-to-image; chance is 4 %. To train on the emoji of one vendor and evaluate on another,
add `--data.where vendor=noto` to train and `--where vendor=emojitwo` to eval.
"""

from pathlib import Path

from patchpack.config import RunConfig
from patchpack.data.config import DataConfig
from patchpack.data.packing.dropping import BetaDrop
from patchpack.data.packing.resolution import SampledArea
from patchpack.data.transforms.augment import Augment
from patchpack.model.navit import NaViTConfig
from patchpack.model.text import TextConfig
from patchpack.tasks.contrastive.model import ContrastiveConfig
from patchpack.train.config import TrainConfig
from patchpack.train.optim import OptimConfig

config = RunConfig(
    out=Path("runs/contrastive_emoji"),
    data=DataConfig(
        max_tokens=8192,
        resolution=SampledArea(low=64, high=128),
        dropping=BetaDrop(mean=0.3, max=0.7),
        augment=Augment(
            flip="horizontal",
            min_crop_area=0.6,
            color_jitter=0.3,
            randaugment_ops=1,
            randaugment_magnitude=0.5,
        ),
        eval_tokens=64,
    ),
    model=NaViTConfig(dim=192, depth=6, num_heads=3, mlp_dim=768, patch_size=16, drop_path=0.1),
    task=ContrastiveConfig(
        text=TextConfig(
            dim=192, depth=4, num_heads=3, mlp_dim=768, vocab_size=1024, max_length=40, dropout=0.1
        ),
        dim=192,
    ),
    optim=OptimConfig(optimizer="muon", lr=2e-3, schedule="cosine", warmup=100, weight_decay=0.1),
    train=TrainConfig(steps=300, ema=0.99, eval_every=100, save_every=100),
)
