"""Folders: what is an item, what is passed over and counted, and which names are splits."""

import os
from pathlib import Path

import pytest
from PIL import Image

from patchpack.data.index import Index, build_index
from patchpack.data.records import CLIPS, BadDataset
from patchpack.data.sources.folders import files_in
from patchpack.data.sources.scan_notes import ScanNotes, is_system_folder
from patchpack.inference.image_files import image_files


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "d"


def images(folder: Path, count: int = 3, suffix: str = ".ppm") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("RGB", (3, 2)).save(folder / f"{number}{suffix}")


def files(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"x")


def table(index: Index) -> set[tuple[str, str | None]]:
    labels = [index.classes[i] if i >= 0 else None for i in index.labels]
    return set(zip(index.splits, labels, strict=True))


# --- files passed over


def test_files_of_other_kinds_are_counted_and_empty_classes_named(root: Path) -> None:
    images(root / "cat")
    files(root / "cat", "a.PSD", "b.psd", "notes.txt", "0.txt", "Thumbs.db", "x")
    files(root / "dog" / "deep", "a.psd", "b.CR2", "c.txt")
    files(root, "README.md", "0.jpg")  # a picture beside class folders
    (root / "emu").mkdir()
    index = build_index(root)
    assert len(index) == 3 and index.scan.files == {
        ".psd": 3, ".txt": 2, ".cr2": 1, ".md": 1, ".jpg": 1, "(no suffix)": 1
    }  # fmt: skip
    assert index.messages[1:] == (
        "passed over: 3 .psd, 2 .txt, 1 (no suffix), 1 .cr2, 1 .jpg, 1 .md (convert "
        ".cr2, .psd to JPEG, PNG or TIFF)",
        "no image in the class folder dog (1 .cr2, 1 .psd, 1 .txt)",
        "no image in the class folder emu (empty)",
    )
    with pytest.raises(BadDataset, match=r"in the class folders dog \(2 files\); convert"):
        index.require_read_classes()


def test_empty_class_folders_and_those_of_texts_do_not_stop_a_run(root: Path) -> None:
    images(root / "cat")
    files(root / "dog", "a.txt")
    (root / "emu").mkdir()
    build_index(root).require_read_classes()


def test_class_folders_of_splits(root: Path) -> None:
    images(root / "train" / "cat")
    images(root / "val" / "cat")
    files(root / "train" / "dog", "a.psd")
    files(root / "val" / "dog", "a.psd")
    index = build_index(root)
    assert set(index.scan.empty_classes) == {"train/dog", "val/dog"}
    with pytest.raises(BadDataset, match=r"train/dog \(1 files\), val/dog \(1 files\); convert"):
        index.require_read_classes()


def test_a_folder_of_nothing_that_is_read(root: Path) -> None:
    files(root / "cat", "a.psd", "b.psd")
    with pytest.raises(BadDataset, match=r"holds no images: .*; passed over: 2 \.psd \(convert"):
        build_index(root)
    with pytest.raises(ValueError, match=r"holds no images; passed over: 2 \.psd"):
        image_files([root])


def test_clean_folders_have_no_message(root: Path) -> None:
    images(root / "cat")
    files(root / "cat", "0.txt", ".DS_Store", "desktop.ini")
    assert build_index(root).messages == (
        "split: 1 train, 1 val, 1 test by hash of the file names",
    )


SYSTEM = [
    "@eaDir", ".@__thumb", ".thumbnails", "_thumb", "thumbs", "Thumbnails", "my-thumbs", "THMBNL",
    ".Spotlight-V100", ".Trashes", ".Trash-1000", "#recycle", "@Recycle", "#snapshot",
    "$RECYCLE.BIN", "System Volume Information", "__MACOSX", ".git", ".ipynb_checkpoints",
    "Catalog Previews.lrdata", "lost+found",
]  # fmt: skip


@pytest.mark.parametrize("name", SYSTEM)
def test_folders_of_thumbnails_and_systems_hold_no_images(root: Path, name: str) -> None:
    for folder in (root, root / "cat", root / "cat" / "deep"):
        images(folder / name / "0.ppm")
    images(root / "cat")
    images(root / "dog")
    index = build_index(root)
    assert index.classes == ("cat", "dog") and len(index) == 6
    assert index.scan.skipped == {f"folder {name}": 3}
    assert len(files_in(root)) == len(image_files([root])) == 6
    assert index.messages[1] == f"not looked into: 3 folder {name}"


@pytest.mark.parametrize("name", ["thumb", "left_thumb", "git", "recycle", "eadir", "thumbsup"])
def test_classes_with_like_names_are_classes(name: str) -> None:
    assert not is_system_folder(name)


def test_hidden_files_are_no_images(root: Path) -> None:
    images(root / "cat")
    files(root / "cat", "._0.ppm", "._1.ppm", ".DS_Store")
    index = build_index(root)
    assert len(index) == 3 and index.scan.skipped == {"hidden files": 2}


def test_a_run_inside_the_data_is_no_data(root: Path) -> None:
    images(root / "cat")
    images(root / "dog")
    images(root / "run" / "tensorboard")
    images(root / "run", 1, ".png")
    files(root / "run", "config.json", "log.jsonl")
    index = build_index(root)
    assert index.classes == ("cat", "dog") and "run folder run" in index.scan.skipped


def test_videos_among_images_and_images_among_videos(root: Path) -> None:
    images(root / "cat")
    files(root / "cat", "a.mp4")
    assert build_index(root).scan.files == {".mp4": 1}
    clips = root.parent / "clips"
    images(clips / "left" / "clip")
    files(clips / "left" / "clip", "times.csv")  # beside frames
    images(clips / "right", 1, ".png")
    files(clips / "right", "a.mp4", "b.psd")
    index = build_index(clips, media_type=CLIPS, max_bad_fraction=0.9, require_labels=False)
    assert index.keys == ("left/clip",) and index.scan.files == {".png": 1, ".psd": 1}


def test_a_file_named_twice_is_taken_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images(root)
    monkeypatch.chdir(root)
    names = [root / "1.ppm", root, Path("1.ppm"), Path("./2.ppm"), root / ".." / "d" / "0.ppm"]
    assert image_files(names) == [root / "1.ppm", root / "0.ppm", root / "2.ppm"]


# --- classes named like splits


def test_a_class_named_train(root: Path) -> None:
    for name in ("bus", "car", "train", "truck"):
        images(root / name)
    index = build_index(root)
    assert index.classes == ("bus", "car", "train", "truck")
    assert index.messages[1] == (
        "train: taken for a class, not a split, like bus, car, truck beside it, which have no name "
        "of a split"
    )


@pytest.mark.parametrize("name", ["test", "val", "dev", "valid", "Validation", "testing"])
def test_a_class_named_like_another_split(root: Path, name: str) -> None:
    for other in ("ops", "product", name):
        images(root / other)
    index = build_index(root)
    assert set(index.classes) == {"ops", "product", name}
    assert f"{name}: taken for a class" in index.messages[1]


def test_splits_beside_other_folders(root: Path) -> None:
    """Class folders in train make splits of all; stray folders are named, and not learned."""
    images(root / "train" / "cat")
    images(root / "val" / "cat")
    images(root / "cat")
    index = build_index(root)
    assert index.classes == ("cat",)
    assert table(index) == {("train", "cat"), ("val", "cat"), ("cat", None)}
    assert index.messages == (
        "split: 3 train, 3 val by the folders; not train, val or test: cat (3)",
    )


@pytest.mark.parametrize("names", [("train", "val"), ("train", "test", "extra"), ("val", "test")])
def test_folders_of_splits_without_labels(root: Path, names: tuple[str, ...]) -> None:
    for name in names:
        images(root / name)
    index = build_index(root, require_labels=False)
    assert index.classes == () and set(names) <= set(index.splits)
    assert " by the folders" in index.messages[0]


def test_a_test_set_alone_has_a_split_and_classes(root: Path) -> None:
    images(root / "test" / "cat")
    images(root / "test" / "dog")
    assert table(build_index(root)) == {("test", "cat"), ("test", "dog")}


def test_train_alone_is_a_split(root: Path) -> None:
    images(root / "train", 10)
    assert table(build_index(root)) == {("train", None), ("val", None)}


def test_clips_in_a_class_named_train(root: Path) -> None:
    for name in ("bus", "train"):
        for clip in ("a", "b", "c"):
            images(root / name / clip, 1)
    assert build_index(root, media_type=CLIPS).classes == ("bus", "train")


def test_notes_do_not_cost_a_second_walk(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for label in range(4):
        images(root / f"c{label}")
    visited: list[str] = []
    scandir = os.scandir

    def counted(folder: str | Path) -> object:
        visited.append(str(folder))
        return scandir(folder)

    monkeypatch.setattr("patchpack.data.sources.folders.os.scandir", counted)
    files_in(root, notes=ScanNotes())
    assert len(visited) == 5


@pytest.mark.parametrize("names", [["entrenamiento", "prueba"], ["dataset"]])
def test_classes_that_hold_the_same_folders_may_be_splits(root: Path, names: list[str]) -> None:
    for name in names:
        images(root / name / "cat")
        images(root / name / "dog")
    index = build_index(root)
    assert index.classes == tuple(names)
    (message,) = index.scan.messages()
    assert message.startswith(f"{', '.join(names)}: taken for classes, but each holds folders such")
    images(root / "other" / "cat")
    assert not build_index(root).scan.messages()


@pytest.mark.parametrize("names", [["training_set", "test_set"], ["Train_Set", "VAL_SET"]])
def test_names_of_sets_are_splits(root: Path, names: list[str]) -> None:
    for name in names:
        images(root / name / "cat", 20)
        images(root / name / "dog", 20)
    index = build_index(root)
    assert index.classes == ("cat", "dog")
    assert "by the folders" in index.split_rule
