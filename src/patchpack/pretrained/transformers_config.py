"""What the configs of transformers share: activations, and the part of the image tower."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from patchpack.pretrained.errors import PretrainedError
from patchpack.pretrained.fields import Fields
from patchpack.pretrained.source import Source
from patchpack.pretrained.weights import Weights


class Activation(NamedTuple):
    """An activation of this library, and whether quick GELU is folded into it."""

    name: Literal["gelu", "gelu_tanh", "silu"]
    quick: bool = False


ACTIVATIONS = {
    "gelu": Activation("gelu"),
    "gelu_pytorch_tanh": Activation("gelu_tanh"),
    "gelu_new": Activation("gelu_tanh"),
    "quick_gelu": Activation("silu", quick=True),
    "silu": Activation("silu"),
    "swish": Activation("silu"),
}


def vision_config(source: Source) -> Mapping[str, Any]:
    """The config of the image tower: that of the model, or its part `vision_config`."""
    config = source.config.get("vision_config", source.config)
    if not isinstance(config, Mapping):
        raise PretrainedError(f"{source.name}: vision_config must be an object, not {config!r}")
    return config


def prefix_of(weights: Weights, prefix: str, first: str) -> str:
    """The prefix of the image tower's tensors: `prefix`, or none where files have none."""
    return prefix if weights.has(prefix + first) else ""


def mlp_width(fields: Fields, dim: int, default: float) -> int:
    """Hidden channels of an MLP that a config gives as a ratio."""
    return int(dim * fields.take("mlp_ratio", default))
