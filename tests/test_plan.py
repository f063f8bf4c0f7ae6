"""A plan has every image exactly once, in full packs, with equal numbers of packs on all ranks.

It is a pure function of sizes, seed, epoch and world size. Invariants are checked on random plans
by hypothesis; fill is checked on log-normal sizes.
"""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchpack.data.config import PackingConfig
from patchpack.data.packing.bin_packing import MIN_KEPT_FRACTION, Packing
from patchpack.data.packing.dropping import BetaDrop, ConstantDrop, NoDrop
from patchpack.data.packing.plan import ItemSizes, Plan, _pad_last_step, make_plan
from patchpack.data.packing.resolution import FixedArea, Native, SampledArea

SAMPLED = SampledArea(low=64, high=256)
BETA = BetaDrop(mean=0.5, max=0.9)


def log_normal_sizes(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return heights and widths similar to those of web photographs."""
    rng = np.random.default_rng(0)
    side, aspect = 400 * np.exp(rng.normal(0, 0.4, count)), np.exp(rng.normal(0, 0.35, count))
    return np.rint(side * aspect**0.5).astype(int), np.rint(side / aspect**0.5).astype(int)


def plan_of(sizes, *, seed=0, epoch=0, world_size=1, **changes) -> Plan:
    config = PackingConfig(**(dict(patch_size=16, max_tokens=1024, resolution=SAMPLED) | changes))
    return make_plan(ItemSizes(*sizes), config, seed=seed, epoch=epoch, world_size=world_size)


def equal_plans(a: Plan, b: Plan) -> bool:
    arrays = ("images", "grids", "kept", "offsets")
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in arrays)


def pack_tokens(plan: Plan) -> np.ndarray:
    return np.array([plan.kept[a:b].sum() for a, b in pairwise(plan.offsets)])


@st.composite
def any_case(draw, **fixed) -> tuple[np.ndarray, dict]:
    """Draw the sizes of a few images, and planning options."""
    pairs = draw(st.lists(st.tuples(st.integers(1, 400), st.integers(1, 400)), max_size=60))
    sizes = np.array(pairs, np.int64).reshape(-1, 2).T
    choices = dict(
        max_tokens=draw(st.sampled_from([7, 64, 200, 1000])),
        resolution=draw(st.sampled_from([Native(), SAMPLED, FixedArea(side=50)])),
        dropping=draw(st.sampled_from([NoDrop(), ConstantDrop(rate=0.5), BETA])),
        seed=draw(st.integers(0, 5)),
        epoch=draw(st.integers(0, 5)),
        world_size=draw(st.integers(1, 3)),
        packing_window=draw(st.sampled_from([1, 5, 4096])),
        trim_to_fill=draw(st.booleans()),
        shuffle=draw(st.booleans()),
    )
    return sizes, choices | fixed


@settings(max_examples=100, deadline=None)
@given(any_case())
def test_every_image_is_in_one_pack_and_no_pack_exceeds_the_budget(case):
    plan = plan_of(case[0], **case[1])
    assert sorted(plan.images) == list(range(len(plan.images)))
    assert plan.offsets[0] == 0 and plan.offsets[-1] == len(plan.images)
    assert pack_tokens(plan).max(initial=0) <= plan.max_tokens


@settings(max_examples=100, deadline=None)
@given(any_case())
def test_kept_tokens_are_between_one_and_all(case):
    plan = plan_of(case[0], **case[1])
    assert (plan.kept >= 1).all() and (plan.kept <= plan.grids.prod(1)).all()


@settings(max_examples=100, deadline=None)
@given(any_case())
def test_ranks_get_equal_numbers_of_packs_and_no_avoidable_empty_pack(case):
    plan = plan_of(case[0], **case[1])
    assert plan.num_packs == plan.num_steps * plan.world_size
    packs = [plan.pack(step, r) for step in range(plan.num_steps) for r in range(plan.world_size)]
    np.testing.assert_array_equal(np.concatenate([p.images for p in packs] + [[]]), plan.images)
    if len(plan.images) >= plan.num_packs:
        assert all(len(pack.images) for pack in packs)
    else:
        assert max(len(pack.images) for pack in packs) == 1


@settings(max_examples=100, deadline=None)
@given(any_case())
def test_images_of_a_pack_are_sorted_by_length(case):
    plan = plan_of(case[0], **case[1])
    for step in range(plan.num_steps):
        assert (np.diff(plan.pack(step, 0).kept) >= 0).all()


@settings(max_examples=100, deadline=None)
@given(any_case(trim_to_fill=False, dropping=ConstantDrop(rate=0.5)))
def test_without_fill_nothing_is_trimmed(case):
    plan = plan_of(case[0], **case[1])
    tokens = plan.grids.prod(1)
    np.testing.assert_array_equal(plan.kept, np.maximum(1, np.rint(tokens * 0.5)))


@settings(max_examples=100, deadline=None)
@given(any_case(trim_to_fill=True, dropping=NoDrop()))
def test_fill_trims_one_image_per_pack_by_half_at_most_and_only_to_fill_it(case):
    plan = plan_of(case[0], **case[1])
    if plan.world_size > 1:  # the images of the last packs may be redistributed
        return
    tokens = plan.grids.prod(1)
    assert (plan.kept >= tokens * MIN_KEPT_FRACTION).all()
    for (a, b), used in zip(pairwise(plan.offsets), pack_tokens(plan), strict=True):
        trimmed = (plan.kept[a:b] < tokens[a:b]).sum()
        assert trimmed == 0 or (trimmed == 1 and used == plan.max_tokens)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_plans_are_deterministic(world_size):
    sizes = log_normal_sizes(500)
    a, b = (plan_of(sizes, world_size=world_size, dropping=BETA) for _ in "ab")
    assert equal_plans(a, b)


@pytest.mark.parametrize("change", [{"epoch": 1}, {"seed": 1}])
def test_epochs_and_seeds_differ(change):
    sizes = log_normal_sizes(500)
    a, b = plan_of(sizes, resolution=Native()), plan_of(sizes, resolution=Native(), **change)
    assert not np.array_equal(a.images, b.images)
    assert not np.array_equal(plan_of(sizes).grids[:100], plan_of(sizes, **change).grids[:100])


def test_random_numbers_of_an_image_do_not_depend_on_packing():
    sizes = log_normal_sizes(500)
    a = plan_of(sizes, dropping=BETA, trim_to_fill=False)
    b = plan_of(sizes, dropping=BETA, trim_to_fill=False, max_tokens=2048, world_size=3)
    for name in ("grids", "kept"):
        in_order_a, in_order_b = np.empty_like(getattr(a, name)), np.empty_like(getattr(b, name))
        in_order_a[a.images], in_order_b[b.images] = getattr(a, name), getattr(b, name)
        np.testing.assert_array_equal(in_order_a, in_order_b)


def test_without_shuffle_images_stay_near_their_position():
    plan = plan_of(log_normal_sizes(5000), shuffle=False, packing_window=100)
    assert np.abs(plan.images - np.arange(5000)).max() < 400
    assert (plan.pack(0).images < 200).all()


def test_with_shuffle_packs_mix_the_whole_index():
    plan = plan_of(log_normal_sizes(5000))
    ranges = [np.ptp(plan.pack(step).images) for step in range(plan.num_steps)]
    assert np.mean(ranges) > 2500


@pytest.mark.parametrize(("resolution", "max_tokens"), [(SAMPLED, 1024), (Native(), 4096)])
def test_packs_are_full(resolution, max_tokens):
    sizes = log_normal_sizes(20_000)
    filled = plan_of(sizes, resolution=resolution, max_tokens=max_tokens)
    assert filled.fill > 0.999
    tokens = filled.grids.prod(1)
    assert filled.kept.sum() > 0.995 * tokens.sum()  # full by combination, not by trimming
    untrimmed = plan_of(sizes, resolution=resolution, max_tokens=max_tokens, trim_to_fill=False)
    assert untrimmed.fill > 0.99


def test_images_of_one_size_fill_packs_by_trimming():
    sizes = np.full(999, 160), np.full(999, 160)  # 100 tokens each
    plan = plan_of(sizes, resolution=Native(), max_tokens=370)
    assert (pack_tokens(plan)[:-1] == 370).mean() > 0.99
    assert sorted(set(plan.kept)) == [70, 100]
    untrimmed = plan_of(sizes, resolution=Native(), max_tokens=370, trim_to_fill=False)
    assert untrimmed.fill == pytest.approx(300 / 370)


def test_a_pack_has_about_five_images_as_in_the_paper():
    # B/16 at 256 tokens and a mean drop rate of 0.5: 4.87 images (arXiv 2307.06304, Table 2).
    plan = plan_of(log_normal_sizes(20_000), max_tokens=256, dropping=ConstantDrop(rate=0.5))
    assert 4.5 < len(plan.images) / plan.num_packs < 5.2
    assert plan.fill > 0.998  # a tenth of the paper's maximum padding


def test_ranks_of_a_step_have_similar_attention_costs():
    plan = plan_of(log_normal_sizes(20_000), world_size=4, max_tokens=2048, resolution=Native())
    assert plan.costs.sum() == (plan.kept.astype(int) ** 2).sum()

    def imbalance(costs: np.ndarray) -> float:
        steps = costs.reshape(-1, 4)
        return float((steps.max(1) / steps.mean(1)).mean()) - 1

    random_imbalance = imbalance(np.random.default_rng(0).permutation(plan.costs))
    assert imbalance(plan.costs) < 0.2 * random_imbalance


def test_the_last_step_is_spread_over_all_ranks():
    sizes = np.full(14, 16), np.full(14, 16)  # 1 token each: a pack of 10 and one of 4
    plan = plan_of(sizes, resolution=Native(), max_tokens=10, world_size=3, shuffle=False)
    assert plan.num_steps == 1 and sorted(pack_tokens(plan)) == [4, 5, 5]


def test_spreading_the_last_step_never_exceeds_the_budget():
    # Placed longest first into the emptiest, these seven full packs would need 31 slots.
    packs = [[19, 11], [17, 13], [16, 14], [16, 14], [14, 9, 7], [12, 10, 8], [10, 10, 10]]
    lengths = np.concatenate(packs)
    full = Packing(np.arange(len(lengths)), lengths, np.cumsum([0] + [len(p) for p in packs]))
    spread = _pad_last_step(full, [(full.lengths, 30)], 8)
    assert sorted(spread.order) == list(range(len(lengths)))
    used = np.add.reduceat(spread.lengths, spread.offsets[:-1])
    assert len(used) == 8 and used.max() == 30 and np.diff(spread.offsets).min() >= 1


def test_an_empty_pack_gets_an_image():
    sizes = np.full(11, 16), np.full(11, 16)  # three full packs, and two images for three ranks
    plan = plan_of(sizes, resolution=Native(), max_tokens=3, world_size=3, shuffle=False)
    assert pack_tokens(plan).min() == 1


def test_no_images_make_no_packs():
    plan = plan_of((np.empty(0, int), np.empty(0, int)), world_size=2)
    assert plan.num_steps == 0 and plan.fill == 0


class TooLarge(Native):
    """A resize rule that ignores max_tokens."""

    def grids(self, heights, widths, **_):
        return np.full((len(heights), 2), 40, np.int32)


NUMBERS = ("world_size", "packing_window", "max_tokens", "patch_size", "max_side")
ZEROS = [{name: 0} for name in NUMBERS]


@pytest.mark.parametrize("changes", [{"resolution": TooLarge()}, *ZEROS])
def test_invalid_plans_raise(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        plan_of(log_normal_sizes(5), **changes)


@pytest.mark.parametrize(("step", "rank"), [(0, 2), (0, -1), (99, 0), (-1, 0)])
def test_an_index_out_of_range_raises(step, rank):
    plan = plan_of(log_normal_sizes(20), world_size=2)
    with pytest.raises(IndexError, match="2 ranks"):
        plan.pack(step, rank)
