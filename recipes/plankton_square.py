"""The square ViT that `plankton.py` is compared with: one thing differs, how it sees an image.

    patchpack train recipes/plankton_square.py --data.root DIR
    patchpack eval runs/plankton_square --split test

Every image becomes 64 x 64 px, 64 tokens: about the mean of the images as they are. Packs hold as
many tokens, so that a step costs the same compute within a percent.
"""

from dataclasses import replace
from pathlib import Path

from patchpack.data.packing.resolution import SquareResize
from patchpack.config import load_recipe

native = load_recipe(Path(__file__).with_name("plankton.py"))

config = replace(
    native,
    out=Path("runs/plankton_square"),
    data=replace(native.data, resolution=SquareResize(grid=8)),
)
