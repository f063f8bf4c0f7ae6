"""Clips: tubelets, the video model, and inflation of image weights."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import patchpack as pp
from conftest import randomize
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


def pack(config: VideoConfig, drop: bool = False) -> PackedClips:
    """Clips of whole tubelets; with `drop`, every second one has a third of its tokens dropped."""
    cut = []
    for number, frames in enumerate(clips()):
        t, h, w = (side // 4 * 4 or 4 for side in frames.shape[:3])
        clip = np.resize(frames, (max(t, 4), max(h, 8), max(w, 8), 3))
        kept = None
        if drop and number % 2:
            total = len(cut_tubelets(clip, config.tubelets).patches)
            rng = np.random.default_rng(number)
            kept = np.sort(rng.permutation(total)[: max(1, total * 2 // 3)])
        cut.append(cut_tubelets(clip, config.tubelets, kept=kept, key=f"clip {number}",
                                targets={"label": number % 3}))  # fmt: skip
    return collate_clips(cut, config.tubelets)


def test_tubelets_have_the_pixels_at_their_coordinates():
    frames = np.arange(4 * 8 * 12 * 3, dtype=np.int64).reshape(4, 8, 12, 3).astype(np.uint8)
    clip = cut_tubelets(frames, SHAPES)
    assert clip.tokens_per_tubelet == (2 * 2 * 3, 1 * 1 * 3, 4 * 1 * 1) and clip.grid == (2, 2, 3)
    token = 0
    for shape, count in zip(SHAPES, clip.tokens_per_tubelet, strict=True):
        for _ in range(count):
            t, y, x = clip.coords[token].tolist()
            block = frames[
                t * shape.frames : (t + 1) * shape.frames,
                y * shape.height : (y + 1) * shape.height,
                x * shape.width : (x + 1) * shape.width,
            ].ravel()
            assert clip.patches[token][: len(block)].tolist() == block.tolist()
            assert not clip.patches[token][len(block) :].any()
            token += 1
    kept = np.array([0, 11, 12, 18])
    dropped = cut_tubelets(frames, SHAPES, kept=kept)
    assert dropped.tokens_per_tubelet == (2, 1, 1)
    assert torch.equal(dropped.patches, clip.patches[kept])
    assert torch.equal(dropped.grid_extents, clip.grid_extents[kept])
    with pytest.raises(ValueError, match="do not divide into tubelets of 2 frames of 4 x 4 px"):
        cut_tubelets(frames[:, :7], SHAPES)


@pytest.mark.parametrize("config", [PLAIN, SEVERAL], ids=["one shape", "several shapes"])
def test_a_clip_has_the_same_outputs_and_gradients_in_every_pack(config):
    """Tokens, pooled vectors and every gradient, to 1e-5 of the largest value."""
    model = randomize(VideoNaViT(config)).eval()
    batch = pack(config, drop=True)

    def outputs_and_gradients(batch: PackedClips, clip: int):
        encoded = model.encode(batch)
        start = sum(batch.lengths[:clip])
        tokens = encoded.tokens[start : start + batch.lengths[clip]]
        total = (tokens * torch.linspace(-1, 1, tokens.numel()).view_as(tokens)).sum()
        total = total + encoded.pooled[clip].sum()
        gradients = torch.autograd.grad(total, list(model.parameters()), allow_unused=True)
        return tokens, encoded.pooled[clip], *(g for g in gradients if g is not None)

    for clip in range(batch.num_images):
        single = outputs_and_gradients(batch.select([clip]), 0)
        among_others = outputs_and_gradients(batch, clip)
        for a, b in zip(single, among_others, strict=True):
            torch.testing.assert_close(b, a, atol=1e-5 * max(1.0, float(a.detach().abs().max())),
                                       rtol=0)  # fmt: skip


@pytest.mark.parametrize("how", ["central", "average"])
def test_a_static_clip_has_the_features_of_its_image(how):
    torch.manual_seed(0)
    config = NaViTConfig(dim=12, depth=2, num_heads=2, mlp_dim=20, patch_size=4, bias=True)
    image_model = randomize(NaViT(config)).eval()
    shared = {field.name: getattr(config, field.name) for field in fields(config)}
    model = VideoNaViT(VideoConfig(**shared, tubelets=(Tubelet(3, 4, 4),))).eval()
    model.load_state_dict(inflate(image_model.state_dict(), model.config, how))
    image = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
    still = np.repeat(image[None], 9, 0)
    with torch.no_grad():
        expected = image_model(pp.pack([image], patch_size=4))
        pooled = model(pack_clips([still, still[:3]], model.config.tubelets))
    torch.testing.assert_close(pooled, expected.expand(2, -1), atol=1e-5, rtol=1e-5)
    moving = still.copy()
    moving[1::3] = 255 - moving[1::3]  # the middle of each tubelet
    with torch.no_grad():
        other = model(pack_clips([moving], model.config.tubelets))
    assert not torch.allclose(other, expected, atol=1e-3)


@pytest.mark.parametrize("how", ["central", "average"])
def test_inflated_tubelets_of_other_sizes_embed_resized_pixels_as_patches(how):
    """Exactly where pixels are enlarged or of the same size."""
    torch.manual_seed(0)
    shapes = (Tubelet(2, 4, 4), Tubelet(4, 8, 8), Tubelet(1, 6, 4), Tubelet(2, 2, 4))
    config = replace(SEVERAL, tubelets=shapes, bias=True)
    names = {field.name for field in fields(NaViTConfig)}
    image_config = NaViTConfig(**{name: getattr(config, name) for name in names})
    patches = randomize(NaViT(image_config)).state_dict()
    inflated = inflate(patches, config, how)
    VideoNaViT(config).load_state_dict(inflated)
    patch = torch.randn(1, 3, 4, 4)
    flat = patch.permute(0, 2, 3, 1).flatten(1)
    expected = flat @ patches["embedding.weight"].T + patches["embedding.bias"]
    for number, shape in enumerate(shapes[:3]):
        large = F.interpolate(patch, (shape.height, shape.width), mode="bilinear", antialias=True)
        frames = large.permute(0, 2, 3, 1).flatten(1).repeat(1, shape.frames)
        weight, bias = (inflated[f"embedding.{number}.{name}"] for name in ("weight", "bias"))
        torch.testing.assert_close(frames @ weight.T + bias, expected, atol=1e-4, rtol=1e-5)
    assert inflated["embedding.3.weight"].isfinite().all()


def test_fractional_coordinates_of_tubelets_are_the_centers_of_their_pixels():
    """Also where a shape does not cover a side completely."""
    frames = np.zeros((6, 12, 20, 3), np.uint8)
    cut = cut_tubelets(frames, SEVERAL.tubelets)
    centers = (cut.coords + 0.5) / cut.grid_extents * torch.tensor(frames.shape[:3])
    start = 0
    for shape, count in zip(SEVERAL.tubelets, cut.tokens_per_tubelet, strict=True):
        size = torch.tensor([shape.frames, shape.height, shape.width])
        rows = slice(start, start + count)
        torch.testing.assert_close(centers[rows], (cut.coords[rows] + 0.5) * size)
        start += count
    model = VideoNaViT(SEVERAL).eval()
    with torch.no_grad():  # positions and time only: equal for tubelets with the same center
        for layer in model.embedding:
            layer.weight.zero_()
        x = model.embed(collate_clips([cut], SEVERAL.tubelets))
    same = (centers[:, None] - centers[None]).abs().amax(-1) < 1e-4
    near = (x[:, None] - x[None]).abs().amax(-1) < 1e-4
    assert torch.equal(near, same)


@pytest.mark.parametrize("coordinates", ["absolute", "fractional"])
def test_time_is_in_tubelets_or_relative_to_the_clip(coordinates):
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


def test_weights_of_another_patch_size_are_not_inflated():
    weights = NaViT(
        NaViTConfig(dim=12, depth=1, num_heads=2, mlp_dim=20, patch_size=8)
    ).state_dict()
    for config in (PLAIN, SEVERAL):
        with pytest.raises(ValueError, match="cannot be inflated to tubelets"):
            inflate(weights, config)


def test_clips_keep_their_aspect_within_max_tokens():
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
    for invalid in (np.zeros((4, 8, 8), np.uint8), np.zeros((4, 8, 8, 3)), np.zeros((0, 8, 8, 3))):
        with pytest.raises(ValueError, match="clip 0: frames must be uint8"):
            pack_clips([invalid], SHAPES[:1])
    assert pack_clips([], SHAPES[:1]).num_images == 0
    with pytest.raises(ValueError, match="a list of clips"):
        pack_clips(long, SHAPES[:1])


def test_clips_are_classified_moved_and_selected():
    model = randomize(Classifier(SEVERAL, 3))
    batch = pack(SEVERAL, drop=True)
    loss = model.loss(batch)
    loss.sum.backward()
    assert loss.count == 4 and loss.sum.isfinite()
    assert all(p.grad is not None for p in model.parameters())
    selected = batch.to("cpu").select([2, 0])
    assert isinstance(selected, PackedClips) and selected.tokens_per_tubelet == (
        batch.tokens_per_tubelet[2],
        batch.tokens_per_tubelet[0],
    )
    torch.testing.assert_close(model.eval()(selected), model(batch)[[2, 0]], atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="takes clips"):
        model(pp.pack([np.zeros((8, 8, 3), np.uint8)], patch_size=4))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tubelets": ()}, "needs at least 1 tubelet"),
        ({"tubelets": (Tubelet(2, 8, 8),)}, "must be 4 px square"),
        ({"tubelets": SHAPES}, "several shapes need fractional coordinates"),
        ({"positions": Rotary(), "dim": 16}, "rotary positions are spatial only"),
        ({"time_coordinates": "aspect"}, "must be absolute or fractional"),
    ],
)
def test_inconsistent_configs_are_rejected(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(PLAIN, **changes)


def test_clips_longer_than_the_time_table_are_rejected():
    model = VideoNaViT(replace(PLAIN, time_table_size=2))
    with pytest.raises(ValueError, match="4 tubelets long, but the time table ends at 2"):
        model(pack_clips([np.zeros((8, 8, 8, 3), np.uint8)], PLAIN.tubelets))
    with pytest.raises(ValueError, match="at least 1 frame and 1 pixel"):
        Tubelet(0, 1, 1)
