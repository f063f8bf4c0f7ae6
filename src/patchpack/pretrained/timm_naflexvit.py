"""NaFlexViT of timm: gap, par_gap, parfac_gap, map and siglip models.

Registers have no positions and are not pooled. "par" models (aspect preserving) extend their table
to the longer side of an image; "parfac" models have a table per axis, whose sum they take.
"""

import re

from torch import Tensor

from patchpack.model.navit import NaViTConfig
from patchpack.model.positions import Factorized, Interpolated, Positions
from patchpack.pretrained.blocks import TIMM, put, read_blocks, read_map_pool
from patchpack.pretrained.converted import Converted, converted
from patchpack.pretrained.errors import PretrainedError
from patchpack.pretrained.fields import Fields
from patchpack.pretrained.images import timm_image
from patchpack.pretrained.source import Source
from patchpack.pretrained.timm_vit import MAP, map_projections, read_head, timm_arguments
from patchpack.pretrained.weights import Weights

NAME = re.compile(
    r"naflexvit_(?P<size>base|so150m2|so400m)_patch16_(?:reg1_)?"
    r"(?P<kind>gap|par_gap|parfac_gap|map|siglip)"
)
SIZES = {"base": (768, 12), "so150m2": (832, 13), "so400m": (1152, 16)}  # width, heads
PATCH = 16
FIXED = {"class_token": False, "qk_norm": False, "pos_embed_use_grid_sample": False,
         "rope_type": "", "pre_norm": False, "pool_include_prefix": False}  # fmt: skip


def convert_naflexvit(source: Source) -> Converted:
    """A NaFlexViT without rotary positions."""
    name = source.config["architecture"]
    match = NAME.fullmatch(name)
    if match is None:
        raise PretrainedError(
            f"{source.name}: timm's architecture {name!r} is not supported; of NaFlexViT, the "
            "models gap, par_gap, parfac_gap, map and siglip are"
        )
    kind, (dim, num_heads) = match["kind"], SIZES[match["size"]]
    fields = Fields(
        timm_arguments(source), source.name,
        {"num_classes", "depth", "mlp_ratio", "drop_rate", "drop_path_rate", "init_values",
         "global_pool", "img_size", "pretrained"},
    )  # fmt: skip
    fields.fixed("in_chans", 3)
    for key, value in FIXED.items():
        fields.fixed(key, value)
    dim = fields.take("embed_dim", dim)
    num_heads = fields.take("num_heads", num_heads)
    patch = fields.side("patch_size", PATCH)
    reg1 = "reg1" in name or kind == "map"
    registers = fields.take("reg_tokens", 0 if kind == "siglip" else 1 if reg1 else 4)
    fields.finish()
    pool = source.config.get("global_pool", "avg" if kind.endswith("gap") else "map")
    if pool not in ("avg", "map"):
        raise PretrainedError(f"{source.name}: global_pool {pool!r} is not supported")
    weights = Weights(source.tensors, source.name)
    depth = weights.count("blocks.{i}.attn.qkv.weight")
    if not depth:
        raise PretrainedError(f"{source.name}: there are no blocks in the tensors of {name}")
    image = timm_image(source.config.get("pretrained_cfg", {}), source.name, patch)
    config = NaViTConfig(
        dim=dim, depth=depth, num_heads=num_heads,
        mlp_dim=(weights.shape("blocks.0.mlp.fc1.weight") or (4 * dim,))[0],
        patch_size=patch, bias=True, qk_norm=False, norm_eps=1e-6,
        activation="gelu_tanh" if kind == "siglip" else "gelu",
        layer_scale=1.0 if weights.has("blocks.0.ls1.gamma") else None,
        positions=_positions(weights, kind), registers=registers,
        pooling="mean" if pool == "avg" else "map", pool_registers=False,
        final_norm="pooled" if pool == "avg" else "tokens", resize_filter=image.filter,
    )  # fmt: skip
    backbone = _backbone(weights, config)
    embedding = weights.linear("embeds.proj", dim, config.patch_dim)
    head, classes = read_head(weights, source, dim)
    left_out = weights.finish()
    return converted(
        f"timm {name}", config, backbone, embedding, image,
        head=head, classes=classes, left_out=left_out,
    )  # fmt: skip


def _positions(weights: Weights, kind: str) -> Positions:
    if kind == "parfac_gap":
        rows = (weights.shape("embeds.pos_embed_y") or (1, 16))[1]
        return Factorized(table_size=rows, combine="sum", coordinates="aspect")
    return Interpolated(
        side=(weights.shape("embeds.pos_embed") or (1, 16))[1],
        filter="bilinear" if kind == "siglip" else "bicubic",
        antialias=True,
        coordinates="aspect" if kind == "par_gap" else "fractional",
    )


def _backbone(weights: Weights, config: NaViTConfig) -> dict[str, Tensor]:
    dim, positions = config.dim, config.positions
    qkv_bias = weights.has("blocks.0.attn.qkv.bias")
    tensors = read_blocks(weights, config, TIMM, qkv_bias=qkv_bias)
    if isinstance(positions, Factorized):
        for axis in ("y", "x"):
            table = weights.take(f"embeds.pos_embed_{axis}", 1, positions.table_size, dim)
            tensors[f"positions.{axis}"] = table[0]
    else:
        assert isinstance(positions, Interpolated)
        side = positions.side
        tensors["positions.table"] = weights.take("embeds.pos_embed", 1, side, side, dim)[0]
    if config.registers:
        tensors["registers"] = weights.take("embeds.reg_token", 1, config.registers, dim)[0]
    if config.pooling == "map":
        put(tensors, "encoder.norm", weights.norm("norm", dim))
        tensors |= read_map_pool(weights, config, MAP, lambda: map_projections(weights, dim))
    else:
        put(tensors, "pool_norm", weights.norm("fc_norm", dim))
    return tensors
