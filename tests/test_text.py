"""Packed texts: a caption's vector and gradients are the same alone and in any company."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from conftest import randomise
from patchpack.batch import PackedTexts, pack_texts
from patchpack.model.attention import attend_dense
from patchpack.model.attention_layout import AttentionLayout
from patchpack.model.text import TextConfig, TextTower, text_flops

TEXTS = [torch.tensor(tokens, dtype=torch.int32) for tokens in ([3, 1, 4, 1], [5], [9, 2, 6])]
CONFIG = TextConfig(dim=12, depth=2, num_heads=3, mlp_dim=24, vocab_size=10, max_length=6)


def tower(**changes) -> TextTower:
    return randomise(TextTower(replace(CONFIG, **changes)))


def vector_and_gradients(model: TextTower, texts: PackedTexts, number: int):
    vector = model(texts)[number]
    loss = (vector * torch.linspace(-1, 1, len(vector))).sum()
    return vector.detach(), *torch.autograd.grad(loss, list(model.parameters()))


@pytest.mark.parametrize("causal", [False, True], ids=["all", "causal"])
@pytest.mark.parametrize("pooling", ["map", "mean", "last"])
def test_packed_equals_alone(causal, pooling):
    model = tower(causal=causal, pooling=pooling)
    packed = pack_texts(TEXTS)
    for number, text in enumerate(TEXTS):
        alone = vector_and_gradients(model, pack_texts([text]), 0)
        company = vector_and_gradients(model, packed, number)
        for a, b in zip(alone, company, strict=True):
            torch.testing.assert_close(b, a, atol=1e-5 * max(1.0, float(a.abs().max())), rtol=0)


def test_causal_towers_read_from_left_to_right():
    """The last token is pooled; with another first one it changes, without the last it is other."""
    model = tower(causal=True, pooling="last")
    layout = AttentionLayout.within(pack_texts(TEXTS).segments, "causal")
    x = torch.randn(layout.queries.num_tokens, CONFIG.dim)
    expected = model.encoder(x, layout, attend_dense)
    torch.testing.assert_close(model.encoder(x, layout), expected, atol=1e-5, rtol=1e-5)
    changed = x.clone()
    changed[3] += 1  # the last token of the first text
    same = (model.encoder(changed, layout) == model.encoder(x, layout)).all(1)
    assert same.tolist() == [True, True, True, False, True, True, True, True]


def test_a_text_that_is_too_long_is_refused():
    with pytest.raises(ValueError, match="has 7 tokens, but this model reads 6"):
        tower()(pack_texts([torch.zeros(7, dtype=torch.int32)]))


def test_no_texts_at_all():
    assert tower(pooling="last")(pack_texts([])).shape == (0, 12)


def test_flops_are_those_that_pytorch_counts():
    model = tower(pooling="mean")
    texts = pack_texts([TEXTS[0]] * 3)  # of one length: nothing is padded
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(texts)
    assert text_flops(model.config, texts.lengths) == counter.get_total_flops()
