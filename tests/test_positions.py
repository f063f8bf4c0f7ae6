"""A position depends on the patch's place in its own grid, and on nothing else."""

import pytest
import torch
import torch.nn.functional as F

from conftest import assert_packed_equals_alone, randomise
from patchpack.model.positions import (
    Factorized,
    Interpolated,
    build_positions,
    triangle_weights,
)


@pytest.mark.parametrize("config", [Factorized(max_side=8), Interpolated(side=5)])
def test_packed_equals_alone(config):
    positions = randomise(build_positions(config, 6))

    def rows(batch):
        grids = batch.grids[batch.segments.ids]
        # Pixels take part so that their gradient exists, too.
        return positions(batch.coords, grids) * batch.patches.mean(1, keepdim=True)

    assert_packed_equals_alone(rows, list(positions.parameters()), per="token")


def test_factorized_adds_a_row_and_a_column():
    positions = randomise(build_positions(Factorized(max_side=4), 3))
    coords = torch.tensor([[2, 3], [0, 0]])
    expected = positions.y[[2, 0]] + positions.x[[3, 0]]
    assert torch.equal(positions(coords, torch.full((2, 2), 4)), expected)


@pytest.mark.parametrize("grid", [(1, 1), (3, 40), (16, 16), (30, 8), (7, 5)])
def test_interpolated_is_an_antialiased_resize(grid):
    positions = randomise(build_positions(Interpolated(side=16), 4))
    h, w = grid
    coords = torch.cartesian_prod(torch.arange(h), torch.arange(w))
    found = positions(coords, torch.tensor(grid).expand(len(coords), 2))
    table = positions.table.permute(2, 0, 1)[None]
    expected = F.interpolate(table, grid, mode="bilinear", antialias=True)
    torch.testing.assert_close(found, expected[0].flatten(1).T, atol=2e-6, rtol=1e-5)


def test_weights_sum_to_one():
    grids = torch.tensor([[1, 50], [3, 9]])
    coords = torch.tensor([[0, 49], [2, 0]])
    sums = triangle_weights(coords, grids, 7).sum(-1)
    torch.testing.assert_close(sums, torch.ones(2, 2))
