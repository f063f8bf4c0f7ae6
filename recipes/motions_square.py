"""The square ViT baseline of `motions.py`: 64 x 64 px frames; only the resizing differs.

    patchpack train recipes/motions_square.py --data.root motions
    patchpack eval runs/motions_square --split test --budgets 200 512 800

Packs have the same number of tokens, so a training step costs about the same compute. 23 minutes on
one core; test top-1 93.0 % at 512 tokens, 83.7 % at 200 tokens.
"""

from dataclasses import replace
from pathlib import Path

from patchpack.config import load_recipe
from patchpack.data.packing.resolution import SquareResize

native = load_recipe(Path(__file__).with_name("motions.py"))

config = replace(
    native,
    out=Path("runs/motions_square"),
    data=replace(native.data, resolution=SquareResize(grid=8)),
)
