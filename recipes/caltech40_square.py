"""The square ViT baseline of `caltech40.py`; only the resizing differs.

    patchpack train recipes/caltech40_square.py --data.root DIR
    patchpack eval runs/caltech40_square --split test --budgets 36 64 100

Images are resized to 96 x 96 px: 36 tokens, about the mean of the sampled sizes. Packs have the
same number of tokens, so a training step costs the same compute within 1 %.
"""

from dataclasses import replace
from pathlib import Path

from patchpack.config import load_recipe
from patchpack.data.packing.resolution import SquareResize

native = load_recipe(Path(__file__).with_name("caltech40.py"))

config = replace(
    native,
    out=Path("runs/caltech40_square"),
    data=replace(native.data, resolution=SquareResize(grid=6)),
)
