"""The text side of CLIP of transformers: tower, projections, scale of the logits, tokenizer.

Texts are causal, and end with the token whose vector is projected, so padding changes nothing and
is left away. Converted where a tokenizer lies beside the weights.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from patchpack.data.tokenizer import Tokenizer, TokenizerError, load_tokenizer
from patchpack.model.text import TextConfig
from patchpack.pretrained.blocks import TRANSFORMERS_CLIP, put, read_blocks
from patchpack.pretrained.converted import TextSide
from patchpack.pretrained.errors import PretrainedError
from patchpack.pretrained.fields import BOOKKEEPING, Fields
from patchpack.pretrained.source import Source
from patchpack.pretrained.transformers_config import ACTIVATIONS
from patchpack.pretrained.weights import Weights
from patchpack.tasks.contrastive.model import ContrastiveConfig

PREFIX = "text_model."
MAX_LOGIT_SCALE = 100.0  # of CLIP in training; its weights have at most this scale


def read_clip_texts(source: Source, weights: Weights, image_dim: int) -> TextSide | None:
    """The text side of a CLIP of transformers; None without a text tower or a tokenizer.

    Raise PretrainedError for a tokenizer of another vocabulary.
    """
    values = source.config.get("text_config")
    if source.tokenizer is None or not isinstance(values, Mapping):
        return None
    fields = Fields(values, source.name, BOOKKEEPING | {"projection_dim"})
    activation = fields.choice("hidden_act", ACTIVATIONS, "quick_gelu")
    text = TextConfig(
        dim=fields.take("hidden_size", 512),
        depth=fields.take("num_hidden_layers", 12),
        num_heads=fields.take("num_attention_heads", 8),
        mlp_dim=fields.take("intermediate_size", 2048),
        norm_eps=fields.take("layer_norm_eps", 1e-5),
        vocab_size=fields.take("vocab_size", 49_408),
        max_length=fields.take("max_position_embeddings", 77),
        activation=activation.name,
        bias=True,
        qk_norm=False,
        causal=True,
        pooling="last",
    )
    fields.finish()
    tokenizer = _tokenizer(source, text, values)
    dim = Fields(source.config, source.name).take("projection_dim", 512)
    config = ContrastiveConfig(text=text, dim=dim, loss="softmax")
    blocks = read_blocks(weights, text, TRANSFORMERS_CLIP, PREFIX, quick_gelu=activation.quick)
    put(blocks, "encoder.norm", weights.norm(f"{PREFIX}final_layer_norm", text.dim))
    for ours, name, rows in (
        ("vocabulary", "token_embedding", text.vocab_size),
        ("positions", "position_embedding", text.max_length),
    ):
        table = weights.take(f"{PREFIX}embeddings.{name}.weight", rows, text.dim)
        blocks[f"{ours}.weight"] = table
    tensors: dict[str, Tensor] = {f"text.{name}": tensor for name, tensor in blocks.items()}
    for ours, name, width in (("image", "visual", image_dim), ("text", "text", text.dim)):
        layer = weights.linear(f"{name}_projection", dim, width, bias=False)
        tensors[f"{ours}_projection.weight"] = layer.weight
    scale = weights.take("logit_scale")
    tensors |= {"log_scale": scale, "bias": scale.new_tensor(config.init_logit_bias)}
    limit = max(MAX_LOGIT_SCALE, 1.01 * float(scale.exp()))
    return TextSide(replace(config, max_logit_scale=limit), tensors, tokenizer)


def _tokenizer(source: Source, text: TextConfig, values: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer beside the weights, whose texts must end with the token that is pooled."""
    assert source.tokenizer is not None
    try:
        tokenizer = load_tokenizer(source.tokenizer)
        (tokens,) = tokenizer.encode(["a"], text.max_length).tokens
    except TokenizerError as error:
        raise PretrainedError(str(error)) from error
    if tokenizer.vocab_size != text.vocab_size:
        raise PretrainedError(
            f"{source.tokenizer} has {tokenizer.vocab_size:,} tokens, the text tower "
            f"{text.vocab_size:,}: it is that of another model"
        )
    end = values.get("eos_token_id")
    if end in (None, 2):  # older files have 2, and pool the token with the largest number
        end = text.vocab_size - 1
    if not tokens or tokens[-1] != end or end in tokens[:-1]:
        raise PretrainedError(
            f"{source.tokenizer}: texts must end with token {end}, the only one of its kind, "
            "whose vector is pooled"
        )
    return tokenizer
