"""Vision transformers of timm: augreg, DeiT, DeiT III, MAE, DINOv2, TIPS v2, CLIP, SigLIP.

Steiner et al., arXiv 2106.10270; Touvron et al., arXiv 2204.07118. A config of timm names an
architecture, whose sizes stand in timm's code; here the size in the name gives width and heads, the
tensors the rest. timm resizes positions bicubically with antialiasing.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from patchpack.model.navit import NaViTConfig
from patchpack.model.positions import Interpolated
from patchpack.pretrained.blocks import TIMM, MapNames, put, read_blocks, read_map_pool
from patchpack.pretrained.converted import Converted, converted, named_classes
from patchpack.pretrained.errors import PretrainedError
from patchpack.pretrained.fields import Fields
from patchpack.pretrained.folds import conv_to_linear, square_side
from patchpack.pretrained.images import timm_image
from patchpack.pretrained.source import Source
from patchpack.pretrained.weights import Affine, Weights

NAME = re.compile(
    r"(?P<kind>vit|deit|deit3)_(?P<size>[a-z0-9]+)_patch(?P<patch>\d+)_"
    r"(?P<rest>\d+|dinov2|reg4_dinov2|reg1_tipsv2|gap_\d+|reg\d_gap_\d+|clip_\d+"
    r"|clip_quickgelu_\d+|siglip_\d+|siglip_gap_\d+)"
)
SIZES = {  # width, heads
    "tiny": (192, 3), "xsmall": (256, 4), "small": (384, 6), "medium": (512, 8),
    "mediumd": (512, 8), "betwixt": (640, 10), "base": (768, 12), "large": (1024, 16),
    "huge": (1280, 16), "giant": (1408, 16), "gigantic": (1664, 16), "so400m": (1152, 16),
    "giantopt": (1536, 16),
}  # fmt: skip
OTHER_HEADS = {"vit_base_patch16_gap_224": 16}
# SigLIP models whose activation is the tanh form in timm; that of the others is the exact one.
TANH = re.compile(
    r"vit_(base_patch32_siglip_256|large_patch16_siglip(_gap)?_512|base_patch32_siglip_gap_256"
    r"|so400m_patch16_siglip(_gap)?_\d+|giantopt_patch16_siglip(_gap)?_\d+)"
)
# SigLIP's pooling weights may be left in files of models that average.
LEFT_OUT = ("mask_token",)
MAP = MapNames(
    probe="attn_pool.latent",
    out="attn_pool.proj",
    norm="attn_pool.norm",
    up="attn_pool.mlp.fc1",
    down="attn_pool.mlp.fc2",
)
EXAMPLES = "vit_base_patch16_224, deit3_small_patch16_224, vit_small_patch14_reg4_dinov2"


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What the name of an architecture, and the arguments beside it, give."""

    name: str
    patch: int
    dim: int
    num_heads: int
    clip: bool
    quick_gelu: bool
    tanh: bool
    first_tokens: Mapping[str, int]  # their number, by the name of the tensor
    fc_norm: bool | None  # None: as timm chooses for the pooling


def convert_timm_vit(source: Source) -> Converted:
    """A vision transformer of timm."""
    arch, pooling = _architecture(source)
    weights, dim = Weights(source.tensors, source.name), arch.dim
    depth = weights.count("blocks.{i}.attn.qkv.weight")
    mlp_dim = (weights.shape("blocks.0.mlp.fc1.weight") or (4 * dim,))[0]
    first = {n: count for n, count in arch.first_tokens.items() if count}
    rows = (weights.shape("pos_embed") or (1, 1, dim))[1]
    registers = sum(first.values())
    placed = 0 if square_side(rows) else registers  # first tokens that have positions
    side = square_side(rows - placed)
    if side is None or not depth:
        raise PretrainedError(
            f"{source.name}: {depth} blocks and a table of {rows} positions are no {arch.name}"
        )
    image = timm_image(source.config.get("pretrained_cfg", {}), source.name, None)
    pooled_norm = pooling == "mean" and (arch.fc_norm is None or arch.fc_norm)
    activation = "silu" if arch.quick_gelu else "gelu_tanh" if arch.tanh else "gelu"
    config = NaViTConfig(
        dim=dim, depth=depth, num_heads=arch.num_heads, mlp_dim=mlp_dim, patch_size=arch.patch,
        bias=True, qk_norm=False, norm_eps=1e-5 if arch.clip else 1e-6, activation=activation,
        layer_scale=1.0 if weights.has("blocks.0.ls1.gamma") else None,
        positions=Interpolated(side=side, filter="bicubic", antialias=True),
        registers=registers, pooling=pooling, pool_registers=pooling == "map",
        final_norm="pooled" if pooled_norm else "tokens", embed_norm=arch.clip,
        resize_filter=image.filter,
    )  # fmt: skip
    qkv_bias = weights.has("blocks.0.attn.qkv.bias")
    backbone = read_blocks(weights, config, TIMM, qkv_bias=qkv_bias, quick_gelu=arch.quick_gelu)
    if pooled_norm:
        put(backbone, "pool_norm", weights.norm("fc_norm", dim))
    else:
        put(backbone, "encoder.norm", weights.norm("norm", dim))
    if arch.clip:
        put(backbone, "embed_norm", weights.norm("norm_pre", dim))
    table = weights.take("pos_embed", 1, placed + side**2, dim)[0]
    backbone["positions.table"] = table[placed:].unflatten(0, (side, side))
    if first:
        tokens = [weights.take(name, 1, count, dim)[0] for name, count in first.items()]
        backbone["registers"] = torch.cat(tokens)
        if placed:
            backbone["registers"] = backbone["registers"] + table[:placed]
    if pooling == "map":
        backbone |= read_map_pool(weights, config, MAP, lambda: map_projections(weights, dim))
    kernel = weights.take("patch_embed.proj.weight", dim, 3, arch.patch, arch.patch)
    bias = torch.zeros(dim) if arch.clip else weights.take("patch_embed.proj.bias", dim)
    head, classes = read_head(weights, source, dim)
    left_out = weights.finish(LEFT_OUT)
    return converted(
        f"timm {arch.name}", config, backbone, Affine(conv_to_linear(kernel), bias), image,
        head=head, classes=classes, left_out=left_out,
    )  # fmt: skip


def map_projections(weights: Weights, dim: int) -> tuple[Affine, Affine]:
    """The projections of timm's attention pool."""
    return weights.linear("attn_pool.q", dim, dim), weights.linear("attn_pool.kv", 2 * dim, dim)


def read_head(weights: Weights, source: Source, dim: int) -> tuple[Affine | None, tuple[str, ...]]:
    """The classifier and its class names; none for a model without classes."""
    count = Fields(source.config, source.name).take("num_classes", 0)
    if not count:
        return None, ()
    names = source.config.get("label_names")
    return weights.linear("head", count, dim), named_classes(names, count, source.name)


def timm_arguments(source: Source) -> dict[str, Any]:
    """`model_args`, checked to be an object; the keys beside it are known."""
    Fields(
        source.config, source.name,
        {"architecture", "num_classes", "num_features", "global_pool", "model_args",
         "pretrained_cfg", "label_names", "label_descriptions"},
    ).finish()  # fmt: skip
    arguments = source.config.get("model_args", {})
    if not isinstance(arguments, dict) or not isinstance(
        source.config.get("pretrained_cfg", {}), dict
    ):
        raise PretrainedError(f"{source.name}: model_args and pretrained_cfg must be objects")
    return arguments


def _architecture(source: Source) -> tuple[Architecture, Any]:
    name = source.config["architecture"]
    match = NAME.fullmatch(name) if isinstance(name, str) else None
    if match is None or match["size"] not in SIZES:
        raise PretrainedError(
            f"{source.name}: timm's architecture {name!r} is not supported; supported are plain "
            f"vision transformers, as {EXAMPLES}, and naflexvit"
        )
    fields = Fields(
        timm_arguments(source), source.name,
        {"num_classes", "img_size", "depth", "mlp_ratio", "drop_rate", "drop_path_rate",
         "init_values", "dynamic_img_size", "strict_img_size", "pretrained"},
    )  # fmt: skip
    fields.fixed("in_chans", 3)
    rest, (dim, num_heads) = match["rest"], SIZES[match["size"]]
    siglip, averaged = "siglip" in rest, "gap" in rest
    default = "avg" if averaged else "map" if siglip else "token"
    pool = fields.take("global_pool", source.config.get("global_pool", default))
    pooling = {"token": "first", "avg": "mean", "map": "map"}.get(pool)
    if pooling is None:
        raise PretrainedError(f"{source.name}: global_pool {pool!r} is not supported")
    fc_norm = fields.raw("fc_norm", False if averaged and "reg" not in rest else None)
    registers = re.search(r"reg(\d)", rest)
    has_class_token = fields.take("class_token", not (siglip or averaged))
    first_tokens = {
        "cls_token": int(has_class_token),
        "reg_token": fields.take("reg_tokens", int(registers[1]) if registers else 0),
    }
    if pooling == "first" and not has_class_token:
        raise PretrainedError(f"{source.name}: global_pool 'token' needs a class token")
    architecture = Architecture(
        name=name,
        patch=fields.side("patch_size", int(match["patch"])),
        dim=fields.take("embed_dim", dim),
        num_heads=fields.take("num_heads", OTHER_HEADS.get(name, num_heads)),
        clip="clip" in rest,
        quick_gelu="quickgelu" in rest,
        tanh=TANH.fullmatch(name) is not None,
        first_tokens=first_tokens,
        fc_norm=fc_norm,
    )
    fields.finish()
    return architecture, pooling
