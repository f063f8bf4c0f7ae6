"""The square ViT baseline of `nuclei_masks.py`: 192 x 192 px; only the resizing differs.

    patchpack train recipes/nuclei_masks_square.py --data.root DIR/labels.csv
    patchpack eval runs/nuclei_masks_square --split test --budgets 256 576 1024

Packs have about the same number of tokens, so a training step costs about the same compute.
"""

from dataclasses import replace
from pathlib import Path

from patchpack.config import load_recipe
from patchpack.data.packing.resolution import SquareResize

native = load_recipe(Path(__file__).with_name("nuclei_masks.py"))

config = replace(
    native,
    out=Path("runs/nuclei_masks_square"),
    data=replace(native.data, resolution=SquareResize(grid=24), max_tokens=2880),
)
