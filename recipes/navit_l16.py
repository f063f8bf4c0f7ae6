"""NaViT-L/16 as trained in the paper: `navit_b16.py` with the larger model (Table 2).

    torchrun --nproc-per-node 8 -m patchpack train recipes/navit_l16.py --data.root DIR

9.6e5 steps of 1,048,576 tokens, 1.9e4 images per step; `--train.steps 97000` is the shortest run.
"""

from dataclasses import replace
from pathlib import Path

from patchpack.config import load_recipe
from patchpack.model.presets import model_config

b16 = load_recipe(Path(__file__).with_name("navit_b16.py"))

config = replace(
    b16,
    out=Path("runs/navit_l16"),
    data=replace(b16.data, max_tokens=16_384),
    model=model_config("navit_l16"),
    optim=replace(b16.optim, cooldown=1e5 / 9.6e5),
    train=replace(b16.train, steps=960_000, grad_accumulation=8),
)
