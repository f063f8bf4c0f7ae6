"""Captions: the texts of images as tokens, of which one is drawn each epoch.

captions.jsonl   {"path": …, "captions": ["joker", "an emoji of a joker"]}
manifest.csv     a column `captions`, `caption` or `text`
a/b.png          captions in a/b.txt, one per line, if a manifest has no such column

All captions are tokenized once, when a run starts, because the plan depends on their lengths.

Axes: image, caption (of all images, one after the other), token (of all captions).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Int

from patchpack.batch import Patches
from patchpack.data.annotations.annotation import Affine, Hash, Size
from patchpack.data.index import Index
from patchpack.data.records import BadDataset
from patchpack.data.text_files import NotText, clean, read_text
from patchpack.data.tokenizer import Tokenizer

COLUMNS = ("captions", "caption", "text")  # of a manifest; the first that exists is read
EXPECTED = (
    "expected a manifest with a column captions, caption or text, or beside each image a file of "
    "the same name with the suffix .txt"
)


class NoTexts(BadDataset):
    """A dataset without any text."""


@dataclass(frozen=True, eq=False)
class Caption:
    """One caption of one image. It has no position, so transforms leave it unchanged."""

    tokens: Int[np.ndarray, " text_token"]

    in_pixels: ClassVar[bool] = False

    def read(self, size: Size, key: str) -> "Caption":
        return self

    def crop(self, top: int, left: int, height: int, width: int) -> "Caption":
        return self

    def resize(self, before: Size, after: Size) -> "Caption":
        return self

    def hflip(self, size: Size) -> "Caption":
        return self

    def rot90(self, k: int, size: Size) -> "Caption":
        return self

    def affine(self, matrix: Affine, inverse: Affine, size: Size) -> "Caption":
        return self

    def merge(
        self, parts: Sequence["Caption"], offsets: Sequence[tuple[int, int]], size: Size
    ) -> "Caption":
        raise ValueError("captions cannot be combined in a mosaic: set data.augment.mosaic to 0")

    def attach(self, patches: Patches, size: Size, original: "Caption | None") -> Patches:
        """Set the text."""
        return replace(patches, text=torch.from_numpy(self.tokens))


@dataclass(frozen=True, eq=False)
class Captions:
    """The tokens of every caption of every image of an index."""

    tokens: Int[np.ndarray, " token"]
    token_offsets: Int[np.ndarray, " caption_plus_1"]
    image_offsets: Int[np.ndarray, " image_plus_1"]  # first caption of each image
    text_ids: Int[np.ndarray, " caption"]  # an id per distinct text, even if truncated to the same

    name: ClassVar[str] = "captions"

    def __len__(self) -> int:
        """The number of images."""
        return len(self.image_offsets) - 1

    @property
    def lengths(self) -> Int[np.ndarray, " caption"]:
        """Tokens of each caption."""
        return np.diff(self.token_offsets)

    @property
    def image_ids(self) -> Int[np.ndarray, " caption"]:
        """The image of each caption."""
        return np.repeat(np.arange(len(self)), np.diff(self.image_offsets))

    def text(self, caption: int) -> Int[np.ndarray, " _"]:
        return self.tokens[self.token_offsets[caption] : self.token_offsets[caption + 1]]

    def sample(self, seed: int, epoch: int) -> Int[np.ndarray, " image"]:
        """Draw one caption of each image."""
        draws = np.random.default_rng([seed, epoch, 4]).random(len(self))
        return self.image_offsets[:-1] + (draws * np.diff(self.image_offsets)).astype(np.int64)

    def select(self, rows: Int[np.ndarray, " row"]) -> "Captions":
        """Return the captions of these images, in the order given."""
        selected = [np.arange(self.image_offsets[i], self.image_offsets[i + 1]) for i in rows]
        captions = np.concatenate([np.empty(0, np.int64), *selected])
        tokens = [self.text(i) for i in captions]
        return build_captions(tokens, [len(ids) for ids in selected], self.text_ids[captions])

    def item(self, row: int, seed: int, epoch: int, root: Path) -> Caption:
        """Return the caption that `sample` draws for one image, without drawing the others."""
        draw = np.random.Generator(np.random.PCG64([seed, epoch, 4]).advance(row)).random()
        first, end = self.image_offsets[row], self.image_offsets[row + 1]
        return Caption(self.text(int(first + int(draw * (end - first)))))

    def stream_lengths(self, seed: int, epoch: int) -> Int[np.ndarray, " image"]:
        return self.lengths[self.sample(seed, epoch)]

    def digest(self, hash: Hash) -> None:
        for array in (self.tokens, self.token_offsets, self.image_offsets):
            hash.update(array.astype("<i8").tobytes())

    def files(self) -> Sequence[str]:
        return ()


def build_captions(
    tokens: Sequence[Sequence[int] | np.ndarray],
    counts: Sequence[int],
    text_ids: Sequence[int] | np.ndarray | None = None,
) -> Captions:
    """Return captions from the tokens of each, the number per image, and ids of equal texts."""
    flat = np.concatenate([np.empty(0, np.int32), *tokens]).astype(np.int32)
    token_offsets = np.cumsum([0, *map(len, tokens)])
    ids = np.arange(len(tokens)) if text_ids is None else np.asarray(text_ids, np.int64)
    return Captions(flat, token_offsets, np.cumsum([0, *counts]), ids)


class Pairs(NamedTuple):
    """The images that have a text."""

    index: Index  # with captions
    without_text: dict[str, str]  # keys of the other images → reason
    truncated: int  # captions longer than the maximum length


def read_captions(index: Index) -> list[tuple[str, ...]]:
    """Return the texts of each image, stripped and not empty; raise NoTexts if none has any."""
    column = next((name for name in COLUMNS if name in index.columns), None)
    if column is None:
        cells = [_read_sidecar(index.path(i)) for i in range(len(index))]
    else:
        cells = [_parse_cell(cell) for cell in index.columns[column]]
    texts = [tuple(clean for text in cell if (clean := _clean(text))) for cell in cells]
    if not any(texts):
        raise NoTexts(f"{index.root} has no text for any image: {EXPECTED}")
    return texts


def has_captions(index: Index) -> bool:
    """Return whether a manifest has a column of captions with a text in it."""
    return any(any(index.columns.get(name, ())) for name in COLUMNS)


def attach_captions(
    index: Index, texts: Sequence[tuple[str, ...]], tokenizer: Tokenizer, max_length: int
) -> Pairs:
    """Keep the images with a text, and tokenize the texts of `read_captions`."""
    flat = [text for image_texts in texts for text in image_texts]
    encoded = tokenizer.encode(flat, max_length)
    images, tokens, counts, text_ids, truncated = [], [], [], [], 0
    distinct: dict[str, int] = {}  # text → id
    without_text: dict[str, str] = {}
    start = 0
    for image, image_texts in enumerate(texts):
        positions = range(start, start := start + len(image_texts))
        kept = [i for i in positions if encoded.tokens[i]]  # a text may have no tokens
        if not kept:
            without_text[index.keys[image]] = "has no text"
            continue
        images.append(image)
        counts.append(len(kept))
        tokens += [encoded.tokens[i] for i in kept]
        text_ids += [distinct.setdefault(flat[i], len(distinct)) for i in kept]
        truncated += sum(encoded.truncated[i] for i in kept)
    captions = build_captions(tokens, counts, text_ids)
    return Pairs(index.select(images).with_annotation(captions), without_text, truncated)


def _read_sidecar(image: Path) -> Sequence[str]:
    try:
        return read_text(image.with_suffix(".txt")).splitlines()
    except (OSError, NotText):  # missing, or not text
        return ()


def _clean(text: str) -> str:
    """Strip a text; return "" for invalid Unicode, and for the NaN of an empty cell."""
    text = clean(text)
    return text if (text.isascii() or _is_unicode(text)) and text.lower() != "nan" else ""


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _parse_cell(cell: str) -> Sequence[str]:
    """Return the text of a cell, or the texts of a JSON list; other JSON has no text."""
    if cell.startswith(("[", "{")):
        try:
            values = json.loads(cell)
        except (ValueError, RecursionError):
            return (cell,)
        if isinstance(values, list):
            return [value for value in values if isinstance(value, str)]
        return ()
    return (cell,)
