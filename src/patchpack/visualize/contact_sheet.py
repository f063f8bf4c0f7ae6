"""Contact sheets: thumbnails in rows, for search results and evaluation samples."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from patchpack.data.images import Pixels
from patchpack.printable import printable

SHOWN = 50  # maximum thumbnails per row of search results
SIDE = 128  # maximum side of a thumbnail, px
LINE = 16  # height of a line of text, px
GAP = 8  # px between thumbnails
ROWS_SHOWN = 6  # maximum evaluation samples
EVAL_SIDE = 240  # maximum side of an evaluation sample, px


class Hit(NamedTuple):
    """One thumbnail of a contact sheet."""

    image: Pixels
    title: str  # below the thumbnail


def draw_hits(rows: Sequence[tuple[str, Sequence[Hit]]], side: int = SIDE) -> Image.Image:
    """Draw a contact sheet: a heading above each row of thumbnails, a title below each thumbnail.

    side  maximum side of a thumbnail, px; larger images are downscaled, aspect kept
    """
    columns = max((len(hits) for _, hits in rows), default=0)
    thumbnails = [[_thumbnail(hit.image, side) for hit in hits] for _, hits in rows]
    heights = [max((p.height for p in row), default=0) for row in thumbnails]
    sheet_height = GAP + sum(LINE + GAP + height + LINE + GAP for height in heights)
    sheet = Image.new("RGB", (GAP + columns * (side + GAP), sheet_height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(LINE - 4)
    y = GAP
    for (heading, hits), row, height in zip(rows, thumbnails, heights, strict=True):
        draw.text((GAP, y), printable(heading), fill="black", font=font)
        bottom = y + LINE + GAP + height
        for column, (hit, thumbnail) in enumerate(zip(hits, row, strict=True)):
            x = GAP + column * (side + GAP)
            sheet.paste(thumbnail, (x + (side - thumbnail.width) // 2, bottom - thumbnail.height))
            draw.text((x, bottom + 2), _truncate(hit.title, font, side), fill="#555555", font=font)
        y = bottom + LINE + GAP
    return sheet


def _thumbnail(image: Pixels, side: int) -> Image.Image:
    thumbnail = Image.fromarray(np.ascontiguousarray(image))
    thumbnail.thumbnail((side, side))
    return thumbnail


def _truncate(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """Return the longest end of a text that fits a width in pixels, in one line."""
    text = printable(text)
    while font.getlength(text) > width:
        text = text[1:]
    return text


def evenly_spaced(count: int) -> list[int]:
    """Return up to ROWS_SHOWN evenly spaced indices below `count`, in ascending order."""
    return sorted({round(index) for index in np.linspace(0, count - 1, min(ROWS_SHOWN, count))})
