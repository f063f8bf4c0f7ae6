"""A pack is its images laid back to back, and says where each lies."""

import pytest
import torch

from conftest import make_images
from patchpack.batch import PackedBatch, Segments, collate


def test_segments_say_where_each_image_lies():
    segments = Segments((4, 2, 3), torch.device("cpu"))
    assert segments.offsets.tolist() == [0, 4, 6, 9]
    assert segments.ids.tolist() == [0, 0, 0, 0, 1, 1, 2, 2, 2]
    assert segments.offsets.dtype == torch.int32
    assert segments.prepend_tokens(2).lengths == (6, 4, 5)


def test_collate_keeps_order_pixels_and_targets():
    images = make_images()
    pack = collate(images, 12)
    assert pack.lengths == tuple(len(image.patches) for image in images)
    assert pack.keys == tuple(image.key for image in images)
    assert pack.targets["label"].tolist() == [0, 1, 2, 0, 1, 2]
    torch.testing.assert_close(pack.patches, torch.cat([image.patches for image in images]))


def test_select_gives_the_images_alone():
    images = make_images()
    some = collate(images, 12).select([4, 1])
    expected = collate([images[4], images[1]], 12)
    assert torch.equal(some.patches, expected.patches) and torch.equal(some.coords, expected.coords)
    assert some.lengths == expected.lengths and some.keys == expected.keys
    assert some.targets["label"].tolist() == [1, 1]


def test_an_empty_pack_is_a_pack():
    pack = collate([], 12)
    assert pack.num_images == 0 and pack.num_tokens == 0 and pack.segments.ids.tolist() == []


def test_lengths_that_do_not_add_up_are_refused():
    with pytest.raises(ValueError, match="add up to 3 tokens, but there are 4 patches"):
        PackedBatch(
            patches=torch.zeros(4, 12), coords=torch.zeros(4, 2, dtype=torch.int32),
            grids=torch.ones(1, 2, dtype=torch.int32), lengths=(3,),
        )  # fmt: skip
