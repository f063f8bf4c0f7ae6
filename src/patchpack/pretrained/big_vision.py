"""SigLIP 2 NaFlex as big_vision publishes it: arrays of Flax in one .npz file.

The arrays are renamed and reshaped to the tensors that transformers publishes, and converted as
those. Kernels are [input, output], those of attention heads [dim, head, head_dim]; blocks may be
stacked along a first axis. Texts are left out. There is no config: shapes give all sizes.
"""

import re
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from patchpack.pretrained.converted import Converted
from patchpack.pretrained.errors import PretrainedError
from patchpack.pretrained.siglip import convert_siglip2_naflex
from patchpack.pretrained.source import Source

PREFIX = "params/"
IMAGE, TEXTS = "img/", ("txt/", "t", "b")
ATTENTION, MLP = "MultiHeadDotProductAttention_0", "MlpBlock_0"
LAYERS = {  # of a block in Flax → in transformers
    "LayerNorm_0": "layer_norm1",
    "LayerNorm_1": "layer_norm2",
    f"{ATTENTION}/query": "self_attn.q_proj",
    f"{ATTENTION}/key": "self_attn.k_proj",
    f"{ATTENTION}/value": "self_attn.v_proj",
    f"{ATTENTION}/out": "self_attn.out_proj",
    f"{MLP}/Dense_0": "mlp.fc1",
    f"{MLP}/Dense_1": "mlp.fc2",
}
HEAD = {
    "LayerNorm_0": "head.layernorm",
    f"{ATTENTION}/out": "head.attention.out_proj",
    f"{MLP}/Dense_0": "head.mlp.fc1",
    f"{MLP}/Dense_1": "head.mlp.fc2",
}
QUERY = f"Transformer/encoderblock_0/{ATTENTION}/query/kernel"


def convert_big_vision(source: Source) -> Converted:
    """A SigLIP 2 NaFlex image tower; other models of big_vision are rejected by name."""
    named = {name.removeprefix(PREFIX): tensor for name, tensor in source.tensors.items()}
    image = _unstacked({n.removeprefix(IMAGE): t for n, t in named.items() if n.startswith(IMAGE)})
    kernel, query = image.get("embedding/kernel"), image.get(QUERY)
    if kernel is None or kernel.ndim != 2 or query is None or query.ndim != 3:
        raise PretrainedError(
            f"{source.name} is no SigLIP 2 NaFlex of big_vision: it lacks {PREFIX}{IMAGE}embedding/"
            "kernel with two axes, or the first block"
        )
    unknown = [n for n in named if not n.startswith((IMAGE, TEXTS[0])) and n not in TEXTS]
    dim, num_heads, _ = query.shape
    table = image.get("pos_embedding", torch.zeros(0))
    up = image.get(f"Transformer/encoderblock_0/{MLP}/Dense_0/kernel", torch.zeros(0, 0))
    config = {
        "model_type": "siglip2_vision_model",
        "hidden_size": dim,
        "num_hidden_layers": sum(n.endswith(f"{ATTENTION}/query/kernel") for n in image)
        - ("MAPHead_0/" + f"{ATTENTION}/query/kernel" in image),
        "num_attention_heads": num_heads,
        "intermediate_size": up.shape[1],
        "num_patches": table.numel() // dim,
        "patch_size": round((kernel.shape[0] / 3) ** 0.5),
    }
    tensors = _transformers_tensors(image, dim) | {name: named[name] for name in unknown}
    converted = convert_siglip2_naflex(replace(source, config=config, tensors=tensors))
    texts = tuple(sorted(set(named) - set(unknown) - {n for n in named if n.startswith(IMAGE)}))
    return replace(converted, family="SigLIP 2 NaFlex, big_vision", left_out=texts)


def _unstacked(image: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Blocks that are stacked along their first axis, one by one."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in image.items():
        if "/encoderblock/" in name:
            for i, part in enumerate(tensor):
                tensors[name.replace("/encoderblock/", f"/encoderblock_{i}/")] = part
        else:
            tensors[name] = tensor
    return tensors


def _transformers_tensors(image: Mapping[str, Tensor], dim: int) -> dict[str, Tensor]:
    """The tensors with the names and shapes of transformers; unknown ones keep their names."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in image.items():
        path, _, kind = name.rpartition("/")
        block = re.fullmatch(r"Transformer/encoderblock_(\d+)/(.+)", path)
        if block and block[2] in LAYERS:
            layer = f"encoder.layers.{block[1]}.{LAYERS[block[2]]}"
        elif path == "Transformer/encoder_norm":
            layer = "post_layernorm"
        elif path == "embedding":
            layer = "embeddings.patch_embedding"
        elif path.startswith("MAPHead_0/") and path.removeprefix("MAPHead_0/") in HEAD:
            layer = HEAD[path.removeprefix("MAPHead_0/")]
        else:
            tensors[name] = tensor
            continue
        suffix = "bias" if kind == "bias" else "weight"
        tensors[f"{layer}.{suffix}"] = (
            _matrix(tensor, layer) if kind == "kernel" else tensor.flatten()
        )
    table, probe = tensors.pop("pos_embedding", None), tensors.pop("MAPHead_0/probe", None)
    if table is not None:
        tensors["embeddings.position_embedding.weight"] = table.reshape(-1, dim)
    if probe is not None:
        tensors["head.probe"] = probe
    for kind, suffix in (("kernel", "weight"), ("bias", "bias")):
        names = [f"MAPHead_0/{ATTENTION}/{part}/{kind}" for part in ("query", "key", "value")]
        if all(name in tensors for name in names):
            parts = [tensors.pop(name) for name in names]
            rows = [p.flatten(1).T if kind == "kernel" else p.flatten() for p in parts]
            tensors[f"head.attention.in_proj_{suffix}"] = torch.cat(rows)
    return tensors


def _matrix(kernel: Tensor, layer: str) -> Tensor:
    """A kernel as the weight [output, input] of a linear layer."""
    if kernel.ndim == 3:
        kernel = kernel.flatten(0, 1) if layer.endswith("out_proj") else kernel.flatten(1)
    return kernel.T.contiguous()
