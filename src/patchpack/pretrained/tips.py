"""TIPS v2 of transformers (arXiv 2604.12012): DINOv2's layout with one register.

The feature vector is the class token after the final norm. Positions are resized bilinearly with
antialiasing; pixels are on the 0..1 scale, not normalized. Texts are left out.
"""

from dataclasses import replace

import torch

from patchpack.model.navit import NaViTConfig
from patchpack.model.positions import Interpolated
from patchpack.pretrained.blocks import TIMM, put, read_blocks
from patchpack.pretrained.converted import Converted, converted
from patchpack.pretrained.dinov2 import IGNORED
from patchpack.pretrained.fields import Fields
from patchpack.pretrained.folds import conv_to_linear
from patchpack.pretrained.images import ImageInput, transformers_image
from patchpack.pretrained.source import Source
from patchpack.pretrained.transformers_config import (
    ACTIVATIONS,
    mlp_width,
    prefix_of,
    vision_config,
)
from patchpack.pretrained.weights import Affine, Weights

NAMES = replace(TIMM, up="mlp.c_fc", down="mlp.c_proj")
LEFT_OUT = ("*mask_token", "text_encoder.*", "text_model.*", "temperature", "logit_scale")


def convert_tips(source: Source) -> Converted:
    """A TIPS v2 image tower."""
    fields = Fields(vision_config(source), source.name, IGNORED)
    patch, image_side = fields.side("patch_size", 14), fields.side("image_size", 448)
    side, registers = image_side // patch, fields.take("num_register_tokens", 1)
    fields.fixed("num_channels", 3)
    fields.fixed("use_swiglu_ffn", False)
    default = ImageInput(
        mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), filter="bilinear", side=image_side
    )
    image = transformers_image(source.preprocessor, default, patch, source.name)
    activation = fields.choice("hidden_act", ACTIVATIONS, "gelu")
    dim, qkv_bias = fields.take("hidden_size", 768), fields.take("qkv_bias", True)
    config = NaViTConfig(
        dim=dim,
        depth=fields.take("num_hidden_layers", 12),
        num_heads=fields.take("num_attention_heads", 12),
        mlp_dim=mlp_width(fields, dim, 4.0),
        patch_size=patch,
        bias=True,
        qk_norm=False,
        norm_eps=fields.take("layer_norm_eps", 1e-6),
        activation=activation.name,
        layer_scale=fields.take("layerscale_value", 1.0),
        positions=Interpolated(side=side, filter="bilinear", antialias=True),
        registers=1 + registers,
        pooling="first",
        resize_filter=image.filter,
    )
    fields.finish()
    weights = Weights(source.tensors, source.name)
    prefix = prefix_of(weights, "vision_encoder.", "cls_token")
    backbone = read_blocks(
        weights, config, NAMES, prefix, qkv_bias=qkv_bias, quick_gelu=activation.quick
    )
    put(backbone, "encoder.norm", weights.norm(f"{prefix}norm", dim))
    table = weights.take(f"{prefix}pos_embed", 1, 1 + side**2, dim)[0]
    backbone["positions.table"] = table[1:].unflatten(0, (side, side))
    tokens = [weights.take(f"{prefix}cls_token", 1, 1, dim)[0] + table[:1]]
    if registers:
        tokens.append(weights.take(f"{prefix}register_tokens", 1, registers, dim)[0])
    backbone["registers"] = torch.cat(tokens)
    kernel = weights.take(f"{prefix}patch_embed.proj.weight", dim, 3, patch, patch)
    bias = weights.take(f"{prefix}patch_embed.proj.bias", dim)
    left_out = weights.finish(LEFT_OUT)
    embedding = Affine(conv_to_linear(kernel), bias)
    return converted("TIPS v2", config, backbone, embedding, image, left_out=left_out)
