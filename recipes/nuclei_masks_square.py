"""The same masks of nuclei in squares of 192 px: what a ViT does with them.

    patchpack train recipes/nuclei_masks_square.py --data.root DIR/labels.csv
    patchpack eval runs/nuclei_masks_square --split test --budgets 256 576 1024

Everything but the shape is as in `nuclei_masks.py`: packs hold as many tokens, so that a step costs
about the same.
"""

from dataclasses import replace
from pathlib import Path

from patchpack.data.packing.resolution import SquareResize
from patchpack.config import load_recipe

native = load_recipe(Path(__file__).with_name("nuclei_masks.py"))

config = replace(
    native,
    out=Path("runs/nuclei_masks_square"),
    data=replace(native.data, resolution=SquareResize(grid=24), max_tokens=2880),
)
