"""Packed texts: a caption has the same vector and gradients in every pack."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from conftest import randomize
from patchpack.batch import PackedTexts, pack_texts
from patchpack.model.attention import attend_dense
from patchpack.model.attention_layout import AttentionLayout
from patchpack.model.text import TextConfig, TextTower, text_flops

TEXTS = [torch.tensor(tokens, dtype=torch.int32) for tokens in ([3, 1, 4, 1], [5], [9, 2, 6])]
CONFIG = TextConfig(dim=12, depth=2, num_heads=3, mlp_dim=24, vocab_size=10, max_length=6)


def tower(**changes) -> TextTower:
    return randomize(TextTower(replace(CONFIG, **changes)))


def vector_and_gradients(model: TextTower, texts: PackedTexts, number: int):
    vector = model(texts)[number]
    loss = (vector * torch.linspace(-1, 1, len(vector))).sum()
    return vector.detach(), *torch.autograd.grad(loss, list(model.parameters()))


@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
@pytest.mark.parametrize("pooling", ["map", "mean", "last"])
def test_packed_equals_single(causal, pooling):
    model = tower(causal=causal, pooling=pooling)
    packed = pack_texts(TEXTS)
    for number, text in enumerate(TEXTS):
        single = vector_and_gradients(model, pack_texts([text]), 0)
        among_others = vector_and_gradients(model, packed, number)
        for a, b in zip(single, among_others, strict=True):
            torch.testing.assert_close(b, a, atol=1e-5 * max(1.0, float(a.abs().max())), rtol=0)


def test_a_causal_tower_depends_on_earlier_tokens_only():
    model = tower(causal=True, pooling="last")
    layout = AttentionLayout.within(pack_texts(TEXTS).segments, "causal")
    x = torch.randn(layout.queries.num_tokens, CONFIG.dim)
    expected = model.encoder(x, layout, attend_dense)
    torch.testing.assert_close(model.encoder(x, layout), expected, atol=1e-5, rtol=1e-5)
    changed = x.clone()
    changed[3] += 1  # the last token of the first text
    same = (model.encoder(changed, layout) == model.encoder(x, layout)).all(1)
    assert same.tolist() == [True, True, True, False, True, True, True, True]


def test_a_text_that_is_too_long_is_rejected():
    with pytest.raises(ValueError, match="has 7 tokens, but this model takes 6"):
        tower()(pack_texts([torch.zeros(7, dtype=torch.int32)]))


def test_an_empty_pack_of_texts():
    assert tower(pooling="last")(pack_texts([])).shape == (0, 12)


def test_flops_equal_the_count_of_pytorch():
    model = tower(pooling="mean")
    texts = pack_texts([TEXTS[0]] * 3)  # of one length: no padding in tiles
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(texts)
    assert text_flops(model.config, texts.lengths) == counter.get_total_flops()
