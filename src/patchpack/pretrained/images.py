"""The image preprocessing of a source: normalization, resize filter, and size.

Values of a source are on the 0..1 scale: (x / 255 - mean) / std. The size is that of the square to
which the source resizes or crops its images. Here images keep their aspect ratio: the square gives
the area.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from patchpack.data.packing.resolution import FixedArea, NaFlex, Resolution
from patchpack.model.interpolation import Filter
from patchpack.pretrained.errors import PretrainedError
from patchpack.pretrained.fields import Fields

Channels = tuple[float, float, float]
IMAGENET: tuple[Channels, Channels] = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF: tuple[Channels, Channels] = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
CLIP: tuple[Channels, Channels] = (
    (0.48145466, 0.4578275, 0.40821073),
    (0.26862954, 0.26130258, 0.27577711),
)
PILLOW_FILTERS: dict[int, Filter] = {2: "bilinear", 3: "bicubic"}  # numbers in transformers' files
NAMED_FILTERS: dict[str, Filter] = {"bilinear": "bilinear", "bicubic": "bicubic"}
MAX_NAFLEX_PATCHES = 256  # per image, where a NaFlex source names no number


@dataclass(frozen=True, kw_only=True)
class ImageInput:
    """How a source prepares images."""

    mean: Channels  # subtracted from pixels on the 0..1 scale
    std: Channels  # divides pixels after that
    filter: Filter  # of the resize, antialiased
    side: int | None = None  # of the square that images become, in pixels; None: NaFlex
    tokens: int = MAX_NAFLEX_PATCHES  # maximum patches per image of NaFlex

    def resolution(self) -> Resolution:
        """The rule for sizes: NaFlex's, or the area of the source's square at any aspect ratio."""
        return NaFlex(tokens=self.tokens) if self.side is None else FixedArea(side=self.side)

    def eval_tokens(self, patch_size: int) -> int:
        """Patches of an image of the source."""
        return self.tokens if self.side is None else max(1, self.side // patch_size) ** 2


IGNORED = frozenset(
    """processor_class image_processor_type feature_extractor_type do_convert_rgb data_format
    input_data_format do_pad pad_size crop_pct return_tensors device disable_grouping
    default_to_square _valid_processor_keys auto_map image_seq_length""".split()
)


def transformers_image(
    values: Mapping[str, Any] | None, default: ImageInput, patch_size: int, source: str
) -> ImageInput:
    """From preprocessor_config.json; keys that it lacks, and a missing file, have the defaults.

    Raise PretrainedError for another resize filter or patch size than this library has.
    """
    if values is None:
        return default
    fields = Fields(values, f"{source}/preprocessor_config.json", IGNORED)
    mean, std = (
        _channels(fields, name, value)
        for name, value in (("image_mean", default.mean), ("image_std", default.std))
    )
    if not fields.take("do_normalize", True):
        mean, std = (0.0,) * 3, (1.0,) * 3
    factor = fields.take("rescale_factor", 1 / 255)
    unit = 255 * (factor if fields.take("do_rescale", True) else 1.0)
    number = next((n for n, name in PILLOW_FILTERS.items() if name == default.filter), 3)
    resample = fields.take("resample", number)
    if resample not in PILLOW_FILTERS:
        raise PretrainedError(
            f"{fields.source}: resample {resample} is not supported; bilinear is 2, bicubic 3"
        )
    fields.fixed("do_resize", True)
    fields.fixed("patch_size", patch_size, [patch_size] * 2, None)
    size, crop = _side(fields, "size"), _side(fields, "crop_size")
    crop = crop if fields.take("do_center_crop", crop is not None) else None
    tokens = fields.take("max_num_patches", default.tokens)
    fields.finish()
    return ImageInput(
        mean=tuple(m / unit for m in mean),  # pyrefly: ignore
        std=tuple(s / unit for s in std),  # pyrefly: ignore
        filter=PILLOW_FILTERS[resample],
        side=None if default.side is None else crop or size or default.side,
        tokens=tokens,
    )


def _channels(fields: Fields, name: str, default: Channels) -> Channels:
    value = fields.raw(name)
    if value is None:
        return default
    numbers = [v for v in value if isinstance(v, int | float)] if isinstance(value, list) else []
    if len(numbers) != 3 or (name == "image_std" and not min(numbers) > 0):
        raise PretrainedError(f"{fields.source}: {name} must be 3 numbers, not {value!r}")
    return float(numbers[0]), float(numbers[1]), float(numbers[2])


def _side(fields: Fields, name: str) -> int | None:
    """A size in any of the forms of transformers: a number, both sides, or the shortest edge."""
    value = fields.raw(name)
    if isinstance(value, Mapping):
        sides = {v for v in value.values() if v is not None}
        value = next(iter(sides)) if len(sides) == 1 else None
        if value is None:
            raise PretrainedError(f"{fields.source}: {name} {fields.raw(name)} is no square")
    if value is not None and (type(value) is not int or value < 1):
        raise PretrainedError(f"{fields.source}: {name} must be a side in pixels, not {value!r}")
    return value


def timm_image(values: Mapping[str, Any], source: str, naflex_patch: int | None) -> ImageInput:
    """From `pretrained_cfg` of timm's config.json.

    naflex_patch  patch size of a NaFlex model; None: a model of squares
    """
    fields = Fields(values, f"{source}/config.json, pretrained_cfg")
    mean, std = (
        _channels(fields, name, value)
        for name, value in zip(("mean", "std"), IMAGENET, strict=True)
    )
    interpolation = fields.take("interpolation", "bicubic")
    if interpolation not in NAMED_FILTERS:
        raise PretrainedError(f"{fields.source}: interpolation {interpolation!r} is not supported")
    size = values.get("input_size", [3, 224, 224])
    if not (isinstance(size, list) and len(size) == 3 and size[0] == 3 and size[1] == size[2]):
        raise PretrainedError(f"{fields.source}: input_size {size!r} is no square of 3 channels")
    image = ImageInput(mean=mean, std=std, filter=NAMED_FILTERS[interpolation], side=size[1])
    if naflex_patch is None:
        return image
    return replace(image, side=None, tokens=max(1, size[1] // naflex_patch) ** 2)


def open_clip_image(values: Mapping[str, Any], side: int, source: str) -> ImageInput:
    """From `preprocess_cfg` of open_clip's config.

    side  of the model's images, where the config has no size
    """
    ignored = ("resize_mode", "fill_color")  # of the square: images keep their aspect ratio here
    fields = Fields(values, f"{source}/open_clip_config.json, preprocess_cfg", ignored)
    mean, std = (
        _channels(fields, name, value) for name, value in zip(("mean", "std"), CLIP, strict=True)
    )
    interpolation = fields.take("interpolation", "bicubic")
    if interpolation not in NAMED_FILTERS:
        raise PretrainedError(f"{fields.source}: interpolation {interpolation!r} is not supported")
    fields.fixed("mode", "RGB")
    side = fields.side("size", side)
    fields.finish()
    return ImageInput(mean=mean, std=std, filter=NAMED_FILTERS[interpolation], side=side)
