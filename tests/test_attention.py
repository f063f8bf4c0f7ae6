"""Every attention equals the dense block-diagonal reference, forward and backward."""

import pytest
import torch

from patchpack.batch import Segments
from patchpack.model import attention
from patchpack.model.attention import attend_dense, attend_tiled

LENGTHS = {
    "mixed": (3, 1, 7, 2),
    "equal neighbours": (4, 4, 4, 2, 2, 5),
    "one image": (6,),
    "single tokens": (1, 1, 1),
}


def inputs(lengths, device="cpu", dtype=torch.float32, heads=2, head_dim=16, causal=False):
    torch.manual_seed(0)
    shape = (sum(lengths), heads, head_dim)
    tensors = [torch.randn(shape, device=device, dtype=dtype, requires_grad=True) for _ in range(3)]
    return tensors, Segments(lengths, torch.device(device), causal)


def output_and_gradients(attend, tensors, segments):
    out = attend(*tensors, segments)
    weights = torch.linspace(-1, 1, out.numel(), device=out.device).reshape(out.shape)
    return out, *torch.autograd.grad((out * weights.to(out.dtype)).sum(), tensors)


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("causal", [False, True], ids=["all", "causal"])
def test_tiles_equal_dense(lengths, dtype, causal):
    tensors, segments = inputs(lengths, dtype=dtype, causal=causal)
    atol = 1e-5 if dtype == torch.float32 else 4e-2
    found = output_and_gradients(attend_tiled, tensors, segments)
    reference = output_and_gradients(attend_dense, tensors, segments)
    for a, b in zip(found, reference, strict=True):
        torch.testing.assert_close(a, b, atol=atol, rtol=2e-2 if atol > 1e-3 else 1e-5)


@pytest.mark.parametrize("causal", [False, True], ids=["all", "causal"])
def test_long_images_in_half_precision_take_the_fused_kernel(monkeypatch, causal):
    """Both sides of the switch give the same answer."""
    tensors, segments = inputs((24, 40), dtype=torch.bfloat16, causal=causal)
    short = attend_tiled(*tensors, segments)
    monkeypatch.setattr(attention, "SHORT", 1)
    torch.testing.assert_close(attend_tiled(*tensors, segments), short, atol=2e-2, rtol=2e-2)


def test_no_image_sees_its_neighbours():
    """Exactly: whatever the neighbours hold, not one bit of the others changes."""
    tensors, segments = inputs((3, 4, 5))
    before = attend_tiled(*tensors, segments)
    changed = [t.detach().clone() for t in tensors]
    for t in changed:
        t[3:7] = 1e4
    after = attend_tiled(*changed, segments)
    assert torch.equal(before[:3], after[:3]) and torch.equal(before[7:], after[7:])
    assert not torch.equal(before[3:7], after[3:7])


def test_causal_tokens_see_nothing_after_them():
    tensors, segments = inputs((3, 4, 5), causal=True)
    before = attend_tiled(*tensors, segments)
    changed = [t.detach().clone() for t in tensors]
    for t in changed:
        t[5] = 1e4  # the third token of the second
    after = attend_tiled(*changed, segments)
    same = [torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert same == [token not in (5, 6) for token in range(12)]


def test_no_images_at_all():
    tensors, segments = inputs(())
    assert attend_tiled(*tensors, segments).shape == (0, 2, 16)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["attend_varlen", "attend_flex"])
@pytest.mark.parametrize("causal", [False, True], ids=["all", "causal"])
def test_cuda_kernels_equal_dense(name, causal):
    dtype = torch.bfloat16 if name == "attend_varlen" else torch.float32
    tensors, segments = inputs(
        (130, 1, 64, 64, 7), "cuda", dtype, heads=4, head_dim=64, causal=causal
    )
    found = output_and_gradients(getattr(attention, name), tensors, segments)
    reference = output_and_gradients(attend_dense, tensors, segments)
    for a, b in zip(found, reference, strict=True):
        torch.testing.assert_close(a, b, atol=3e-2 if dtype == torch.bfloat16 else 1e-4, rtol=2e-2)
