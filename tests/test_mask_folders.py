"""Folders of masks beside folders of images: names, suffixes, splits, and what belongs to none."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from patchpack.data.annotations.masks import COLUMN
from patchpack.data.index import Index, build_index
from patchpack.inference.image_files import image_files


@pytest.fixture(autouse=True)
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def index_of(root: Path, *names: str) -> Index:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (3, 2)).save(root / name)
    return build_index(root)


def masks(index: Index) -> dict[str, tuple[str, str]]:
    """Image → split, and its mask."""
    cells = index.columns.get(COLUMN, [""] * len(index))
    return dict(zip(index.keys, zip(index.splits, cells, strict=True), strict=True))


@pytest.mark.parametrize(
    "folders", [("images", "masks"), ("Images", "Masks"), ("imgs", "gt"), ("image", "labels")]
)
@pytest.mark.parametrize(
    "name", ["a.png", "a.tif", "a.jpg", "a.PNG", "a_mask.png", "a-Segmentation.gif", "a_seg.bmp"]
)
def test_a_mask_has_the_name_of_its_image(
    tmp_path: Path, folders: Sequence[str], name: str
) -> None:
    images, folder = folders
    index = index_of(tmp_path / "d", f"{images}/train/a.jpg", f"{folder}/train/{name}")
    assert masks(index) == {f"{images}/train/a.jpg": ("train", f"{folder}/train/{name}")}
    assert not index.scan.messages()


def test_folders_of_masks_in_each_split(tmp_path: Path) -> None:
    names = ("train/images/a.jpg", "train/masks/a.png", "Valid/images/b.jpg", "Valid/masks/b.png")
    index = index_of(tmp_path / "d", *names, "test/images/x/c.jpg", "test/masks/x/c_mask.png")
    assert masks(index) == {
        "train/images/a.jpg": ("train", "train/masks/a.png"),
        "Valid/images/b.jpg": ("val", "Valid/masks/b.png"),
        "test/images/x/c.jpg": ("test", "test/masks/x/c_mask.png"),
    }
    assert not index.classes
    assert [path.name for path in image_files([tmp_path / "d"])] == ["b.jpg", "c.jpg", "a.jpg"]


def test_the_nearest_of_several_names_is_taken(tmp_path: Path) -> None:
    names = ("images/a.jpg", "images/a_mask.jpg", "masks/a.png", "masks/a.tif")
    index = index_of(tmp_path / "d", *names, "masks/a_mask.png")
    assert masks(index)["images/a.jpg"][1] == "masks/a.png"
    assert masks(index)["images/a_mask.jpg"][1] == "masks/a_mask.png"


def test_masks_of_no_image_are_named(tmp_path: Path) -> None:
    index = index_of(tmp_path / "d", "images/a.jpg", "masks/b.png", "masks/a_labelIds.png")
    assert not masks(index)["images/a.jpg"][1]
    assert index.scan.messages() == ["masks of no image: 2 (masks/a_labelIds.png, masks/b.png)"]
    assert index.scan.json()["unused_masks"] == 2
