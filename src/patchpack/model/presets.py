"""Named model configs: `navit_<size><patch>`, as `navit_s16`, and for video `navit_s16x2`.

x2 is the number of frames per tubelet, as in ViViT (arXiv 2103.15691). Widths and depths are those
of ViT (arXiv 2010.11929), DeiT's Ti and S (arXiv 2012.12877), and SoViT-400m (arXiv 2305.13035);
everything else follows NaViT (arXiv 2307.06304).
"""

from typing import Any

from patchpack.batch import Tubelet
from patchpack.model.navit import NaViTConfig
from patchpack.model.video import VideoConfig
from patchpack.serialization import nearest, with_fields

SIZES: dict[str, dict[str, int]] = {
    "ti": {"dim": 192, "depth": 12, "num_heads": 3, "mlp_dim": 768},
    "s": {"dim": 384, "depth": 12, "num_heads": 6, "mlp_dim": 1536},
    "b": {"dim": 768, "depth": 12, "num_heads": 12, "mlp_dim": 3072},
    "l": {"dim": 1024, "depth": 24, "num_heads": 16, "mlp_dim": 4096},
    "so400m": {"dim": 1152, "depth": 27, "num_heads": 16, "mlp_dim": 4304},
    "h": {"dim": 1280, "depth": 32, "num_heads": 16, "mlp_dim": 5120},
}
SHAPE = ("dim", "depth", "num_heads", "mlp_dim", "patch_size")  # the fields that a name gives
PATCH_SIZES = (8, 14, 16, 32)


def _presets() -> dict[str, NaViTConfig]:
    """Return image configs, then video configs, each from small to large."""
    shapes: dict[str, dict[str, Any]] = {
        f"navit_{size}{patch}": {**shape, "patch_size": patch}
        for size, shape in SIZES.items()
        for patch in PATCH_SIZES
    }
    images = {name: NaViTConfig(**shape) for name, shape in shapes.items()}
    clips = {
        f"{name}x2": VideoConfig(
            **shape, tubelets=(Tubelet(2, shape["patch_size"], shape["patch_size"]),)
        )
        for name, shape in shapes.items()
    }
    return {**images, **clips}


PRESETS = _presets()


def list_models() -> list[str]:
    """Return the names that `create_model` takes: image models, then video models, small first."""
    return list(PRESETS)


def model_config(name: str, **changes: object) -> NaViTConfig:
    """Return the config of a named model, with the given fields replaced.

    Raise ValueError for an unknown name or field; the message suggests the closest known one.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown model {name!r}{nearest(name, list_models())}")
    return with_fields(PRESETS[name], changes)
