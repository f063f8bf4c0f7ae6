"""Pack images, in memory or on disk, into one PackedBatch."""

import os
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from patchpack.batch import PackedBatch, Patches, collate
from patchpack.data.config import InputSpec
from patchpack.data.images import BadImage, ResizeFilter, decode, read_size, resize, to_rgb
from patchpack.data.packing.resolution import MAX_SIDE, Native, Resolution
from patchpack.data.patchify import patchify
from patchpack.data.reading import DEFAULT_READING, ReadingConfig

AnyImage = Image.Image | np.ndarray | Tensor | str | os.PathLike


def pack(
    images: Sequence[AnyImage],
    *,
    patch_size: int = 16,
    max_tokens: int | None = None,
    resolution: Resolution | None = None,
    max_side: int = MAX_SIDE,
    resize_filter: ResizeFilter = "bicubic",
) -> PackedBatch:
    """Pack images of any sizes, in the order given.

    images      PIL images, uint8 arrays [h, w, 3] or [h, w], uint8 tensors [3, h, w], or paths
    patch_size  pixels on a side of a patch
    max_tokens  maximum tokens per image; larger images are resized at the same aspect ratio
    resolution  resize rule (None: Native); `max_tokens` bounds it too
    max_side    maximum side of a grid in patches, which the model's positions support
    resize_filter  filter of the resize, antialiased: `resize_filter` of the model's config

    Raises ValueError for other types of images, and its subclass BadImage for unreadable files.
    """
    check_list(images)
    if max_tokens is not None and max_tokens < 1:
        raise ValueError(f"max_tokens must be at least 1, not {max_tokens}")
    rule, limit = resolution or Native(), max_tokens or int(torch.iinfo(torch.int32).max)
    input = InputSpec(patch_size=patch_size, max_side=max_side, resize_filter=resize_filter)
    packed = [
        to_patches(image, image_key(image, i), input, limit, rule) for i, image in enumerate(images)
    ]
    return collate(packed, patch_size**2 * 3)


def check_list(images: object) -> None:
    """Raise ValueError for a single image; its characters or rows would be read as images.

    An array or tensor of four axes is a list of images.
    """
    if isinstance(images, np.ndarray | Tensor) and images.ndim == 4:
        return
    if isinstance(images, AnyImage):
        raise ValueError(
            "expected a list of images; put a single image in a list: pp.pack([image])"
        )


def to_patches(
    image: AnyImage,
    name: str,
    input: InputSpec,
    max_tokens: int,
    resolution: Resolution,
) -> Patches:
    """Resize one image to its grid and patchify it; `name` is its key and appears in errors.

    A file gives the patches that the loader gives in evaluation: a large JPEG is decoded near the
    size that it is resized to.
    """
    if isinstance(image, str | os.PathLike):
        size = _target_size(read_size(image, input.reading), input, max_tokens, resolution)
        pixels = decode(image, key=name, target=size, reading=input.reading)
    else:
        pixels = to_pixels(image, name, input.reading)
        size = _target_size(pixels.shape[:2], input, max_tokens, resolution)
    return patchify(resize(pixels, size, input.resize_filter), input.patch_size, key=name)


def _target_size(
    size: tuple[int, int], input: InputSpec, max_tokens: int, resolution: Resolution
) -> tuple[int, int]:
    """(height, width) in pixels of the grid of an image of `size`."""
    height, width = size
    ((h, w),) = resolution.grids(
        np.array([height]),
        np.array([width]),
        patch_size=input.patch_size,
        max_tokens=max_tokens,
        rng=np.random.default_rng(0),
        max_side=input.max_side,
    )
    return int(h) * input.patch_size, int(w) * input.patch_size


def image_key(image: object, number: int) -> str:
    """The name of an image in keys and errors: its path, or its number in a list."""
    return os.fspath(image) if isinstance(image, str | os.PathLike) else f"image {number}"


def to_pixels(image: AnyImage, name: str, reading: ReadingConfig = DEFAULT_READING) -> np.ndarray:
    """Convert any accepted image to uint8 RGB [h, w, 3]; `name` appears in errors."""
    if isinstance(image, str | os.PathLike):
        return decode(image, key=os.fspath(image), reading=reading)
    if isinstance(image, Image.Image):
        return _from_pillow(image, name, reading)
    if isinstance(image, Tensor):
        if image.ndim != 3 or image.shape[0] not in (1, 3):
            raise ValueError(f"{name}: a tensor must be [3, h, w], not {list(image.shape)}")
        image = image.permute(1, 2, 0).cpu().numpy()
    if not isinstance(image, np.ndarray):
        raise ValueError(f"{name}: cannot pack a {type(image).__name__}")
    if image.dtype != np.uint8:
        raise ValueError(f"{name}: pixels must be uint8 in 0..255, not {image.dtype}")
    if image.ndim == 2:
        image = image[:, :, None]
    if image.ndim != 3 or image.shape[2] not in (1, 3) or 0 in image.shape:
        raise ValueError(f"{name}: an array must be [h, w, 3] or [h, w], not {list(image.shape)}")
    return np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3)))


def _from_pillow(image: Image.Image, name: str, reading: ReadingConfig) -> np.ndarray:
    """Read a Pillow image, whose pixels may load only now; raise BadImage if it is damaged."""
    try:
        return to_rgb(image, reading.intensity_range)
    except BadImage as error:
        raise BadImage(name, error.reason) from error
    except OSError as error:
        raise BadImage(name, f"is damaged ({error})") from error
