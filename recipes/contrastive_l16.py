"""NaViT-L/16 and a text tower, as trained in the paper (arXiv 2307.06304, §2.2, App. A.2).

    torchrun --nproc-per-node 64 -m patchpack train recipes/contrastive_l16.py \\
        --data.root DIR/captions.jsonl --data.tokenizer spiece.model        (T5's 32,000 tokens)

From the paper: softmax loss over all pairs of a step, learning rate 3e-3 with the schedule of the
classifiers, weight decay 1e-6 on all matrices, sides √area uniform from 64 px, no augmentation,
texts truncated to 24 tokens without token dropping. Not in the paper, chosen here: sides up to
256 px and a mean drop rate of 0.5, as for the classifiers; the number of steps; a text tower with
the image tower's width and half its depth; an initial temperature of 0.07, as in CLIP.
"""

from pathlib import Path

from patchpack.config import RunConfig
from patchpack.data.config import DataConfig
from patchpack.data.loader import LoaderConfig
from patchpack.data.packing.dropping import BetaDrop
from patchpack.data.packing.resolution import SampledArea
from patchpack.model.presets import model_config
from patchpack.model.text import TextConfig
from patchpack.tasks.contrastive.model import ContrastiveConfig
from patchpack.train.config import TrainConfig
from patchpack.train.optim import OptimConfig

config = RunConfig(
    out=Path("runs/contrastive_l16"),
    data=DataConfig(
        max_tokens=16_384,
        max_text_tokens=8_192,
        resolution=SampledArea(low=64, high=256),
        dropping=BetaDrop(mean=0.5, max=0.9),
        packing_window=65_536,
        loader=LoaderConfig(workers=12, worker_type="processes"),
    ),
    model=model_config("navit_l16"),
    task=ContrastiveConfig(
        text=TextConfig(dim=1024, depth=12, num_heads=16, mlp_dim=4096, vocab_size=32_128),
        dim=1024,
    ),
    optim=OptimConfig(
        lr=3e-3,
        schedule="rsqrt",
        warmup=10_000,
        timescale=10_000,
        cooldown=0.1,
        weight_decay=1e-6,
        head_weight_decay=1e-6,
        grad_clip_norm=1.0,
    ),
    train=TrainConfig(
        steps=500_000,
        precision="bfloat16",
        compile=True,
        activation_checkpointing=True,
        eval_every=10_000,
        save_every=5_000,
        log_every=50,
    ),
)
