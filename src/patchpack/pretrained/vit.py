"""ViT, DeiT, MAE and I-JEPA of transformers: one layout of tensors.

Dosovitskiy et al., arXiv 2010.11929; Touvron et al., arXiv 2012.12877; He et al., arXiv 2111.06377;
Assran et al., arXiv 2301.08243. The class token, with its position, is the first register, DeiT's
distillation token the second. I-JEPA has neither: its feature vector is the mean of the patches.
"""

import torch

from patchpack.model.navit import NaViTConfig
from patchpack.model.positions import Interpolated
from patchpack.pretrained.blocks import TRANSFORMERS_VIT, put, read_blocks
from patchpack.pretrained.converted import Converted, converted, named_classes
from patchpack.pretrained.fields import BOOKKEEPING, Fields
from patchpack.pretrained.folds import conv_to_linear
from patchpack.pretrained.images import HALF, IMAGENET, ImageInput, transformers_image
from patchpack.pretrained.source import Source
from patchpack.pretrained.transformers_config import ACTIVATIONS, prefix_of
from patchpack.pretrained.weights import Affine, Weights

FIRST_TOKENS = {"vit": ("cls_token",), "deit": ("cls_token", "distillation_token"),
                "vit_mae": ("cls_token",), "ijepa": ()}  # fmt: skip
FAMILY_NAMES = {"vit": "ViT", "deit": "DeiT", "vit_mae": "MAE", "ijepa": "I-JEPA"}
# The pooler is a layer after the class token that pretraining used; the decoder is MAE's.
LEFT_OUT = (
    "*pooler.*",
    "decoder.*",
    "*mask_token",
    "cls_classifier.*",
    "distillation_classifier.*",
)
IGNORED = BOOKKEEPING | {
    "pooler_act", "pooler_output_size", "mask_ratio", "norm_pix_loss", "decoder_hidden_size",
    "decoder_intermediate_size", "decoder_num_attention_heads", "decoder_num_hidden_layers",
    "add_pooling_layer",
}  # fmt: skip


def convert_vit(source: Source) -> Converted:
    """A ViT, DeiT, MAE or I-JEPA, as `model_type` gives."""
    kind = source.config["model_type"]
    first = FIRST_TOKENS[kind]
    fields = Fields(source.config, source.name, IGNORED)
    patch, image_side = fields.side("patch_size", 16), fields.side("image_size", 224)
    fields.fixed("num_channels", 3)
    mean, std = IMAGENET if kind == "vit_mae" else HALF
    filter = "bicubic" if kind in ("deit", "vit_mae") else "bilinear"
    default = ImageInput(mean=mean, std=std, filter=filter, side=image_side)
    image = transformers_image(source.preprocessor, default, patch, source.name)
    activation = fields.choice("hidden_act", ACTIVATIONS, "gelu")
    side, qkv_bias = image_side // patch, fields.take("qkv_bias", True)
    config = NaViTConfig(
        dim=fields.take("hidden_size", 768),
        depth=fields.take("num_hidden_layers", 12),
        num_heads=fields.take("num_attention_heads", 12),
        mlp_dim=fields.take("intermediate_size", 3072),
        patch_size=patch,
        bias=True,
        qk_norm=False,
        norm_eps=fields.take("layer_norm_eps", 1e-12),
        activation=activation.name,
        positions=Interpolated(side=side, filter="bicubic", antialias=False),
        registers=len(first),
        pooling="first" if first else "mean",
        resize_filter=image.filter,
    )
    fields.finish()
    weights = Weights(source.tensors, source.name)
    prefix = prefix_of(weights, f"{'vit' if kind == 'vit_mae' else kind}.",
                       "embeddings.patch_embeddings.projection.weight")  # fmt: skip
    backbone = read_blocks(
        weights, config, TRANSFORMERS_VIT, prefix, qkv_bias=qkv_bias, quick_gelu=activation.quick
    )
    put(backbone, "encoder.norm", weights.norm(f"{prefix}layernorm", config.dim))
    name = f"{prefix}embeddings.position_embeddings"
    table = weights.take(name, 1, len(first) + side**2, config.dim)[0]
    backbone["positions.table"] = table[len(first) :].unflatten(0, (side, side))
    if first:
        tokens = [weights.take(f"{prefix}embeddings.{n}", 1, 1, config.dim)[0] for n in first]
        backbone["registers"] = torch.cat(tokens) + table[: len(first)]
    name = f"{prefix}embeddings.patch_embeddings.projection"
    kernel = weights.take(f"{name}.weight", config.dim, 3, patch, patch)
    embedding = Affine(conv_to_linear(kernel), weights.take(f"{name}.bias", config.dim))
    head, classes = None, ()
    if weights.has("classifier.weight") and kind != "ijepa":
        count = weights.shape("classifier.weight")[0]
        head = weights.linear("classifier", count, config.dim)
        classes = named_classes(source.config.get("id2label"), count, source.name)
    left_out = weights.finish(LEFT_OUT)
    return converted(
        FAMILY_NAMES[kind], config, backbone, embedding, image,
        head=head, classes=classes, left_out=left_out,
    )  # fmt: skip
