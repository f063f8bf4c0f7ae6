"""The square ViT baseline of `plankton.py`; only the resizing differs.

    patchpack train recipes/plankton_square.py --data.root DIR
    patchpack eval runs/plankton_square --split test

Images are resized to 64 x 64 px: 64 tokens, about the mean at native size. Packs have the
same number of tokens, so a training step costs the same compute within 1 %.
"""

from dataclasses import replace
from pathlib import Path

from patchpack.config import load_recipe
from patchpack.data.packing.resolution import SquareResize

native = load_recipe(Path(__file__).with_name("plankton.py"))

config = replace(
    native,
    out=Path("runs/plankton_square"),
    data=replace(native.data, resolution=SquareResize(grid=8)),
)
