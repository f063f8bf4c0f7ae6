"""CLIP of transformers and open_clip: image towers with a norm before the blocks.

Radford et al., arXiv 2103.00020. The feature vector is the class token after the final norm, which
the tokens of open_clip get too. Where transformers' files have a tokenizer, the text side is
converted too (`clip_text.py`); else it is left out, with the projection into the shared space.
"""

from dataclasses import dataclass, replace

import torch

from patchpack.model.navit import NaViTConfig
from patchpack.model.positions import Interpolated
from patchpack.pretrained.blocks import TRANSFORMERS_CLIP, BlockNames, put, read_blocks
from patchpack.pretrained.clip_text import read_clip_texts
from patchpack.pretrained.converted import Converted, converted
from patchpack.pretrained.errors import PretrainedError
from patchpack.pretrained.fields import BOOKKEEPING, Fields
from patchpack.pretrained.folds import conv_to_linear
from patchpack.pretrained.images import CLIP, ImageInput, open_clip_image, transformers_image
from patchpack.pretrained.source import Source
from patchpack.pretrained.transformers_config import (
    ACTIVATIONS,
    Activation,
    prefix_of,
    vision_config,
)
from patchpack.pretrained.weights import Affine, Weights

LEFT_OUT = ("*position_ids", "text_model.*", "visual_projection.*", "text_projection.*",
            "logit_scale", "logit_bias", "visual.proj", "token_embedding.*",
            "positional_embedding", "transformer.*", "ln_final.*", "text_projection")  # fmt: skip
OPEN_CLIP_BLOCKS = BlockNames(
    block="transformer.resblocks.{i}.",
    attention_norm="ln_1",
    qkv=("attn.in_proj_",),
    out="attn.out_proj",
    mlp_norm="ln_2",
    up="mlp.c_fc",
    down="mlp.c_proj",
)


@dataclass(frozen=True, kw_only=True)
class Names:
    """Names of the tensors outside the blocks."""

    prefix: str  # of the image tower; files of the tower alone may lack it
    blocks: BlockNames
    patch: str
    class_token: str
    positions: str
    norm_before: str
    norm_after: str


TRANSFORMERS_NAMES = Names(
    prefix="vision_model.",
    blocks=TRANSFORMERS_CLIP,
    patch="embeddings.patch_embedding.weight",
    class_token="embeddings.class_embedding",
    positions="embeddings.position_embedding.weight",
    norm_before="pre_layrnorm",
    norm_after="post_layernorm",
)
OPEN_CLIP_NAMES = Names(
    prefix="visual.",
    blocks=OPEN_CLIP_BLOCKS,
    patch="conv1.weight",
    class_token="class_embedding",
    positions="positional_embedding",
    norm_before="ln_pre",
    norm_after="ln_post",
)


def convert_clip(source: Source) -> Converted:
    """A CLIP image tower of transformers."""
    fields = Fields(vision_config(source), source.name, BOOKKEEPING | {"projection_dim"})
    patch, image_side = fields.side("patch_size", 32), fields.side("image_size", 224)
    fields.fixed("num_channels", 3)
    default = ImageInput(mean=CLIP[0], std=CLIP[1], filter="bicubic", side=image_side)
    image = transformers_image(source.preprocessor, default, patch, source.name)
    activation = fields.choice("hidden_act", ACTIVATIONS, "quick_gelu")
    config = _config(
        image, activation, patch, image_side,
        dim=fields.take("hidden_size", 768),
        depth=fields.take("num_hidden_layers", 12),
        num_heads=fields.take("num_attention_heads", 12),
        mlp_dim=fields.take("intermediate_size", 3072),
        norm_eps=fields.take("layer_norm_eps", 1e-5),
    )  # fmt: skip
    fields.finish()
    return _convert(source, config, image, TRANSFORMERS_NAMES, activation.quick)


def convert_open_clip(source: Source) -> Converted:
    """A CLIP image tower of open_clip; those that are timm's models are rejected by name."""
    model = Fields(source.config, source.name, {"model_cfg", "preprocess_cfg"})
    model.finish()
    parts = [source.config.get(name, {}) for name in ("model_cfg", "preprocess_cfg")]
    if not all(isinstance(part, dict) for part in parts):
        raise PretrainedError(f"{source.name}: model_cfg and preprocess_cfg must be objects")
    outer = Fields(parts[0], source.name, ("embed_dim", "text_cfg", "init_logit_bias",
                                           "init_logit_scale", "custom_text"))  # fmt: skip
    quick = outer.take("quick_gelu", False)
    vision = outer.raw("vision_cfg")
    outer.finish()
    if not isinstance(vision, dict) or "timm_model_name" in vision:
        raise PretrainedError(
            f"{source.name}: its image tower is timm's "
            f"{vision.get('timm_model_name') if isinstance(vision, dict) else None!r}: convert "
            "the timm model of the same weights"
        )
    fields = Fields(vision, source.name, ("patch_dropout", "output_tokens"))
    patch, image_side = fields.side("patch_size"), fields.side("image_size", 224)
    for name, value in {"attentional_pool": False, "global_average_pool": False,
                        "input_patchnorm": False, "no_ln_pre": False, "ls_init_value": None,
                        "pool_type": "tok", "pos_embed_type": "learnable",
                        "final_ln_after_pool": False}.items():  # fmt: skip
        fields.fixed(name, value)
    dim = fields.require("width", int)
    image = open_clip_image(parts[1], image_side, source.name)
    config = _config(
        image, Activation("silu" if quick else "gelu"), patch, image_side,
        dim=dim,
        depth=fields.require("layers", int),
        num_heads=dim // fields.take("head_width", 64),
        mlp_dim=int(dim * fields.take("mlp_ratio", 4.0)),
        norm_eps=1e-5,
    )  # fmt: skip
    fields.finish()
    # open_clip normalizes all tokens, and resizes positions with antialiasing when it loads them.
    positions = Interpolated(side=image_side // patch, filter="bicubic", antialias=True)
    config = replace(config, final_norm="tokens", positions=positions)
    return _convert(source, config, image, OPEN_CLIP_NAMES, quick)


def _config(
    image: ImageInput, activation: Activation, patch: int, image_side: int,
    *, dim: int, depth: int, num_heads: int, mlp_dim: int, norm_eps: float,
) -> NaViTConfig:  # fmt: skip
    return NaViTConfig(
        dim=dim, depth=depth, num_heads=num_heads, mlp_dim=mlp_dim, patch_size=patch, bias=True,
        qk_norm=False, norm_eps=norm_eps, activation=activation.name,
        positions=Interpolated(side=image_side // patch, filter="bicubic", antialias=False),
        registers=1, pooling="first", final_norm="pooled", embed_norm=True,
        resize_filter=image.filter,
    )  # fmt: skip


def _convert(
    source: Source, config: NaViTConfig, image: ImageInput, names: Names, quick: bool
) -> Converted:
    positions, dim, p = config.positions, config.dim, config.patch_size
    assert isinstance(positions, Interpolated)
    weights, side = Weights(source.tensors, source.name), positions.side
    prefix = prefix_of(weights, names.prefix, names.class_token)
    backbone = read_blocks(weights, config, names.blocks, prefix, quick_gelu=quick)
    put(backbone, "embed_norm", weights.norm(prefix + names.norm_before, dim))
    last = "encoder.norm" if config.final_norm == "tokens" else "pool_norm"
    put(backbone, last, weights.norm(prefix + names.norm_after, dim))
    table = weights.take(prefix + names.positions, 1 + side**2, dim)
    backbone["positions.table"] = table[1:].unflatten(0, (side, side))
    backbone["registers"] = weights.take(prefix + names.class_token, dim)[None] + table[:1]
    kernel = weights.take(prefix + names.patch, dim, 3, p, p)
    embedding = Affine(conv_to_linear(kernel), torch.zeros(dim))
    texts = read_clip_texts(source, weights, dim) if names is TRANSFORMERS_NAMES else None
    left_out = weights.finish(LEFT_OUT)
    family = "CLIP" if names is TRANSFORMERS_NAMES else "OpenCLIP"
    return converted(family, config, backbone, embedding, image, texts=texts, left_out=left_out)
