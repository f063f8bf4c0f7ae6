"""SigLIP and SigLIP 2 of transformers: image towers with attention pooling.

Zhai et al., arXiv 2303.15343; Tschannen et al., arXiv 2502.14786. NaFlex models embed flattened
patches and resize their table bilinearly with antialiasing; models of squares embed with a
convolution and resize their table bicubically without it. Texts are left out.
"""

from torch import Tensor

from patchpack.model.navit import NaViTConfig
from patchpack.model.positions import Interpolated
from patchpack.pretrained.blocks import TRANSFORMERS_CLIP, MapNames, put, read_blocks, read_map_pool
from patchpack.pretrained.converted import Converted, converted
from patchpack.pretrained.errors import PretrainedError
from patchpack.pretrained.fields import BOOKKEEPING, Fields
from patchpack.pretrained.folds import conv_to_linear, square_side
from patchpack.pretrained.images import HALF, ImageInput, transformers_image
from patchpack.pretrained.source import Source
from patchpack.pretrained.transformers_config import ACTIVATIONS, prefix_of, vision_config
from patchpack.pretrained.weights import Affine, Weights

LEFT_OUT = ("text_model.*", "logit_scale", "logit_bias", "*position_ids")
MAP = MapNames(
    probe="head.probe",
    out="head.attention.out_proj",
    norm="head.layernorm",
    up="head.mlp.fc1",
    down="head.mlp.fc2",
)


def convert_siglip(source: Source) -> Converted:
    """A SigLIP model of squares."""
    return _convert(source, naflex=False)


def convert_siglip2_naflex(source: Source) -> Converted:
    """A SigLIP 2 NaFlex model."""
    return _convert(source, naflex=True)


def _convert(source: Source, naflex: bool) -> Converted:
    fields = Fields(vision_config(source), source.name, BOOKKEEPING)
    patch = fields.side("patch_size", 16)
    fields.fixed("num_channels", 3)
    fields.fixed("vision_use_head", True)
    image_side = patch * 16 if naflex else fields.side("image_size", 224)
    rows = fields.take("num_patches", 256) if naflex else (image_side // patch) ** 2
    side = square_side(rows)
    if side is None:
        raise PretrainedError(f"{source.name}: a table of {rows} positions is not square")
    filter = "bilinear" if naflex else "bicubic"
    default = ImageInput(
        mean=HALF[0], std=HALF[1], filter=filter, side=None if naflex else image_side, tokens=rows
    )
    image = transformers_image(source.preprocessor, default, patch, source.name)
    activation = fields.choice("hidden_act", ACTIVATIONS, "gelu_pytorch_tanh")
    config = NaViTConfig(
        dim=fields.take("hidden_size", 768),
        depth=fields.take("num_hidden_layers", 12),
        num_heads=fields.take("num_attention_heads", 12),
        mlp_dim=fields.take("intermediate_size", 3072),
        patch_size=patch,
        bias=True,
        qk_norm=False,
        norm_eps=fields.take("layer_norm_eps", 1e-6),
        activation=activation.name,
        positions=Interpolated(side=side, filter=filter, antialias=naflex),
        pooling="map",
        resize_filter=image.filter,
    )
    fields.finish()
    if activation.quick:
        raise PretrainedError(f"{source.name}: hidden_act quick_gelu is not one of SigLIP's")
    weights = Weights(source.tensors, source.name)
    prefix = prefix_of(weights, "vision_model.", "embeddings.patch_embedding.weight")
    backbone = _backbone(weights, config, prefix)
    name = f"{prefix}embeddings.patch_embedding"
    if naflex:
        embedding = weights.linear(name, config.dim, config.patch_dim)
    else:
        kernel = weights.take(f"{name}.weight", config.dim, 3, patch, patch)
        embedding = Affine(conv_to_linear(kernel), weights.take(f"{name}.bias", config.dim))
    left_out = weights.finish(LEFT_OUT)
    family = "SigLIP 2 NaFlex" if naflex else "SigLIP"
    return converted(family, config, backbone, embedding, image, left_out=left_out)


def _backbone(weights: Weights, config: NaViTConfig, prefix: str) -> dict[str, Tensor]:
    dim, positions = config.dim, config.positions
    assert isinstance(positions, Interpolated)
    tensors = read_blocks(weights, config, TRANSFORMERS_CLIP, prefix)
    table = weights.take(f"{prefix}embeddings.position_embedding.weight", positions.side**2, dim)
    tensors["positions.table"] = table.unflatten(0, (positions.side, positions.side))
    put(tensors, "encoder.norm", weights.norm(f"{prefix}post_layernorm", dim))

    def query_key_value() -> tuple[Affine, Affine]:
        weight = weights.take(f"{prefix}head.attention.in_proj_weight", 3 * dim, dim)
        bias = weights.take(f"{prefix}head.attention.in_proj_bias", 3 * dim)
        return Affine(weight[:dim], bias[:dim]), Affine(weight[dim:], bias[dim:])

    return tensors | read_map_pool(weights, config, MAP.prefixed(prefix), query_key_value)
