"""The same tiles in squares of 152 px: what a ViT does with them.

    patchpack train recipes/mtile_square.py --data.root DIR/labels.csv
    patchpack eval runs/mtile_square --split test --budgets 256 361

Everything but the shape is as in `mtile.py`: packs hold as many tokens, so that a step costs about
the same.
"""

from dataclasses import replace
from pathlib import Path

from patchpack.data.packing.resolution import SquareResize
from patchpack.config import load_recipe

native = load_recipe(Path(__file__).with_name("mtile.py"))

config = replace(
    native,
    out=Path("runs/mtile_square"),
    data=replace(native.data, resolution=SquareResize(grid=19), eval_tokens=361),
)
