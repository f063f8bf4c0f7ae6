"""Segmentation: maps, both decoders, their loss; an image is as it would be alone."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from conftest import assert_losses_add_up, assert_packed_equals_single, make_images, randomize
from patchpack.batch import IGNORE_INDEX, collate
from patchpack.losses import dice_loss
from patchpack.model.feature_maps import kept_map, to_maps, to_tokens
from patchpack.model.navit import NaViT, NaViTConfig
from patchpack.tasks.segmentation.model import (
    LinearDecoder,
    MaskTransformer,
    SegmentationConfig,
    Segmenter,
    argmax_pixels,
    upsample,
)

MODEL = NaViTConfig(dim=12, depth=2, num_heads=2, mlp_dim=20, patch_size=2, registers=1)
DECODERS = {"linear": LinearDecoder(), "mask transformer": MaskTransformer(depth=1)}


def attach_masks(images):
    """Masks of any size, that of the file; some pixels ignored."""
    generator = torch.Generator().manual_seed(1)
    for number, image in enumerate(images):
        size = (image.grid[0] * 3 + number, image.grid[1] * 2 + 1)
        mask = torch.randint(0, 4, size, generator=generator).to(torch.uint8)
        image.targets["mask"] = torch.where(mask == 3, IGNORE_INDEX, mask).to(torch.uint8)
    return images


def segmenter(decoder, labels=3, **config) -> Segmenter:
    torch.manual_seed(0)
    module = Segmenter(MODEL, labels, SegmentationConfig(decoder=DECODERS[decoder], **config))
    return randomize(module).eval()


def test_maps_put_every_token_in_its_place_and_holes_where_none_is():
    batch = collate(make_images(), 12)
    x = torch.arange(batch.num_tokens * 2.0).view(-1, 2) + 1
    maps = to_maps(x, batch, fill=-1.0)
    assert [tuple(m.shape[1:]) for m in maps] == [tuple(g) for g in batch.grids.tolist()]
    place = 0
    for image, m in zip(make_images(), maps, strict=True):
        for y, c in image.coords.tolist():
            assert m[:, y, c].tolist() == x[place].tolist()
            place += 1
        assert (m[0] < 0).sum() == image.grid[0] * image.grid[1] - len(image.patches)
    assert torch.equal(to_tokens(maps, batch), x)
    filled = to_maps(x, batch, fill=torch.tensor([7.0, 8.0]))
    assert {tuple(v) for v in filled[3].flatten(1).T.tolist()} >= {(7.0, 8.0)}
    for known, m in zip(kept_map(batch), maps, strict=True):
        assert torch.equal(known, m[0] > 0)


def test_layers_are_reached_by_name():
    model = randomize(NaViT(MODEL)).eval()
    batch = collate(make_images(), 12)
    found = model.intermediate_features(batch, ("embedding", "block 1", "block 2", "norm"))
    torch.testing.assert_close(found["embedding"], model.embed(batch))
    torch.testing.assert_close(found["norm"], model.encode(batch).tokens)
    torch.testing.assert_close(model.encoder.norm(found["block 2"]), found["norm"])
    assert not torch.equal(found["block 1"], found["block 2"])
    with pytest.raises(ValueError, match=r"\['block 3'\].*embedding, block 1, block 2, norm"):
        model.intermediate_features(batch, ("block 3",))


@pytest.mark.parametrize("decoder", DECODERS)
def test_scores_are_those_of_the_image_alone(decoder):
    module = segmenter(decoder, labels=6)  # a norm over few magnifies rounding
    assert_packed_equals_single(module, list(module.head.parameters()), per="token")


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("dice", [0.0, 0.5])
def test_losses_and_gradients_of_a_pack_are_the_sum_of_its_images(decoder, dice):
    module = segmenter(decoder, dice_weight=dice, class_weights=(0.5, 1.0, 2.0))
    assert_losses_add_up(module, attach_masks(make_images()))


def test_only_pixels_of_kept_patches_with_a_class_are_learned():
    module = segmenter("linear")
    (image,) = attach_masks(make_images(grids=((2, 3), (2, 2))))[1:]  # one token dropped of four
    assert len(image.patches) == 2 and image.targets["mask"].shape == (7, 5)
    batch = collate([image], 12)
    kept = kept_map(batch)[0]
    rows, columns = (torch.arange(n) * g // n for n, g in ((7, 2), (5, 2)))
    known = kept[rows][:, columns] & (image.targets["mask"] != IGNORE_INDEX)
    loss = module.loss(batch)
    (scores,) = module.upsampled_logits(batch, [(7, 5)])
    expected = F.cross_entropy(
        scores[None],
        image.targets["mask"].long()[None],
        ignore_index=IGNORE_INDEX,
        reduction="none",
    )
    assert loss.count == int(known.sum())
    torch.testing.assert_close(loss.sum, expected[0][known].sum())


def test_maps_are_enlarged_from_the_middles_of_their_cells():
    (found,) = upsample([torch.tensor([[[0.0, 1.0]]])], [(1, 4)])
    assert found.flatten().tolist() == [0, 0.25, 0.75, 1]


def test_the_likeliest_of_many_classes_is_that_of_all_at_once():
    scores = torch.randn(40, 3, 4, generator=torch.Generator().manual_seed(0))
    (whole,) = upsample([scores], [(9, 10)])
    found = argmax_pixels(scores, (9, 10))
    assert torch.equal(found.long(), whole.argmax(0)) and found.max() > 32


@pytest.mark.parametrize("side", ["patch_proj", "class_proj"])
def test_a_mask_transformer_compares_directions(side):
    """Eq. 4: of vectors of length 1, whatever length they have."""
    module, batch = segmenter("mask transformer"), collate(make_images(), 12)
    before = module(batch)
    with torch.no_grad():
        getattr(module.head, side).weight.mul_(7)
    torch.testing.assert_close(module(batch), before, atol=1e-4, rtol=1e-4)


def test_dice_counts_for_every_pixel_of_its_image():
    """So that an image's share of the loss is that of its pixels."""
    images = attach_masks(make_images())
    parts = [
        segmenter("linear", dice_weight=dice).loss(collate(images, 12)).sum for dice in (0.0, 0.5)
    ]
    module, batch = segmenter("linear"), collate(images, 12)
    expected = torch.zeros(())
    sizes = [tuple(image.targets["mask"].shape) for image in images]
    for scores, image, kept in zip(
        module.upsampled_logits(batch, sizes), images, kept_map(batch), strict=True
    ):
        mask = image.targets["mask"].long()
        seen = F.interpolate(kept[None, None].float(), mask.shape)[0, 0] > 0
        truth = torch.where(seen, mask, IGNORE_INDEX)
        expected = expected + 0.5 * (truth != IGNORE_INDEX).sum() * dice_loss(
            scores, truth, IGNORE_INDEX
        )
    torch.testing.assert_close(parts[1] - parts[0], expected, rtol=1e-4, atol=1e-3)


def test_the_vector_of_an_image_is_the_mean_of_its_tokens():
    """A pooling that is never trained says nothing."""
    module, batch = segmenter("linear"), collate(make_images(), 12)
    tokens, pooled = module.encode(batch)
    expected = torch.stack([part.mean(0) for part in tokens.split(list(batch.lengths))])
    torch.testing.assert_close(pooled, expected)
    assert not any(p.requires_grad for p in module.backbone.pool.parameters())


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_pack_of_nothing_has_no_scores(decoder):
    assert segmenter(decoder)(collate([], 12)).shape == (0, 3)


def test_an_empty_pack_reaches_every_weight_with_nothing():
    for decoder in DECODERS:
        module = segmenter(decoder)
        loss = module.loss(collate([], 12))
        loss.sum.backward()
        assert loss.count == 0 and loss.sum == 0
        assert all(p.grad is not None for p in module.parameters() if p.requires_grad)


def test_dice_is_0_for_a_perfect_mask_and_1_for_a_wrong_one():
    mask = torch.tensor([[0, 0, 1], [2, 2, IGNORE_INDEX]])
    right = F.one_hot(mask.clamp(max=2), 3).permute(2, 0, 1) * 100.0
    assert dice_loss(right, mask, IGNORE_INDEX) == pytest.approx(0, abs=1e-6)
    assert dice_loss(right.roll(1, 0), mask, IGNORE_INDEX) == pytest.approx(1, abs=1e-6)
    even = dice_loss(torch.zeros(3, 2, 3), mask, IGNORE_INDEX)  # p = 1/3 of 5 pixels
    terms = [1 - 2 * (n / 3) / (5 / 3 + n) for n in (2, 1, 2)]
    assert even == pytest.approx(sum(terms) / 3, abs=1e-6)


@pytest.mark.parametrize("decoder", DECODERS)
def test_operations_are_those_that_pytorch_counts(decoder):
    """Of images of one length, whose tiles hold no padding."""
    module = segmenter(decoder)
    batch = collate(attach_masks(make_images(grids=[(3, 4)] * 9)[::2]), 12)
    with FlopCounterMode(display=False) as counter:
        loss = module.loss(batch)
        forward = counter.get_total_flops()
        loss.sum.backward()
    assert module.flops(batch.lengths) == forward
    assert module.training_flops(batch) == counter.get_total_flops()


def test_wrong_settings_are_refused():
    for wrong in ({"dice_weight": -1.0}, {"class_weights": (-1.0,)}):
        with pytest.raises(ValueError, match="must be at least 0"):
            SegmentationConfig(**wrong)
    with pytest.raises(ValueError, match="must not all be 0"):
        SegmentationConfig(class_weights=(0.0, 0.0))
    with pytest.raises(ValueError, match="class names must be unique: 'a' repeats"):
        SegmentationConfig(classes=("a", "b", "a"))
    with pytest.raises(ValueError, match="2 class_weights for 3 classes"):
        SegmentationConfig(classes=("a", "b", "c"), class_weights=(1.0, 2.0))
    with pytest.raises(ValueError, match="needs the target 'mask'"):
        segmenter("linear").loss(collate(make_images(), 12))
    assert isinstance(segmenter("linear").head, nn.Linear)
