"""A position depends on the coordinates of a patch in its own grid only."""

import pytest
import torch
import torch.nn.functional as F

from conftest import assert_packed_equals_single, randomize
from patchpack.model.interpolation import resize_weights
from patchpack.model.positions import (
    UNLIMITED,
    Factorized,
    Fourier,
    Interpolated,
    Learned2D,
    Rotary,
    Sinusoidal,
    table_coordinates,
)
from patchpack.model.rotary import apply_rotary, rotary_angles

KINDS = [
    *(Factorized(table_size=8, combine=c) for c in ("sum", "concat", "product")),
    *(Factorized(table_size=8, coordinates=c) for c in ("fractional", "aspect")),
    Learned2D(table_size=8),
    *(
        Interpolated(side=5, filter=filter, antialias=antialias)
        for filter in ("bilinear", "bicubic")
        for antialias in (True, False)
    ),
    *(kind(coordinates=c) for kind in (Sinusoidal, Fourier) for c in ("absolute", "fractional")),
]


def all_coords(h: int, w: int) -> torch.Tensor:
    return torch.cartesian_prod(torch.arange(h), torch.arange(w))


def grids_of(h: int, w: int) -> torch.Tensor:
    return torch.tensor([h, w]).expand(h * w, 2)


@pytest.mark.parametrize("config", KINDS, ids=str)
def test_packed_equals_single(config):
    positions = randomize(config.build(8))

    def rows(batch):
        grids = batch.grids[batch.segments.ids]
        # Pixels take part so that their gradient exists, too.
        return positions(batch.coords, grids) * batch.patches.mean(1, keepdim=True)

    assert_packed_equals_single(rows, list(positions.parameters()), per="token")


@pytest.mark.parametrize("config", KINDS, ids=str)
def test_embeddings_differ_and_have_the_norm_of_tokens(config):
    torch.manual_seed(0)
    positions = config.build(64)
    positions.init_weights()
    embeddings = positions(all_coords(3, 4), grids_of(3, 4))
    assert torch.pdist(embeddings).min() > 1e-3
    assert 0.3 < embeddings.norm(dim=1).mean() < 3


def test_factorized_combines_a_row_and_a_column():
    coords = torch.tensor([[2, 3], [0, 0]])
    combine = {"sum": torch.add, "product": torch.mul, "concat": lambda y, x: torch.cat([y, x], 1)}
    for name, function in combine.items():
        positions = randomize(Factorized(table_size=4, combine=name).build(6))
        expected = function(positions.y[[2, 0]], positions.x[[3, 0]])
        assert torch.equal(positions(coords, torch.full((2, 2), 4)), expected)


def test_coordinates_equal_figure_16():
    """224 x 160 px in patches of 32: the last patch ends at (1, 1) and at (1, 0.71)."""
    grid, last = torch.tensor([[5, 7]]), torch.tensor([[4, 6]])
    assert table_coordinates(last, grid, "absolute", 128).tolist() == [[4, 6]]
    for coordinates, end in (("fractional", [1, 1]), ("aspect", [5 / 7, 1])):
        length = 1000.0
        center = (table_coordinates(last, grid, coordinates, 1000) + 0.5) / length
        half = 0.5 / (grid if coordinates == "fractional" else grid.amax())
        torch.testing.assert_close(center + half, torch.tensor([end]).float(), atol=1e-6, rtol=0)


def test_fractional_coordinates_of_a_grid_of_table_size_are_its_rows():
    positions = randomize(Factorized(table_size=6, coordinates="fractional").build(4))
    absolute = Factorized(table_size=6).build(4)
    absolute.load_state_dict(positions.state_dict())
    coords, grids = all_coords(6, 6), grids_of(6, 6)
    torch.testing.assert_close(positions(coords, grids), absolute(coords, grids))
    # A single patch lies in the middle; far more patches than rows stay within the table.
    middle = positions(torch.zeros(1, 2), torch.ones(1, 2))
    torch.testing.assert_close(middle[0], (positions.y[2:4] + positions.x[2:4]).mean(0))
    fine = positions(all_coords(40, 2), grids_of(40, 2))
    assert fine.isfinite().all()


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("filter", ["bilinear", "bicubic"])
@pytest.mark.parametrize("grid", [(1, 1), (3, 40), (16, 16), (30, 8), (7, 5)])
@pytest.mark.parametrize("side", [1, 2, 16])
def test_interpolated_equals_a_resize(grid, filter, antialias, side):
    config = Interpolated(side=side, filter=filter, antialias=antialias)
    positions = randomize(config.build(4))
    embeddings = positions(all_coords(*grid), grids_of(*grid))
    table = positions.table.permute(2, 0, 1)[None]
    expected = F.interpolate(table, grid, mode=filter, antialias=antialias)
    torch.testing.assert_close(embeddings, expected[0].flatten(1).T, atol=5e-6, rtol=1e-5)


def test_an_aspect_table_spans_the_longer_side_of_both_axes():
    positions = randomize(Interpolated(side=6, coordinates="aspect").build(4))
    embeddings = positions(all_coords(3, 5), grids_of(3, 5))
    table = positions.table.permute(2, 0, 1)[None]
    expected = F.interpolate(table, (5, 5), mode="bilinear", antialias=True)[..., :3, :]
    torch.testing.assert_close(embeddings, expected[0].flatten(1).T, atol=5e-6, rtol=1e-5)


def test_weights_sum_to_one():
    grids = torch.tensor([[1, 50], [3, 9]])
    coords = torch.tensor([[0, 49], [2, 0]])
    for antialias in (True, False):
        sums = resize_weights(coords, grids, 7, "bicubic", antialias).sum(-1)
        torch.testing.assert_close(sums, torch.ones(2, 2))


def test_sinusoids_equal_the_transformers():
    embeddings = Sinusoidal(base=10_000).build(8)(torch.tensor([[3, 50]]), torch.tensor([[64, 64]]))
    waves = torch.tensor([1, 10_000**-0.5])
    expected = torch.cat([f(p * waves) for p in (3, 50) for f in (torch.sin, torch.cos)]) / 2
    torch.testing.assert_close(embeddings[0], expected)


def test_rotary_scores_depend_on_differences_of_coordinates_only():
    q, k = torch.randn(2, 1, 1, 16)
    grids = torch.tensor([[64, 64]])

    def score(a: tuple[int, int], b: tuple[int, int]) -> float:
        at_a, at_b = (rotary_angles(Rotary(), torch.tensor([p]), grids, 16) for p in (a, b))
        return (apply_rotary(q, at_a) * apply_rotary(k, at_b)).sum().item()

    assert score((2, 5), (4, 9)) == pytest.approx(score((12, 35), (14, 39)), abs=1e-4)
    assert score((2, 5), (4, 9)) != pytest.approx(score((2, 5), (9, 4)), abs=1e-2)
    torch.testing.assert_close(apply_rotary(q, torch.zeros(1, 8)), q)
    torch.testing.assert_close(apply_rotary(q, torch.randn(1, 8)).norm(), q.norm())


def test_only_absolute_learned_tables_end():
    assert Factorized(table_size=9).max_side == 9 and Learned2D(table_size=5).max_side == 5
    for config in (Factorized(coordinates="aspect"), Interpolated(), Sinusoidal(), Rotary()):
        assert config.max_side == UNLIMITED


@pytest.mark.parametrize("config", [Factorized(combine="concat"), Sinusoidal(), Fourier()])
def test_dims_that_cannot_be_split_are_rejected(config):
    with pytest.raises(ValueError, match=type(config).__name__):
        config.build(7)
