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


def draw_hits(rows: Sequence[tuple[str, Sequence[Hit]]]) -> Image.Image:
    """A sheet of all queries, each written above its images."""
    columns = max((len(hits) for _, hits in rows), default=0)
    height = LINE + GAP + SIDE + LINE + GAP
    sheet = Image.new("RGB", (GAP + columns * (SIDE + GAP), GAP + len(rows) * height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(LINE - 4)
    for row, (query, hits) in enumerate(rows):
        y = GAP + row * height
        draw.text((GAP, y), query, fill="black", font=font)
        for column, hit in enumerate(hits):
            x, top = GAP + column * (SIDE + GAP), y + LINE + GAP
            picture = Image.fromarray(np.ascontiguousarray(hit.image))
            picture.thumbnail((SIDE, SIDE))
            sheet.paste(picture, (x + (SIDE - picture.width) // 2, top + SIDE - picture.height))
            draw.text((x, top + SIDE + 2), _fitting(hit.title, font), fill="#555555", font=font)
    return sheet


def _fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """As much of the end of a text as is no wider than an image."""
    while font.getlength(text) > SIDE:
        text = text[1:]
    return text
