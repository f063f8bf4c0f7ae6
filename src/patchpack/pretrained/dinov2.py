"""DINOv2 of transformers, with and without registers.

Oquab et al., arXiv 2304.07193; Darcet et al., arXiv 2309.16588. The feature vector is the class
token after the final norm. Positions are resized bicubically, antialiased in models with registers
only. The giant models have gated MLPs, which are not supported.
"""

import torch

from patchpack.model.navit import NaViTConfig
from patchpack.model.positions import Interpolated
from patchpack.pretrained.blocks import BlockNames, put, read_blocks
from patchpack.pretrained.converted import Converted, converted
from patchpack.pretrained.fields import BOOKKEEPING, Fields
from patchpack.pretrained.folds import conv_to_linear
from patchpack.pretrained.images import IMAGENET, ImageInput, transformers_image
from patchpack.pretrained.source import Source
from patchpack.pretrained.transformers_config import ACTIVATIONS, mlp_width, prefix_of
from patchpack.pretrained.weights import Affine, Weights

NAMES = BlockNames(
    block="encoder.layer.{i}.",
    attention_norm="norm1",
    qkv=("attention.attention.query", "attention.attention.key", "attention.attention.value"),
    out="attention.output.dense",
    mlp_norm="norm2",
    up="mlp.fc1",
    down="mlp.fc2",
    scales=("layer_scale1.lambda1", "layer_scale2.lambda1"),
)
# A classifier of transformers reads the class token beside the mean of the patches.
LEFT_OUT = ("*mask_token", "classifier.*")
IGNORED = BOOKKEEPING | {
    "apply_layernorm", "out_features", "out_indices", "reshape_hidden_states", "stage_names",
    "use_mask_token",
}  # fmt: skip
CROP_SIDE = 224  # pixels; of DINOv2's image processor, where a source has none


def convert_dinov2(source: Source) -> Converted:
    """A DINOv2 model, with registers where `model_type` names them."""
    with_registers = source.config["model_type"] == "dinov2_with_registers"
    fields = Fields(source.config, source.name, IGNORED)
    patch = fields.side("patch_size", 16 if with_registers else 14)
    side = fields.side("image_size", 224) // patch
    fields.fixed("num_channels", 3)
    fields.fixed("use_swiglu_ffn", False)
    registers = fields.take("num_register_tokens", 4) if with_registers else 0
    default = ImageInput(mean=IMAGENET[0], std=IMAGENET[1], filter="bicubic", side=CROP_SIDE)
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
        positions=Interpolated(side=side, filter="bicubic", antialias=with_registers),
        registers=1 + registers,
        pooling="first",
        resize_filter=image.filter,
    )
    fields.finish()
    weights = Weights(source.tensors, source.name)
    prefix = prefix_of(weights, f"{source.config['model_type']}.", "embeddings.cls_token")
    backbone = read_blocks(
        weights, config, NAMES, prefix, qkv_bias=qkv_bias, quick_gelu=activation.quick
    )
    put(backbone, "encoder.norm", weights.norm(f"{prefix}layernorm", dim))
    table = weights.take(f"{prefix}embeddings.position_embeddings", 1, 1 + side**2, dim)[0]
    backbone["positions.table"] = table[1:].unflatten(0, (side, side))
    tokens = [weights.take(f"{prefix}embeddings.cls_token", 1, 1, dim)[0] + table[:1]]
    if registers:
        tokens.append(weights.take(f"{prefix}embeddings.register_tokens", 1, registers, dim)[0])
    backbone["registers"] = torch.cat(tokens)
    name = f"{prefix}embeddings.patch_embeddings.projection"
    kernel = weights.take(f"{name}.weight", dim, 3, patch, patch)
    embedding = Affine(conv_to_linear(kernel), weights.take(f"{name}.bias", dim))
    left_out = weights.finish(LEFT_OUT)
    family = "DINOv2 with registers" if with_registers else "DINOv2"
    return converted(family, config, backbone, embedding, image, left_out=left_out)
