"""The square ViT that `caltech40.py` is compared with: one thing differs, how it sees an image.

    patchpack train recipes/caltech40_square.py --data.root DIR
    patchpack eval runs/caltech40_square --split test --budgets 36 64 100

Every image becomes 96 x 96 px, 36 tokens: about the mean of the sampled sizes. Packs hold as many
tokens, so that a step costs the same compute within a percent.
"""

from dataclasses import replace
from pathlib import Path

from patchpack.data.packing.resolution import SquareResize
from patchpack.config import load_recipe

native = load_recipe(Path(__file__).with_name("caltech40.py"))

config = replace(
    native,
    out=Path("runs/caltech40_square"),
    data=replace(native.data, resolution=SquareResize(grid=6)),
)
