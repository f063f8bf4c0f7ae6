"""Masks: the class of every pixel, in a file of its own for each image.

A mask is a picture of one channel (gray, or a palette, whose numbers count), of its image's size;
both are turned upright by their own EXIF.
What is wrong with one is wrong with its image: a BadImage that names it.
"""

from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import Int
from PIL import Image, ImageOps

from patchpack.batch import IGNORE_INDEX
from patchpack.data.images import FORMATS, BadImage, explain_error, read_file
from patchpack.data.transforms.sample import Mask

MODES = ("1", "L", "P", "I", "I;16")


@dataclass(frozen=True)
class MaskSpec:
    """One mask to read."""

    path: Path
    num_classes: int
    ignore_index: int | None


@dataclass(frozen=True, eq=False)
class Masks:
    """Where the masks of an index's images lie, and what their numbers mean."""

    keys: tuple[str, ...]  # paths relative to the index's root
    num_classes: int
    ignore_index: int | None  # the number of pixels that have no class

    def spec(self, root: Path, number: int) -> MaskSpec:
        """What is to be read for one image of the index, which lies in `root`."""
        return MaskSpec(root / self.keys[number], self.num_classes, self.ignore_index)

    def select(self, numbers: Int[np.ndarray, " image"]) -> "Masks":
        return replace(self, keys=tuple(self.keys[i] for i in numbers))


def read_mask(mask: MaskSpec, size: tuple[int, int], key: str) -> Mask:
    """The class of every pixel of an image of (height, width), IGNORED where it has none.

    Raises BadImage, which names the image by `key`, for a file that is no mask of this image.
    """
    try:
        with Image.open(BytesIO(read_file(mask.path)), formats=FORMATS) as image:
            if image.mode not in MODES:
                raise BadImage(key, f"its mask has mode {image.mode}, not one channel of numbers")
            upright = ImageOps.exif_transpose(image)
            if upright.size[::-1] != size:
                raise BadImage(
                    key, f"its mask is {upright.size[::-1]} pixels, the image, upright, {size}"
                )
            values = np.asarray(upright).astype(np.int64)
    except BadImage as error:
        raise BadImage(key, error.reason) from error
    except Exception as error:
        raise BadImage(key, f"its mask {mask.path.name}: {explain_error(error)}") from error
    ignored = values == mask.ignore_index
    wrong = np.unique(values[~ignored & ((values < 0) | (values >= mask.num_classes))])
    if len(wrong):
        raise BadImage(
            key,
            f"its mask holds {wrong[:5].tolist()}, but classes are numbered 0 to "
            f"{mask.num_classes - 1}; a number of pixels that have no class goes into task.ignore",
        )
    return np.where(ignored, IGNORE_INDEX, values).astype(np.uint8)
