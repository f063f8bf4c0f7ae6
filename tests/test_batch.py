"""A pack has its images back to back, with their lengths."""

import pytest
import torch

from conftest import make_images
from patchpack.batch import PackedBatch, Segments, collate


def test_segments_have_the_offset_of_each_image_and_the_image_of_each_token():
    segments = Segments((4, 2, 3), torch.device("cpu"))
    assert segments.offsets.tolist() == [0, 4, 6, 9]
    assert segments.ids.tolist() == [0, 0, 0, 0, 1, 1, 2, 2, 2]
    assert segments.offsets.dtype == torch.int32
    assert segments.extended(2).lengths == (6, 4, 5)


def test_collate_keeps_order_pixels_and_targets():
    images = make_images()
    pack = collate(images, 12)
    assert pack.lengths == tuple(len(image.patches) for image in images)
    assert pack.keys == tuple(image.key for image in images)
    assert pack.targets["label"].tolist() == [0, 1, 2, 0, 1, 2]
    torch.testing.assert_close(pack.patches, torch.cat([image.patches for image in images]))


def test_select_equals_a_pack_of_those_images():
    images = make_images()
    selected = collate(images, 12).select([4, 1])
    expected = collate([images[4], images[1]], 12)
    assert torch.equal(selected.patches, expected.patches)
    assert torch.equal(selected.coords, expected.coords)
    assert selected.lengths == expected.lengths and selected.keys == expected.keys
    assert selected.targets["label"].tolist() == [1, 1]


def test_an_empty_pack_is_a_pack():
    pack = collate([], 12)
    assert pack.num_images == 0 and pack.num_tokens == 0 and pack.segments.ids.tolist() == []


def test_lengths_that_do_not_add_up_are_rejected():
    with pytest.raises(ValueError, match="add up to 3 tokens, but there are 4 patches"):
        PackedBatch(
            patches=torch.zeros(4, 12), coords=torch.zeros(4, 2, dtype=torch.int32),
            grids=torch.ones(1, 2, dtype=torch.int32), lengths=(3,),
        )  # fmt: skip
