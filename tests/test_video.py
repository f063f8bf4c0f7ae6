"""Clips: tubelets, the model over them, and what an image model becomes."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import patchpack as pp
from conftest import randomise
from patchpack.batch import PackedClips, Tubelet, collate_clips
from patchpack.data.video.pack import pack_clips
from patchpack.data.video.tubelets import cut_tubelets
from patchpack.model.navit import NaViT, NaViTConfig
from patchpack.model.positions import Factorized, Rotary
from patchpack.model.video import VideoConfig, VideoNaViT, inflate
from patchpack.tasks.classification.model import Classifier

SHAPES = (Tubelet(2, 4, 4), Tubelet(4, 8, 4), Tubelet(1, 8, 8))
PLAIN = VideoConfig(
    dim=12, depth=2, num_heads=2, mlp_dim=20, patch_size=4, registers=1, tubelets=SHAPES[:1]
)
SEVERAL = replace(
    PLAIN, tubelets=SHAPES, time_coordinates="fractional",
    positions=Factorized(table_size=16, coordinates="fractional"),
)  # fmt: skip


def clips(count: int = 4, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    sizes = rng.integers([2, 8, 8], [9, 30, 30], (count, 3))
    return [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]


def pack(config: VideoConfig, some=None, drop: bool = False) -> PackedClips:
    """Clips whose sides tubelets fill; with `drop`, every second loses a third of its tokens."""
    cut = []
    for number, frames in enumerate(some or clips()):
        t, h, w = (side // 4 * 4 or 4 for side in frames.shape[:3])
        whole = np.resize(frames, (max(t, 4), max(h, 8), max(w, 8), 3))
        kept = None
        if drop and number % 2:
            total = len(cut_tubelets(whole, config.tubelets).patches)
            rng = np.random.default_rng(number)
            kept = np.sort(rng.permutation(total)[: max(1, total * 2 // 3)])
        cut.append(cut_tubelets(whole, config.tubelets, kept=kept, key=f"clip {number}",
                                targets={"label": number % 3}))  # fmt: skip
    return collate_clips(cut, config.tubelets)


def test_tubelets_are_the_pixels_of_their_place():
    frames = np.arange(4 * 8 * 12 * 3, dtype=np.int64).reshape(4, 8, 12, 3).astype(np.uint8)
    found = cut_tubelets(frames, SHAPES)
    assert found.tokens_per_tubelet == (2 * 2 * 3, 1 * 1 * 3, 4 * 1 * 1) and found.grid == (2, 2, 3)
    place = 0
    for shape, count in zip(SHAPES, found.tokens_per_tubelet, strict=True):
        for _ in range(count):
            t, y, x = found.coords[place].tolist()
            block = frames[
                t * shape.frames : (t + 1) * shape.frames,
                y * shape.height : (y + 1) * shape.height,
                x * shape.width : (x + 1) * shape.width,
            ].ravel()
            assert found.patches[place][: len(block)].tolist() == block.tolist()
            assert not found.patches[place][len(block) :].any()
            place += 1
    kept = np.array([0, 11, 12, 18])
    some = cut_tubelets(frames, SHAPES, kept=kept)
    assert some.tokens_per_tubelet == (2, 1, 1)
    assert torch.equal(some.patches, found.patches[kept])
    assert torch.equal(some.grid_extents, found.grid_extents[kept])
    with pytest.raises(ValueError, match="do not divide into tubelets of 2 frames of 4 x 4 px"):
        cut_tubelets(frames[:, :7], SHAPES)


@pytest.mark.parametrize("config", [PLAIN, SEVERAL], ids=["one shape", "several shapes"])
def test_a_clip_is_the_same_alone_and_in_company(config):
    """Tokens, pooled vectors and every gradient, to 1e-5 of the largest value."""
    model = randomise(VideoNaViT(config)).eval()
    batch = pack(config, drop=True)

    def found(one: PackedClips, clip: int):
        encoded = model.encode(one)
        start = sum(one.lengths[:clip])
        tokens = encoded.tokens[start : start + one.lengths[clip]]
        total = (tokens * torch.linspace(-1, 1, tokens.numel()).view_as(tokens)).sum()
        total = total + encoded.pooled[clip].sum()
        gradients = torch.autograd.grad(total, list(model.parameters()), allow_unused=True)
        return tokens, encoded.pooled[clip], *(g for g in gradients if g is not None)

    for clip in range(batch.num_images):
        alone, company = found(batch.select([clip]), 0), found(batch, clip)
        assert len(alone) == len(company)
        for a, b in zip(alone, company, strict=True):
            torch.testing.assert_close(b, a, atol=1e-5 * max(1.0, float(a.detach().abs().max())),
                                       rtol=0)  # fmt: skip


@pytest.mark.parametrize("how", ["central", "average"])
def test_a_still_clip_begins_as_its_image(how):
    torch.manual_seed(0)
    config = NaViTConfig(dim=12, depth=2, num_heads=2, mlp_dim=20, patch_size=4, bias=True)
    image_model = randomise(NaViT(config)).eval()
    own = {field.name: getattr(config, field.name) for field in fields(config)}
    model = VideoNaViT(VideoConfig(**own, tubelets=(Tubelet(3, 4, 4),))).eval()
    model.load_state_dict(inflate(image_model.state_dict(), model.config, how))
    image = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
    still = np.repeat(image[None], 9, 0)
    with torch.no_grad():
        expected = image_model(pp.pack([image], patch_size=4))
        found = model(pack_clips([still, still[:3]], model.config.tubelets))
    torch.testing.assert_close(found, expected.expand(2, -1), atol=1e-5, rtol=1e-5)
    moving = still.copy()
    moving[1::3] = 255 - moving[1::3]  # the middle of each tubelet
    with torch.no_grad():
        other = model(pack_clips([moving], model.config.tubelets))
    assert not torch.allclose(other, expected, atol=1e-3)


@pytest.mark.parametrize("how", ["central", "average"])
def test_tubelets_of_other_sizes_begin_with_what_patches_made_of_the_same_pixels(how):
    """Enlarged, exactly; a shape of the patches' own size is left as it is."""
    torch.manual_seed(0)
    shapes = (Tubelet(2, 4, 4), Tubelet(4, 8, 8), Tubelet(1, 6, 4), Tubelet(2, 2, 4))
    config = replace(SEVERAL, tubelets=shapes, bias=True)
    names = {field.name for field in fields(NaViTConfig)}
    of_images = NaViTConfig(**{name: getattr(config, name) for name in names})
    patches = randomise(NaViT(of_images)).state_dict()
    found = inflate(patches, config, how)
    VideoNaViT(config).load_state_dict(found)
    patch = torch.randn(1, 3, 4, 4)
    flat = patch.permute(0, 2, 3, 1).flatten(1)
    expected = flat @ patches["embedding.weight"].T + patches["embedding.bias"]
    for number, shape in enumerate(shapes[:3]):
        large = F.interpolate(patch, (shape.height, shape.width), mode="bilinear", antialias=True)
        frames = large.permute(0, 2, 3, 1).flatten(1).repeat(1, shape.frames)
        made = frames @ found[f"embedding.{number}.weight"].T + found[f"embedding.{number}.bias"]
        torch.testing.assert_close(made, expected, atol=1e-4, rtol=1e-5)
    assert found["embedding.3.weight"].isfinite().all()


def test_tubelets_of_all_shapes_are_where_their_pixels_are():
    """In shares of the clip, also where a shape leaves some of a side out."""
    frames = np.zeros((6, 12, 20, 3), np.uint8)
    cut = cut_tubelets(frames, SEVERAL.tubelets)
    middles = (cut.coords + 0.5) / cut.grid_extents * torch.tensor(frames.shape[:3])
    place = 0
    for shape, count in zip(SEVERAL.tubelets, cut.tokens_per_tubelet, strict=True):
        size = torch.tensor([shape.frames, shape.height, shape.width])
        rows = slice(place, place + count)
        torch.testing.assert_close(middles[rows], (cut.coords[rows] + 0.5) * size)
        place += count
    model = VideoNaViT(SEVERAL).eval()
    with torch.no_grad():  # positions and time alone: the same for tubelets with the same middle
        for layer in model.embedding:
            layer.weight.zero_()
        x = model.embed(collate_clips([cut], SEVERAL.tubelets))
    same = (middles[:, None] - middles[None]).abs().amax(-1) < 1e-4
    near = (x[:, None] - x[None]).abs().amax(-1) < 1e-4
    assert torch.equal(near, same)


@pytest.mark.parametrize("coordinates", ["absolute", "fractional"])
def test_time_is_told_in_tubelets_or_in_shares_of_the_clip(coordinates):
    model = VideoNaViT(replace(PLAIN, time_table_size=4, time_coordinates=coordinates))
    batch = pack_clips([np.zeros((4, 8, 8, 3), np.uint8)], PLAIN.tubelets)
    with torch.no_grad():
        model.time.zero_()
        before = model.embed(batch)
        model.time.copy_(torch.arange(4.0)[:, None].expand(4, 12))
        rows = model.embed(batch) - before
    expected = batch.coords[:, :1].float() * (1 if coordinates == "absolute" else 2)
    expected = expected + (0 if coordinates == "absolute" else 0.5)
    torch.testing.assert_close(rows, expected.expand(-1, 12), atol=1e-4, rtol=0)


def test_only_what_fits_is_inflated():
    weights = NaViT(
        NaViTConfig(dim=12, depth=1, num_heads=2, mlp_dim=20, patch_size=8)
    ).state_dict()
    for config in (PLAIN, SEVERAL):
        with pytest.raises(ValueError, match="cannot become tubelets"):
            inflate(weights, config)


def test_clips_keep_their_aspect_and_stay_within_their_tokens():
    long, wide = clips(2)
    long, wide = np.resize(long, (13, 40, 20, 3)), np.resize(wide, (5, 12, 60, 3))
    batch = pack_clips([long, wide, wide[:1]], SHAPES[:1])
    assert batch.grids.tolist() == [[6, 10, 5], [2, 3, 15], [1, 3, 15]]
    for shapes in (SHAPES[:1], SHAPES):
        small = pack_clips([long, wide], shapes, max_tokens=60)
        assert max(small.lengths) <= 60 and min(small.lengths) > 15
        aspects = small.grids[:, 1] / small.grids[:, 2]
        assert aspects[0] > 1.4 and aspects[1] < 0.5
    with pytest.raises(ValueError, match="12 frames do not fit in 3 tokens"):
        pack_clips([long], SHAPES[:1], max_tokens=3)
    for wrong in (np.zeros((4, 8, 8), np.uint8), np.zeros((4, 8, 8, 3)), np.zeros((0, 8, 8, 3))):
        with pytest.raises(ValueError, match="clip 0: frames must be uint8"):
            pack_clips([wrong], SHAPES[:1])
    assert pack_clips([], SHAPES[:1]).num_images == 0
    with pytest.raises(ValueError, match="a list of clips"):
        pack_clips(long, SHAPES[:1])


def test_clips_are_classified_and_moved_and_chosen():
    model = randomise(Classifier(SEVERAL, 3))
    batch = pack(SEVERAL, drop=True)
    loss = model.loss(batch)
    loss.sum.backward()
    assert loss.count == 4 and loss.sum.isfinite()
    assert all(p.grad is not None for p in model.parameters())
    some = batch.to("cpu").select([2, 0])
    assert isinstance(some, PackedClips) and some.tokens_per_tubelet == (
        batch.tokens_per_tubelet[2],
        batch.tokens_per_tubelet[0],
    )
    torch.testing.assert_close(model.eval()(some), model(batch)[[2, 0]], atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="takes clips"):
        model(pp.pack([np.zeros((8, 8, 3), np.uint8)], patch_size=4))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tubelets": ()}, "needs a tubelet"),
        ({"tubelets": (Tubelet(2, 8, 8),)}, "must be 4 px square"),
        ({"tubelets": SHAPES}, "several shapes need fractional coordinates"),
        ({"positions": Rotary(), "dim": 16}, "rotary positions know no time"),
        ({"time_coordinates": "aspect"}, "time has no aspect"),
    ],
)
def test_configs_that_make_no_sense_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        replace(PLAIN, **changes)


def test_clips_beyond_the_learned_times_are_refused():
    model = VideoNaViT(replace(PLAIN, time_table_size=2))
    with pytest.raises(ValueError, match="4 tubelets long, but the learned times end at 2"):
        model(pack_clips([np.zeros((8, 8, 8, 3), np.uint8)], PLAIN.tubelets))
    with pytest.raises(ValueError, match="a frame and a pixel"):
        Tubelet(0, 1, 1)
