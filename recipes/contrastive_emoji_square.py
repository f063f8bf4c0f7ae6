"""The square towers that `contrastive_emoji.py` is compared with: one thing differs.

    patchpack train recipes/contrastive_emoji_square.py --data.root DIR/captions.jsonl
    patchpack eval runs/contrastive_emoji_square --split test --budgets 16 36 64

Every image becomes 96 x 96 px, 36 tokens: about the mean of the sampled sizes. Packs hold as many
tokens, so that a step costs the same compute within a percent.
"""

from dataclasses import replace
from pathlib import Path

from patchpack.data.packing.resolution import SquareResize
from patchpack.config import load_recipe

native = load_recipe(Path(__file__).with_name("contrastive_emoji.py"))

config = replace(
    native,
    out=Path("runs/contrastive_emoji_square"),
    data=replace(native.data, resolution=SquareResize(grid=6), eval_tokens=36),
)
