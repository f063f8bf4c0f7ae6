"""Names for the usual sizes: `navit_<size><patch>`, as `navit_s16`.

Widths and depths are those of ViT (arXiv 2010.11929), DeiT's Ti and S (arXiv 2012.12877), and
SoViT-400m (arXiv 2305.13035); everything else is the paper's.
"""

from patchpack.model.navit import NaViTConfig
from patchpack.serial import nearest, with_fields

SIZES: dict[str, dict[str, int]] = {
    "ti": {"dim": 192, "depth": 12, "heads": 3, "mlp_dim": 768},
    "s": {"dim": 384, "depth": 12, "heads": 6, "mlp_dim": 1536},
    "b": {"dim": 768, "depth": 12, "heads": 12, "mlp_dim": 3072},
    "l": {"dim": 1024, "depth": 24, "heads": 16, "mlp_dim": 4096},
    "so400m": {"dim": 1152, "depth": 27, "heads": 16, "mlp_dim": 4304},
    "h": {"dim": 1280, "depth": 32, "heads": 16, "mlp_dim": 5120},
}
PATCH_SIZES = (8, 14, 16, 32)


PRESETS: dict[str, dict[str, int]] = {
    f"navit_{size}{patch}": {**shape, "patch_size": patch}
    for size, shape in SIZES.items()
    for patch in PATCH_SIZES
}


def list_models() -> list[str]:
    """The names that `create_model` takes, smallest first."""
    return list(PRESETS)


def model_config(name: str, **changes: object) -> NaViTConfig:
    """The config of a named model, some of its fields replaced.

    Raises ValueError for a name or a field that does not exist, with the nearest one that does.
    """
    if name not in PRESETS:
        raise ValueError(f"there is no model {name!r}{nearest(name, list_models())}")
    return with_fields(NaViTConfig(**PRESETS[name]), changes)  # pyrefly: ignore
