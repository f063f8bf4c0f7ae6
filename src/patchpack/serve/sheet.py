"""Found images side by side, to be looked at: one row a query, the nearest first."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from patchpack.data.images import Pixels

SHOWN = 50  # images of a query, at most
SIDE = 128  # pixels that an image is shrunk to fit
LINE = 16  # of writing
GAP = 8


class Hit(NamedTuple):
    """One image that was found."""

    image: Pixels
    title: str  # written below it


def draw_hits(rows: Sequence[tuple[str, Sequence[Hit]]], side: int = SIDE) -> Image.Image:
    """A sheet of all queries, each written above its images, which are shrunk to fit `side`."""
    columns = max((len(hits) for _, hits in rows), default=0)
    height = LINE + GAP + side + LINE + GAP
    sheet = Image.new("RGB", (GAP + columns * (side + GAP), GAP + len(rows) * height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(LINE - 4)
    for row, (query, hits) in enumerate(rows):
        y = GAP + row * height
        draw.text((GAP, y), query, fill="black", font=font)
        for column, hit in enumerate(hits):
            x, top = GAP + column * (side + GAP), y + LINE + GAP
            picture = Image.fromarray(np.ascontiguousarray(hit.image))
            picture.thumbnail((side, side))
            sheet.paste(picture, (x + (side - picture.width) // 2, top + side - picture.height))
            draw.text(
                (x, top + side + 2), _fitting(hit.title, font, side), fill="#555555", font=font
            )
    return sheet


def _fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, side: int) -> str:
    """As much of the end of a text as is no wider than an image."""
    while font.getlength(text) > side:
        text = text[1:]
    return text
