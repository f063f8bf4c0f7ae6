"""NaViT-B/32 as trained in the paper: `navit_b16.py` with 32 px patches (Table 2).

    torchrun --nproc-per-node 8 -m patchpack train recipes/navit_b32.py --data.root DIR

9.7e5 steps of 262,144 tokens, 2.2e4 images per step; `--train.steps 98000` is the shortest run.
"""

from dataclasses import replace
from pathlib import Path

from patchpack.config import load_recipe
from patchpack.model.presets import model_config

b16 = load_recipe(Path(__file__).with_name("navit_b16.py"))

config = replace(
    b16,
    out=Path("runs/navit_b32"),
    model=model_config("navit_b32"),
    optim=replace(b16.optim, cooldown=1e5 / 9.7e5),
    train=replace(b16.train, steps=970_000, grad_accumulation=1),
)
