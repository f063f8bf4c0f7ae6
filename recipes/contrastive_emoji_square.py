"""The square ViT baseline of `contrastive_emoji.py`; only the resizing differs.

    patchpack train recipes/contrastive_emoji_square.py --data.root DIR/captions.jsonl
    patchpack eval runs/contrastive_emoji_square --split test --budgets 16 36 64

Images are resized to 96 x 96 px: 36 tokens, about the mean of the sampled sizes. Packs have the
same number of tokens, so a training step costs the same compute within 1 %.
"""

from dataclasses import replace
from pathlib import Path

from patchpack.config import load_recipe
from patchpack.data.packing.resolution import SquareResize

native = load_recipe(Path(__file__).with_name("contrastive_emoji.py"))

config = replace(
    native,
    out=Path("runs/contrastive_emoji_square"),
    data=replace(native.data, resolution=SquareResize(grid=6), eval_tokens=36),
)
