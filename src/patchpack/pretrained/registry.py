"""The families, and the lookup of the one that a source belongs to. A new family is one file, and
one line here."""

from collections.abc import Callable
from dataclasses import dataclass

from patchpack.pretrained.big_vision import convert_big_vision
from patchpack.pretrained.clip import convert_clip, convert_open_clip
from patchpack.pretrained.converted import Converted
from patchpack.pretrained.dinov2 import convert_dinov2
from patchpack.pretrained.errors import PretrainedError
from patchpack.pretrained.siglip import convert_siglip, convert_siglip2_naflex
from patchpack.pretrained.source import Layout, Source
from patchpack.pretrained.timm_naflexvit import convert_naflexvit
from patchpack.pretrained.timm_vit import convert_timm_vit
from patchpack.pretrained.tips import convert_tips
from patchpack.pretrained.vit import convert_vit
from patchpack.serialization import nearest


@dataclass(frozen=True)
class Family:
    """A family of weights in one layout."""

    layout: Layout
    model_types: tuple[str, ...]  # of transformers; empty: the layout alone decides
    convert: Callable[[Source], Converted]


FAMILIES = (
    Family("transformers", ("siglip2", "siglip2_vision_model"), convert_siglip2_naflex),
    Family("transformers", ("siglip", "siglip_vision_model"), convert_siglip),
    Family("transformers", ("vit", "deit", "vit_mae", "ijepa"), convert_vit),
    Family("transformers", ("dinov2", "dinov2_with_registers"), convert_dinov2),
    Family("transformers", ("tipsv2", "tipsv2_vision_model"), convert_tips),
    Family("transformers", ("clip", "clip_vision_model"), convert_clip),
    Family("open_clip", (), convert_open_clip),
    Family("big_vision", (), convert_big_vision),
)


def convert_source(source: Source) -> Converted:
    """Convert a source by its family; raise PretrainedError for a family that is unknown."""
    if source.layout == "timm":
        naflex = str(source.config.get("architecture")).startswith("naflexvit")
        return (convert_naflexvit if naflex else convert_timm_vit)(source)
    kind = source.config.get("model_type", "")
    for family in FAMILIES:
        if family.layout == source.layout and (
            not family.model_types or kind in family.model_types
        ):
            return family.convert(source)
    known = [name for family in FAMILIES for name in family.model_types]
    raise PretrainedError(
        f"{source.name}: model_type {kind!r} of transformers is not supported"
        f"{nearest(str(kind), known)}"
    )
