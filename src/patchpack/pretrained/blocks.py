"""The tensors of an encoder from those of a source: one table of names per source layout."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from patchpack.model.encoder import EncoderConfig
from patchpack.model.navit import NaViTConfig
from patchpack.pretrained.folds import quick_gelu_to_silu
from patchpack.pretrained.weights import Affine, Weights

Tensors = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class BlockNames:
    """Names of the layers of a block in a source, without .weight and .bias."""

    block: str  # prefix, with {i} for the number of the block
    attention_norm: str
    qkv: tuple[str, ...]  # one fused layer, or those of queries, keys, values
    out: str
    mlp_norm: str
    up: str
    down: str
    scales: tuple[str, str] | None = None  # LayerScale of both branches; None: the source has none


TRANSFORMERS_VIT = BlockNames(
    block="encoder.layer.{i}.",
    attention_norm="layernorm_before",
    qkv=("attention.attention.query", "attention.attention.key", "attention.attention.value"),
    out="attention.output.dense",
    mlp_norm="layernorm_after",
    up="intermediate.dense",
    down="output.dense",
)
TRANSFORMERS_CLIP = BlockNames(
    block="encoder.layers.{i}.",
    attention_norm="layer_norm1",
    qkv=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    out="self_attn.out_proj",
    mlp_norm="layer_norm2",
    up="mlp.fc1",
    down="mlp.fc2",
)
TIMM = BlockNames(
    block="blocks.{i}.",
    attention_norm="norm1",
    qkv=("attn.qkv",),
    out="attn.proj",
    mlp_norm="norm2",
    up="mlp.fc1",
    down="mlp.fc2",
    scales=("ls1.gamma", "ls2.gamma"),
)


def put(tensors: Tensors, name: str, layer: Affine) -> None:
    """Add weight and bias of a layer."""
    tensors[f"{name}.weight"], tensors[f"{name}.bias"] = layer


def read_blocks(
    weights: Weights,
    config: EncoderConfig,
    names: BlockNames,
    prefix: str = "",
    *,
    qkv_bias: bool = True,
    quick_gelu: bool = False,
) -> Tensors:
    """The tensors of all blocks, named as in this library.

    prefix  before every name in the source
    """
    c, tensors = config, Tensors()
    for i in range(c.depth):
        start = prefix + names.block.format(i=i)
        block = f"encoder.blocks.{i}."

        def linear(
            name: str, outputs: int, inputs: int, bias: bool = True, start: str = start
        ) -> Affine:
            return weights.linear(start + name, outputs, inputs, bias)

        width = 3 * c.dim // len(names.qkv)
        parts = [linear(name, width, c.dim, qkv_bias) for name in names.qkv]
        up, down = linear(names.up, c.mlp_dim, c.dim), linear(names.down, c.dim, c.mlp_dim)
        if quick_gelu:
            up, down = quick_gelu_to_silu(up, down)
        put(tensors, f"{block}attention_norm", weights.norm(start + names.attention_norm, c.dim))
        put(tensors, f"{block}attention.qkv", Affine(*map(torch.cat, zip(*parts, strict=True))))
        put(tensors, f"{block}attention.out", linear(names.out, c.dim, c.dim))
        put(tensors, f"{block}mlp_norm", weights.norm(start + names.mlp_norm, c.dim))
        put(tensors, f"{block}mlp.up", up)
        put(tensors, f"{block}mlp.down", down)
        if c.layer_scale is not None and names.scales:
            for name, scale in zip(("attention_scale", "mlp_scale"), names.scales, strict=True):
                tensors[block + name] = weights.take(start + scale, c.dim)
    return tensors


@dataclass(frozen=True, kw_only=True)
class MapNames:
    """Names of the layers of an attention pool in a source."""

    probe: str
    out: str
    norm: str
    up: str
    down: str

    def prefixed(self, prefix: str) -> "MapNames":
        """The same names with a prefix."""
        return MapNames(**{name: prefix + value for name, value in vars(self).items()})


def read_map_pool(
    weights: Weights,
    config: NaViTConfig,
    names: MapNames,
    query_key_value: Callable[[], tuple[Affine, Affine]],
) -> Tensors:
    """The tensors of attention pooling with a learned probe.

    query_key_value  reads the projection of the query, and that of keys and values together
    """
    dim, tensors = config.dim, Tensors()
    query, key_value = query_key_value()
    tensors["pool.probe"] = weights.take(names.probe, 1, 1, dim)[0, 0]
    put(tensors, "pool.q", query)
    put(tensors, "pool.kv", key_value)
    put(tensors, "pool.out", weights.linear(names.out, dim, dim))
    put(tensors, "pool.norm", weights.norm(names.norm, dim))
    put(tensors, "pool.mlp.up", weights.linear(names.up, config.mlp_dim, dim))
    put(tensors, "pool.mlp.down", weights.linear(names.down, dim, config.mlp_dim))
    return tensors
