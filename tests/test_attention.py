"""Every attention equals the dense masked reference, forward and backward."""

import pytest
import torch

from patchpack.batch import Segments
from patchpack.model import attention
from patchpack.model.attention import attend_dense, attend_tiled
from patchpack.model.attention_layout import AttentionLayout

LENGTHS = {
    "mixed": (3, 1, 7, 2),
    "equal neighbours": (4, 4, 4, 2, 2, 5),
    "one image": (6,),
    "single tokens": (1, 1, 1),
    "an empty segment": (3, 0, 4),
}
CROSS = {
    "more keys": ((3, 1, 2), (5, 9, 2)),
    "fewer keys": ((4, 6), (1, 3)),
    "one query per segment": ((1, 1, 1), (4, 2, 7)),
    "a segment without queries": ((2, 0, 3), (4, 5, 1)),
    "no queries": ((0, 0), (3, 2)),
    "an empty pack": ((), ()),
}
MASKS = ("full", "causal", "prefix")


def segments(lengths, device="cpu"):
    return Segments(tuple(lengths), torch.device(device))


def self_attention(lengths, mask="full", device="cpu"):
    """A layout of self-attention, with a different prefix for each segment if masked by prefix."""
    prefixes = tuple((2 * i + 1) % (n + 1) for i, n in enumerate(lengths))
    return AttentionLayout.within(
        segments(lengths, device), mask, prefixes if mask == "prefix" else ()
    )


def inputs(layout, dtype=torch.float32, heads=2, head_dim=16):
    """Random queries, keys and values."""
    torch.manual_seed(0)
    counts = layout.queries.num_tokens, layout.keys.num_tokens, layout.keys.num_tokens
    device = layout.queries.device
    return [
        torch.randn(n, heads, head_dim, device=device, dtype=dtype, requires_grad=True)
        for n in counts
    ]


def output_and_gradients(attend, tensors, layout):
    out = attend(*tensors, layout)
    weights = torch.linspace(-1, 1, out.numel(), device=out.device).reshape(out.shape)
    return out, *torch.autograd.grad((out * weights.to(out.dtype)).sum(), tensors)


def assert_equals_dense(attend, layout, atol=1e-5, rtol=1e-5, **shape):
    tensors = inputs(layout, **shape)
    results = output_and_gradients(attend, tensors, layout)
    reference = output_and_gradients(attend_dense, tensors, layout)
    for a, b in zip(results, reference, strict=True):
        torch.testing.assert_close(a, b, atol=atol, rtol=rtol)


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("mask", MASKS)
def test_tiled_equals_dense(lengths, dtype, mask):
    tolerance = {"atol": 1e-5} if dtype == torch.float32 else {"atol": 4e-2, "rtol": 2e-2}
    assert_equals_dense(attend_tiled, self_attention(lengths, mask), dtype=dtype, **tolerance)


@pytest.mark.parametrize("mask", MASKS)
def test_long_and_short_segments_in_one_pack_equal_dense(monkeypatch, mask):
    """Both sides of the switch, in float32 and in half precision."""
    monkeypatch.setattr(attention, "SHORT", 5)
    layout = self_attention((3, 9, 7, 2, 2, 30), mask)
    assert_equals_dense(attend_tiled, layout)
    assert_equals_dense(attend_tiled, layout, dtype=torch.bfloat16, atol=4e-2, rtol=2e-2)


@pytest.mark.parametrize(("queries", "keys"), CROSS.values(), ids=CROSS)
def test_cross_attention_equals_dense(queries, keys):
    assert_equals_dense(attend_tiled, AttentionLayout(segments(queries), segments(keys)))


def test_cross_attention_between_equal_lengths_equals_dense():
    assert_equals_dense(attend_tiled, AttentionLayout(segments((3, 5)), segments((3, 5))))


@pytest.mark.parametrize("mask", MASKS)
def test_each_segment_equals_plain_attention_over_its_tokens(mask):
    """The dense reference itself, against a mask written out for each segment."""
    layout = self_attention((3, 1, 7, 2), mask)
    tensors = inputs(layout)
    out = attend_dense(*tensors, layout).split([3, 1, 7, 2])
    pieces = zip(*(x.split([3, 1, 7, 2]) for x in tensors), strict=True)
    for number, (q, k, v) in enumerate(pieces):
        scores = torch.einsum("qhd,khd->hqk", q, k) * 16**-0.5
        for query in range(len(q)):
            for key in range(len(k)):
                prefix = layout.prefix_lengths[number] if mask == "prefix" else 0
                if mask != "full" and key > query and key >= prefix:
                    scores[:, query, key] = -torch.inf
        expected = torch.einsum("hqk,khd->qhd", scores.softmax(-1), v)
        torch.testing.assert_close(out[number], expected, atol=1e-5, rtol=1e-5)


def test_a_prefix_of_none_is_causal_and_of_all_is_full():
    lengths = (3, 5, 2)
    tensors = inputs(self_attention(lengths))
    for prefixes, mask in (((0, 0, 0), "causal"), (lengths, "full")):
        prefix = AttentionLayout.within(segments(lengths), "prefix", prefixes)
        expected = attend_tiled(*tensors, self_attention(lengths, mask))
        torch.testing.assert_close(attend_tiled(*tensors, prefix), expected)


def test_changed_neighbors_change_no_bit_of_an_image():
    layout = self_attention((3, 4, 5))
    tensors = inputs(layout)
    before = attend_tiled(*tensors, layout)
    changed = [t.detach().clone() for t in tensors]
    for t in changed:
        t[3:7] = 1e4
    after = attend_tiled(*changed, layout)
    assert torch.equal(before[:3], after[:3]) and torch.equal(before[7:], after[7:])
    assert not torch.equal(before[3:7], after[3:7])


@pytest.mark.parametrize(("mask", "changed_tokens"), [("causal", {5, 6}), ("prefix", {5, 6})])
def test_later_tokens_change_no_bit_of_earlier_ones(mask, changed_tokens):
    prefixes = (1, 2, 0) if mask == "prefix" else ()
    layout = AttentionLayout.within(segments((3, 4, 5)), mask, prefixes)
    tensors = inputs(layout)
    before = attend_tiled(*tensors, layout)
    changed = [t.detach().clone() for t in tensors]
    for t in changed:
        t[5] = 1e4  # the third token of the second segment, after its prefix
    after = attend_tiled(*changed, layout)
    same = [torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert same == [token not in changed_tokens for token in range(12)]


def test_an_empty_pack_gives_every_input_a_gradient():
    layout = self_attention(())
    results = output_and_gradients(attend_tiled, inputs(layout), layout)
    assert [x.shape for x in results] == [(0, 2, 16)] * 4


@pytest.mark.parametrize(
    ("queries", "keys", "options", "message"),
    [
        ((2, 3), (2,), {}, "2 segments of queries, but 1 of keys"),
        ((2, 3), (2, 4), {"mask": "causal"}, "as many keys as queries"),
        ((2, 3), (2, 0), {}, "queries but no keys"),
        ((2,), (2,), {"mask": "prefix"}, "0 prefix lengths for a prefix mask"),
        ((2,), (2,), {"prefix_lengths": (1,)}, "1 prefix lengths for a full mask"),
        ((2,), (2,), {"mask": "prefix", "prefix_lengths": (3,)}, "must lie inside its segment"),
    ],
)
def test_inconsistent_layouts_are_rejected(queries, keys, options, message):
    with pytest.raises(ValueError, match=message):
        AttentionLayout(segments(queries), segments(keys), **options)


def test_the_varlen_kernel_rejects_a_prefix():
    layout = self_attention((2, 3), "prefix")
    with pytest.raises(ValueError, match="no prefix mask"):
        attention.attend_varlen(*inputs(layout), layout)


@pytest.mark.parametrize("mask", MASKS)
def test_block_masks_hide_what_the_dense_mask_hides(mask):
    """The block mask of FlexAttention, without its kernels, which need a GPU."""
    flex = pytest.importorskip("torch.nn.attention.flex_attention")
    layouts = [self_attention((3, 1, 7, 2), mask)]
    if mask == "full":
        layouts.append(AttentionLayout(segments((3, 1, 2)), segments((5, 9, 2))))
    for layout in layouts:
        n, m = layout.queries.num_tokens, layout.keys.num_tokens
        block_mask = attention._block_mask(layout)
        dense = flex.create_mask(block_mask.mask_mod, 1, 1, n, m, device="cpu")[0, 0]
        expected = layout.is_visible(torch.arange(n)[:, None], torch.arange(m)[None])
        assert torch.equal(dense, expected) and block_mask.shape[-2:] == (n, m)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["attend_varlen", "attend_flex"])
@pytest.mark.parametrize("mask", [*MASKS, "cross"])
def test_cuda_kernels_equal_dense(name, mask):
    if (name, mask) == ("attend_varlen", "prefix"):
        pytest.skip("the varlen kernel has no prefix mask")
    dtype = torch.bfloat16 if name == "attend_varlen" else torch.float32
    lengths = (130, 1, 64, 64, 7)
    if mask == "cross":
        keys = segments((20, 300, 64, 1, 9), "cuda")
        layout = AttentionLayout(segments(lengths, "cuda"), keys)
    else:
        layout = self_attention(lengths, mask, "cuda")
    atol = 3e-2 if dtype == torch.bfloat16 else 1e-4
    attend = getattr(attention, name)
    assert_equals_dense(attend, layout, atol=atol, rtol=2e-2, dtype=dtype, heads=4, head_dim=64)
