"""Pairs of an image and its texts: where the texts are found, and which images have none.

captions.jsonl   {"path": …, "captions": ["joker", "an emoji of a joker"]}
manifest.csv     a column `caption` or `text`; `captions` too
a/b.png          its captions in a/b.txt, one a line, where a manifest has no such column
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from patchpack.data.annotations.captions import build_captions
from patchpack.data.index import Index
from patchpack.data.records import BadDataset
from patchpack.data.tokenizer import Tokenizer

COLUMNS = ("captions", "caption", "text")  # of a manifest; the first that is there is read
EXPECTED = (
    "expected a manifest with a column captions, caption or text, or beside each image a file of "
    "the same name with the suffix .txt"
)


class NoTexts(BadDataset):
    """Data of which no image has a text."""


class Pairs(NamedTuple):
    """The images that have a text."""

    index: Index  # with their captions
    alone: dict[str, str]  # keys of those that have none, and why
    cut: int  # captions that were longer than a model reads


def read_captions(index: Index) -> list[tuple[str, ...]]:
    """The texts of each image, stripped, none of them empty; raises BadDataset if none has any."""
    column = next((name for name in COLUMNS if name in index.columns), None)
    if column is None:
        found = [_sidecar(index.path(i)) for i in range(len(index))]
    else:
        found = [_cell(cell) for cell in index.columns[column]]
    texts = [tuple(t for text in many if (t := _clean(text))) for many in found]
    if not any(texts):
        raise NoTexts(f"{index.root} has no text for any image: {EXPECTED}")
    return texts


def _sidecar(image: Path) -> Sequence[str]:
    try:
        return image.with_suffix(".txt").read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError):  # absent, or not a text
        return ()


def _clean(text: str) -> str:
    """A text without the space around it; nothing of what is no Unicode."""
    return text.strip() if text.isascii() or _is_unicode(text) else ""


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _cell(cell: str) -> Sequence[str]:
    """One text, or a JSON list of texts; what else JSON may hold is none."""
    if cell.startswith(("[", "{")):
        try:
            values = json.loads(cell)
        except (ValueError, RecursionError):
            return (cell,)
        if isinstance(values, list):
            return [value for value in values if isinstance(value, str)]
        return ()
    return (cell,)


def attach_captions(
    index: Index, texts: Sequence[tuple[str, ...]], tokenizer: Tokenizer, max_length: int
) -> Pairs:
    """Keep the images with a text, and tokenize what `read_captions` gave of them."""
    flat = [text for many in texts for text in many]
    encoded = tokenizer.encode(flat, max_length)
    images, tokens, counts, text_ids, cut = [], [], [], [], 0
    numbers: dict[str, int] = {}  # of distinct texts
    alone: dict[str, str] = {}
    done = 0
    for image, many in enumerate(texts):
        places = range(done, done := done + len(many))
        kept = [i for i in places if encoded.tokens[i]]  # of some texts nothing may be left
        if not kept:
            alone[index.keys[image]] = "has no text"
            continue
        images.append(image)
        counts.append(len(kept))
        tokens += [encoded.tokens[i] for i in kept]
        text_ids += [numbers.setdefault(flat[i], len(numbers)) for i in kept]
        cut += sum(encoded.truncated[i] for i in kept)
    return Pairs(
        replace(index.select(images), captions=build_captions(tokens, counts, text_ids)), alone, cut
    )
