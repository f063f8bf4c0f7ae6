"""How masks write their classes: by numbers 0, 1, 2 …, by other values, or by colors.

values 0 and 255           MaskEncoding((0, 255)): value 255 is class 1
an image of colors         MaskEncoding((0x000000, 0x804080), colors=True)

A color is one number, 0xRRGGBB. Values that no class has raise ForeignValues, whose message gives
the option that reads such masks.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from patchpack.batch import IGNORE_INDEX
from patchpack.data.annotations.mask_files import has_transparent_pixels, whole_numbers

COLOR_MODES = ("1", "L", "P", "RGB", "RGBA")
LISTED = 10  # values or colors in a message
HIGHEST = 65_535  # of a mask of numbers
TRANSPARENT = (
    "transparent pixels, whose class is not defined: save it without an alpha channel, as PNG with "
    "one value for each class"
)

MaskValues = UInt8[np.ndarray, "height width"]
RawValues = Int[np.ndarray, "height width"]


class ForeignValues(ValueError):
    """Values of a mask that no class has."""

    def __init__(self, seen: Sequence[int], message: str, *, colors: bool) -> None:
        super().__init__(message)
        self.seen = tuple(seen)  # all values of the mask
        self.colors = colors  # whether they are colors


@dataclass(frozen=True)
class MaskEncoding:
    """The value of each class in mask files."""

    values: tuple[int, ...] = ()  # in the order of the classes; empty: 0, 1, 2 …
    colors: bool = False  # values are colors, 0xRRGGBB

    plain: ClassVar["MaskEncoding"]  # numbers of classes

    def __post_init__(self) -> None:
        if len(set(self.values)) < len(self.values):
            raise ValueError(f"two classes have the same mask value: {self.text(self.values)}")
        highest = 0xFFFFFF if self.colors else HIGHEST
        if wrong := [value for value in self.values if not 0 <= value <= highest]:
            raise ValueError(f"mask values must lie in 0 to {highest}, not {wrong[0]}")

    @property
    def option(self) -> str:
        """The option that sets it."""
        return "task.mask-colors" if self.colors else "task.mask-values"

    def text(self, values: Sequence[int]) -> str:
        """Values for a message, as the option takes them; at most LISTED."""
        shown = " ".join(f"{v:06x}" if self.colors else str(v) for v in values[:LISTED])
        return f"{shown} …" if len(values) > LISTED else shown

    def value(self, label: int) -> int:
        """The mask value of a class."""
        return self.values[label] if self.values else label

    def label(self, value: int) -> int | None:
        """The class of a mask value; None: no class has it."""
        if not self.values:
            return value
        return self.values.index(value) if value in self.values else None

    def decode(self, raw: RawValues, num_classes: int, ignore_index: int | None) -> MaskValues:
        """Return class indices, IGNORE_INDEX for pixels of the value `ignore_index`.

        Raise ForeignValues for values that no class has.
        """
        labels = raw if not self.values else self._look_up(raw)
        foreign = (labels < 0) | (labels >= num_classes)
        if ignore_index is not None:
            foreign &= raw != ignore_index
        if foreign.any():
            values, seen = (np.unique(x).tolist() for x in (raw[foreign], raw))
            message = self._message(values, seen, num_classes, ignore_index)
            raise ForeignValues(seen, message, colors=self.colors)
        if ignore_index is not None:
            labels = np.where(raw == ignore_index, IGNORE_INDEX, labels)
        return labels.astype(np.uint8)

    def _look_up(self, raw: RawValues) -> RawValues:
        values = np.array(self.values)
        order = np.argsort(values)
        position = np.searchsorted(values[order], raw).clip(max=len(values) - 1)
        return np.where(values[order][position] == raw, order[position], -1)

    def _message(
        self, foreign: list[int], seen: list[int], num_classes: int, ignore_index: int | None
    ) -> str:
        if self.values:
            known = f"{self.option} is {self.text(self.values)}"
        else:
            known = f"classes are numbered 0 to {num_classes - 1}"
        held = self.text(foreign) if self.colors else foreign[:5]
        return f"holds {held}, but {known}; {self.advice(seen, num_classes, ignore_index)}"

    def advice(self, seen: Sequence[int], num_classes: int, ignore_index: int | None) -> str:
        """Return what to do about masks with these values, ascending, at least one of them foreign.

        seen  all values of one or more masks
        """
        values = [value for value in seen if value != ignore_index]
        if self.colors:
            return (
                f"give the color of each of the {num_classes} classes, in order, with "
                f"--{self.option}; masks saved as JPEG or resized smoothly hold mixed colors: save "
                "them as PNG"
            )
        if len(values) == num_classes:
            given = f"{self.option} {self.text(values)}" if num_classes <= LISTED else self.option
            return f"if these are the classes in order, give --{given}"
        if values == list(range(num_classes + 1)) and ignore_index is None:
            numbers = self.text(values[1:])
            return (
                f"if 0 is a pixel without a class, give --task.ignore-index 0 --task.mask-values "
                f"{numbers}; if 0 is a class, name {num_classes + 1} classes"
            )
        if len(values) < num_classes:
            return (
                f"give the mask value of each of the {num_classes} classes, in order, with "
                f"--{self.option}, or the value of pixels without a class with --task.ignore-index"
            )
        if ignore_index is None and len(values) == num_classes + 1:
            last = next((v for v in values if v < 0), values[-1])
            return (
                f"if {last} is a pixel without a class, give --task.ignore-index {last}; if it is "
                f"a class, name {num_classes + 1} classes"
            ) + ("" if last < 0 or values[:-1] == list(range(num_classes)) else
                 f" and give their values with --{self.option} {self.text(values)}")  # fmt: skip
        return (
            f"{len(values)} different values for {num_classes} classes are numbers of objects "
            "(instances), or edges of masks saved as JPEG or resized smoothly: save masks as PNG "
            "with one value for each class"
        )


MaskEncoding.plain = MaskEncoding()


def encoding_of(values: Sequence[int], colors: Sequence[str]) -> MaskEncoding:
    """Return the encoding of options: values, or colors as RRGGBB; raise ValueError for both."""
    if values and colors:
        raise ValueError("mask_values and mask_colors are two ways to read a mask: give one")
    if colors:
        return MaskEncoding(tuple(map(parse_color, colors)), colors=True)
    return MaskEncoding(tuple(values))


def parse_color(text: str) -> int:
    """Return "RRGGBB" or "#RRGGBB", hexadecimal, as a number; raise ValueError for other texts."""
    if not re.fullmatch(r"#?[0-9a-fA-F]{6}", text):
        raise ValueError(f"a color is written RRGGBB in hexadecimal, as 804080, not {text!r}")
    return int(text.removeprefix("#"), 16)


def raw_values(image: Image.Image, encoding: MaskEncoding) -> RawValues:
    """Return the numbers of an upright mask, colors as 0xRRGGBB.

    Raise ValueError for a mode that holds neither, naming the colors of a colored mask.
    """
    if encoding.colors and image.mode in COLOR_MODES:
        if has_transparent_pixels(image):
            raise ValueError(f"has mode {image.mode} with {TRANSPARENT}")
        return _packed(image)
    if not encoding.colors and (numbers := whole_numbers(image)) is not None:
        return numbers
    wanted = "colors" if encoding.colors else "one channel of numbers"
    message = f"has mode {image.mode}, not {wanted}"
    if has_transparent_pixels(image):
        raise ValueError(f"{message}; it has {TRANSPARENT}")
    if image.mode not in ("RGB", "RGBA"):
        raise ValueError(message)
    colors, seen = MaskEncoding(colors=True), np.unique(_packed(image)).tolist()
    message += (
        f"; it holds the colors {colors.text(seen)}: give the color of each class, in order, with "
        f"--{colors.option}"
    )
    raise ForeignValues(seen, message, colors=True)


def _packed(image: Image.Image) -> RawValues:
    channels = np.asarray(image.convert("RGB")).astype(np.int64)
    return channels @ np.array([0x10000, 0x100, 1])


def encode(labels: MaskValues, encoding: MaskEncoding, palette: Sequence[int]) -> Image.Image:
    """Return class indices as an image that the encoding reads back.

    palette  RGB of the values 0 to 255, one after the other, for masks of small numbers
    """
    if not encoding.values:
        return _with_palette(labels, palette)
    values = np.array(encoding.values)[labels]
    if encoding.colors:
        channels = [values >> 16, values >> 8 & 0xFF, values & 0xFF]
        return Image.fromarray(np.stack(channels, 2).astype(np.uint8))
    if max(encoding.values) > 255:
        return Image.fromarray(values.astype(np.uint16))
    return _with_palette(values.astype(np.uint8), palette)


def _with_palette(values: UInt8[np.ndarray, "height width"], palette: Sequence[int]) -> Image.Image:
    image = Image.fromarray(np.ascontiguousarray(values)).convert("P")
    image.putpalette(list(palette))
    return image
