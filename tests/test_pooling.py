"""An image pools to the same vector in a pack of its own and among others."""

import pytest
import torch
from torch import nn

from conftest import assert_packed_equals_single, randomize
from patchpack.batch import Segments
from patchpack.model.encoder import EncoderConfig
from patchpack.model.pooling import (
    FirstPool,
    LastPool,
    MapPool,
    MeanPool,
    segment_mean,
    segment_softmax,
)


def map_pool(bias: bool = True) -> MapPool:
    return MapPool(EncoderConfig(dim=12, depth=1, num_heads=3, mlp_dim=24, bias=bias))


@pytest.mark.parametrize(
    "pool", [MeanPool(), FirstPool(), LastPool(), map_pool(), map_pool(bias=False)]
)
def test_packed_equals_single(pool):
    randomize(pool)
    assert_packed_equals_single(
        lambda batch: pool(batch.patches / 100, batch.segments),
        list(pool.parameters()),
        per="image",
    )


def test_mean():
    x = torch.tensor([[1.0], [2.0], [3.0], [10.0], [20.0], [7.0]])
    means = segment_mean(x, Segments((3, 2, 1), x.device))
    assert means.flatten().tolist() == [2, 15, 7]


def test_first():
    x = torch.arange(6.0)[:, None]
    assert FirstPool()(x, Segments((3, 2, 1), x.device)).flatten().tolist() == [0, 3, 5]


def test_last():
    x = torch.arange(6.0)[:, None]
    assert LastPool()(x, Segments((3, 2, 1), x.device)).flatten().tolist() == [2, 4, 5]


def test_softmax_sums_to_one_in_each_image_and_survives_large_scores():
    segments = Segments((3, 2), torch.device("cpu"))
    scores = torch.tensor([[1e4], [0.0], [-1e4], [500.0], [500.0]])
    assert segment_softmax(scores, segments).flatten().tolist() == [1, 0, 0, 0.5, 0.5]


def test_map_pool_is_multihead_attention():
    """Against PyTorch's own, with the probe as the only query."""
    pool = randomize(map_pool())
    x = torch.randn(5, 12)
    reference = nn.MultiheadAttention(12, 3, batch_first=True)
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.cat([pool.q.weight, pool.kv.weight]))
        reference.in_proj_bias.copy_(torch.cat([pool.q.bias, pool.kv.bias]))
        reference.out_proj.load_state_dict(pool.out.state_dict())
    attended = reference(pool.probe[None, None], x[None], x[None])[0][0]
    expected = attended + pool.mlp(pool.norm(attended))
    torch.testing.assert_close(pool(x, Segments((5,), x.device)), expected, atol=1e-5, rtol=1e-5)
