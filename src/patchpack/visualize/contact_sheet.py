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
ROWS_SHOWN = 6  # images of an evaluation, spread over the split
EVAL_SIDE = 240  # pixels that each of these is shrunk to fit


class Hit(NamedTuple):
    """One image that was found."""

    image: Pixels
    title: str  # written below it


def draw_hits(rows: Sequence[tuple[str, Sequence[Hit]]], side: int = SIDE) -> Image.Image:
    """A sheet of all queries, each written above its images, which are shrunk to fit `side`."""
    columns = max((len(hits) for _, hits in rows), default=0)
    pictures = [[_shrunk(hit.image, side) for hit in hits] for _, hits in rows]
    heights = [max((p.height for p in row), default=0) for row in pictures]
    tall = GAP + sum(LINE + GAP + height + LINE + GAP for height in heights)
    sheet = Image.new("RGB", (GAP + columns * (side + GAP), tall), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(LINE - 4)
    y = GAP
    for (query, hits), row, height in zip(rows, pictures, heights, strict=True):
        draw.text((GAP, y), query, fill="black", font=font)
        bottom = y + LINE + GAP + height
        for column, (hit, picture) in enumerate(zip(hits, row, strict=True)):
            x = GAP + column * (side + GAP)
            sheet.paste(picture, (x + (side - picture.width) // 2, bottom - picture.height))
            draw.text((x, bottom + 2), _fitting(hit.title, font, side), fill="#555555", font=font)
        y = bottom + LINE + GAP
    return sheet


def _shrunk(image: Pixels, side: int) -> Image.Image:
    picture = Image.fromarray(np.ascontiguousarray(image))
    picture.thumbnail((side, side))
    return picture


def _fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, side: int) -> str:
    """As much of the end of a text as is no wider than an image."""
    while font.getlength(text) > side:
        text = text[1:]
    return text


def evenly_spaced(count: int) -> list[int]:
    """Numbers of at most ROWS_SHOWN of so many images, evenly spread."""
    return sorted({round(place) for place in np.linspace(0, count - 1, min(ROWS_SHOWN, count))})
