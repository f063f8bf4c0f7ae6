"""`pack` accepts common image types and cuts them without moving or losing pixels."""

import numpy as np
import pytest
import torch
from PIL import Image

import patchpack as pp
from patchpack.data.images import BadImage
from patchpack.data.packing.resolution import SquareResize
from patchpack.data.patchify import patchify, unpatchify


def picture(h: int, w: int) -> np.ndarray:
    return np.random.default_rng(h * w).integers(0, 256, (h, w, 3), np.uint8)


def test_every_image_type_gives_the_same_tokens(tmp_path):
    array = picture(32, 48)
    Image.fromarray(array).save(tmp_path / "a.png")
    images = [array, Image.fromarray(array), torch.from_numpy(array).permute(2, 0, 1),
              tmp_path / "a.png", str(tmp_path / "a.png")]  # fmt: skip
    pack = pp.pack(images, patch_size=16)
    assert pack.grids.tolist() == [[2, 3]] * 5 and pack.lengths == (6,) * 5
    for other in pack.patches.split(6)[1:]:
        assert torch.equal(other, pack.patches[:6])


def test_multiples_of_the_patch_size_are_not_resized():
    array = picture(32, 48)
    pack = pp.pack([array], patch_size=16)
    back = unpatchify(pack.patches.numpy(), pack.coords.numpy(), (2, 3), 16)
    assert np.array_equal(back, array)


def test_a_patch_is_flattened_by_row_column_channel():
    array = picture(4, 6)
    patches = patchify(array, 2)
    assert patches.coords.tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    assert np.array_equal(patches.patches[4].numpy(), array[2:4, 2:4].ravel())


def test_kept_tokens_keep_their_coordinates():
    array = picture(4, 6)
    kept = patchify(array, 2, kept=np.array([1, 5]))
    assert kept.coords.tolist() == [[0, 1], [1, 2]] and kept.grid == (2, 3)
    assert torch.equal(kept.patches, patchify(array, 2).patches[[1, 5]])


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (3, 3), (700, 20)])
def test_any_size_works_within_the_budget(size):
    pack = pp.pack([np.zeros((*size, 3), np.uint8)], patch_size=16, max_tokens=64)
    assert 1 <= pack.num_tokens <= 64 and pack.grids.prod() == pack.num_tokens


def test_gray_images_become_three_channels():
    gray = np.arange(256, dtype=np.uint8).reshape(16, 16)
    pack = pp.pack([gray, gray[:, :, None], torch.from_numpy(gray)[None]], patch_size=16)
    assert torch.equal(pack.patches[0].view(16, 16, 3)[..., 1], torch.from_numpy(gray))
    assert torch.equal(pack.patches[0], pack.patches[1]) and torch.equal(
        pack.patches[0], pack.patches[2]
    )


def test_another_resize_rule():
    pack = pp.pack([picture(20, 60)], patch_size=4, resolution=SquareResize(grid=3))
    assert pack.grids.tolist() == [[3, 3]]


def test_pixels_are_copied_even_if_patches_could_be_a_view():
    """A column of patches has the memory layout of the image; the image may be read-only."""
    image = np.zeros((12, 4, 3), np.uint8)
    image.flags.writeable = False
    batch = pp.pack([image], patch_size=4)
    batch.patches.fill_(7)
    assert not image.any()


def test_no_images():
    assert pp.pack([], patch_size=8).num_images == 0


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 3)), "must be uint8 in 0..255, not float64"),
        (np.zeros((4, 4, 4), np.uint8), r"must be \[h, w, 3\] or \[h, w\], not \[4, 4, 4\]"),
        (np.zeros((0, 4, 3), np.uint8), r"not \[0, 4, 3\]"),
        (torch.zeros(4, 4, 3, dtype=torch.uint8), r"a tensor must be \[3, h, w\], not \[4, 4, 3\]"),
        (17, "cannot pack a int"),
        ("nowhere.jpg", "nowhere.jpg: "),
    ],
)
def test_invalid_images_raise(image, message):
    with pytest.raises(ValueError, match=message):
        pp.pack([image])


def test_a_single_image_outside_a_list_raises():
    with pytest.raises(ValueError, match="put a single image in a list"):
        pp.pack(picture(8, 8))
    with pytest.raises(ValueError, match="max_tokens must be at least 1"):
        pp.pack([picture(8, 8)], max_tokens=0)


def test_errors_name_the_number_of_a_damaged_image(tmp_path):
    path = tmp_path / "cut.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:900])
    whole = np.zeros((8, 8, 3), np.uint8)
    with Image.open(path) as damaged, pytest.raises(BadImage, match="image 1: is damaged"):
        pp.pack([whole, damaged], patch_size=8)
    with pytest.raises(ValueError, match="image 1: holds floating-point"):
        pp.pack([whole, Image.new("F", (8, 8))], patch_size=8)
