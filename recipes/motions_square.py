"""The same motions in square frames of 64 px: what a ViT of clips does with them.

    patchpack train recipes/motions_square.py --data.root motions
    patchpack eval runs/motions_square --split test --budgets 200 512 800

Everything but the shape is as in `motions.py`: packs hold as many tokens, so that a step costs
about the same. 23 minutes on one core; 93.0 % at 512 tokens, 83.7 at 200.
"""

from dataclasses import replace
from pathlib import Path

from patchpack.data.packing.resolution import SquareResize
from patchpack.config import load_recipe

native = load_recipe(Path(__file__).with_name("motions.py"))

config = replace(
    native,
    out=Path("runs/motions_square"),
    data=replace(native.data, resolution=SquareResize(grid=8)),
)
