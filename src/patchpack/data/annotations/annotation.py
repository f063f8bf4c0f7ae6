"""The protocol of annotations: data that belongs to an image in addition to its pixels.

An `Annotation` holds one kind of annotation of all items of an index. Its `item` is an
`ItemAnnotation`, which goes through the transforms together with the pixels of its image and is
attached to the tokens at the end:

    Index.annotations ─item→ read → crop, merge, resize, hflip, rot90, affine → attach → Patches

Index, spec, preprocessing, sample, mosaic and the fingerprint of a run use this protocol only, so a
new kind of annotation is one new file.

Sizes are (height, width) in pixels. Axes: row (of an index), item.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Protocol, Self

import numpy as np
from jaxtyping import Int

from patchpack.batch import Patches

Size = tuple[int, int]
Affine = tuple[float, float, float, float, float, float]
"""(a, b, c, d, e, f) maps (x, y) to (ax + by + c, dx + ey + f)."""


class Hash(Protocol):
    """A hash of hashlib."""

    def update(self, data: bytes, /) -> None: ...


class ItemAnnotation(Protocol):
    """An annotation of one item. Transforms return a new annotation and leave this one unchanged.

    Instances are pickled for loader processes.
    """

    in_pixels: ClassVar[bool]  # whether it has pixel positions, so images are decoded at full size

    def read(self, size: Size, key: str) -> Self:
        """Load data from disk, for an image of this size; raise BadImage, naming it by `key`."""
        ...

    def crop(self, top: int, left: int, height: int, width: int) -> Self: ...

    def resize(self, before: Size, after: Size) -> Self: ...

    def hflip(self, size: Size) -> Self:
        """Mirror left and right."""
        ...

    def rot90(self, k: int, size: Size) -> Self:
        """Rotate counterclockwise by `k` quarter turns; `size` is the size before."""
        ...

    def affine(self, matrix: Affine, inverse: Affine, size: Size) -> Self:
        """Warp within `size`: `matrix` maps output to input positions, `inverse` the other way."""
        ...

    def merge(self, parts: Sequence[Self], offsets: Sequence[tuple[int, int]], size: Size) -> Self:
        """Combine the parts of a mosaic, of which this is the first.

        offsets  (top, left) of each part on the canvas
        size     of the canvas

        Raise ValueError for annotations that cannot be combined.
        """
        ...

    def attach(self, patches: Patches, size: Size, original: Self | None) -> Patches:
        """Return the patches with this annotation as targets or text.

        size      of the preprocessed image
        original  the annotation before all transforms, for evaluation at the original size; None in
                  training
        """
        ...


class Annotation(Protocol):
    """One kind of annotation of all items of an index."""

    name: ClassVar[str]  # key in Index.annotations

    def select(self, rows: Int[np.ndarray, " row"]) -> Self: ...

    def item(self, row: int, seed: int, epoch: int, root: Path) -> ItemAnnotation:
        """Return the annotation of one item; `root` is that of the index."""
        ...

    def stream_lengths(self, seed: int, epoch: int) -> Int[np.ndarray, " item"] | None:
        """Return the tokens that each item adds to the text stream; None for other targets."""
        ...

    def digest(self, hash: Hash) -> None:
        """Update a hash with everything that training depends on but the contents of `files`."""
        ...

    def files(self) -> Sequence[str]:
        """Return the file of each item that is read during training, relative to the root of the
        index; empty for annotations that are held in memory."""
        ...
