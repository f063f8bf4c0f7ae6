"""The square ViT baseline of `mtile.py`: 152 x 152 px; only the resizing differs.

    patchpack train recipes/mtile_square.py --data.root DIR/labels.csv
    patchpack eval runs/mtile_square --split test --budgets 256 361

Packs have the same number of tokens, so a training step costs about the same compute.
"""

from dataclasses import replace
from pathlib import Path

from patchpack.config import load_recipe
from patchpack.data.packing.resolution import SquareResize

native = load_recipe(Path(__file__).with_name("mtile.py"))

config = replace(
    native,
    out=Path("runs/mtile_square"),
    data=replace(native.data, resolution=SquareResize(grid=19), eval_tokens=361),
)
