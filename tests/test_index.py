"""The index: layouts, manifests, splits, unreadable files, and the cache of headers."""

import errno
import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patchpack.data import file_cache
from patchpack.data import index as index_module
from patchpack.data.index import Index, build_index
from patchpack.data.reading import ReadingConfig
from patchpack.data.records import BadDataset
from patchpack.data.sources import folders


def image(path: Path, height: int = 2, width: int = 3) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height)).save(path)
    return path


def broken(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("<html>")
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "images"


@pytest.fixture(autouse=True)
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "patchpack" / "index"


@pytest.fixture
def headers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files whose headers were read, in order."""
    names: list[str] = []
    read_size = index_module.read_size

    def counted(path: str, reading: ReadingConfig) -> tuple[int, int]:
        names.append(os.path.basename(path))
        return read_size(path, reading)

    monkeypatch.setattr(index_module, "read_size", counted)
    return names


def table(index: Index) -> dict[str, tuple[str, str | None]]:
    """key → (split, class)"""
    labels = [index.classes[i] if i >= 0 else None for i in index.labels]
    return dict(zip(index.keys, zip(index.splits, labels, strict=True), strict=True))


def manifest(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


# --- layouts


def test_split_and_class_folders(root: Path) -> None:
    image(root / "train" / "cat" / "1.png", 5, 7)
    image(root / "train" / "dog" / "deep" / "er" / "2.JPG")
    image(root / "validation" / "cat" / "3.png")
    image(root / "test" / "dog" / "4.png")
    image(root / "extra" / "5.png")
    index = build_index(root)
    assert table(index) == {
        "extra/5.png": ("extra", None),
        "test/dog/4.png": ("test", "dog"),
        "train/cat/1.png": ("train", "cat"),
        "train/dog/deep/er/2.JPG": ("train", "dog"),
        "validation/cat/3.png": ("val", "cat"),
    }
    assert index.classes == ("cat", "dog") and index.labels.tolist() == [-1, 1, 0, 1, 0]
    assert (index.heights[2], index.widths[2]) == (5, 7)
    assert index.heights.dtype == index.widths.dtype == np.int32 and index.labels.dtype == np.int64
    assert index.path(2) == root / "train" / "cat" / "1.png"
    assert index.split("val").keys == index.split("valid").keys == ("validation/cat/3.png",)
    assert len(index.split("all")) == len(index) == 5


@pytest.mark.parametrize("name", ["val", "valid", "validation", "dev"])
def test_names_of_the_validation_split(root: Path, name: str) -> None:
    image(root / "train" / "cat" / "1.png")
    image(root / name / "cat" / "2.png")
    assert build_index(root).split("val").keys == (f"{name}/cat/2.png",)


def test_class_folders_are_split_by_class(root: Path) -> None:
    for name, count in [("a", 50), ("b", 3), ("c", 2), ("d", 20)]:
        for number in range(count):
            image(root / name / f"{number}.ppm")
    index = build_index(root)
    counts = Counter(value[::-1] for value in table(index).values())
    assert counts == {
        **{("a", "train"): 40, ("a", "val"): 5, ("a", "test"): 5},
        **{("b", "train"): 1, ("b", "val"): 1, ("b", "test"): 1},
        ("c", "train"): 2,
        **{("d", "train"): 16, ("d", "val"): 2, ("d", "test"): 2},
    }
    assert table(build_index(root)) == table(index)
    assert table(build_index(root, seed=1)) != table(index)


def test_a_split_depends_only_on_the_names_in_its_class(root: Path) -> None:
    """Adding a class, or moving the dataset, moves no image to another split."""
    for number in range(40):
        image(root / "a" / f"{number}.ppm")
    before = table(build_index(root))
    image(root / "0" / "new.ppm")
    root.rename(root.with_name("moved"))
    after = table(build_index(root.with_name("moved")))
    assert after.pop("0/new.ppm") == ("train", "0")
    assert after == before
    # The same in every release on every machine.
    assert [key for key, (split, _) in before.items() if split == "val"] == [
        "a/12.ppm",
        "a/17.ppm",
        "a/19.ppm",
        "a/38.ppm",
    ]


def test_order_does_not_depend_on_the_file_system(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(30):
        image(root / f"class{number % 3}" / f"{number}.ppm")
    for link in ("first", "second"):  # two ways to one folder: the first is taken
        (root / "class0" / link).symlink_to(image(root.parent / "other" / "x.ppm").parent)
    before = build_index(root)
    assert "class0/first/x.ppm" in before.keys and "class0/second/x.ppm" not in before.keys
    assert list(before.keys) == sorted(before.keys)

    class Backwards:
        def __init__(self, folder: Path) -> None:
            with scandir(folder) as entries:
                self.entries = sorted(entries, key=lambda entry: entry.name)[::-1]

        def __enter__(self) -> list[os.DirEntry[str]]:
            return self.entries

        def __exit__(self, *_: object) -> None:
            pass

    scandir = os.scandir
    monkeypatch.setattr(folders.os, "scandir", Backwards)
    after = build_index(root)
    assert table(after) == table(before) and after.keys == before.keys


def test_class_names_sort_as_text(root: Path) -> None:
    for name in ("10", "9", "1", "Z", "a"):
        image(root / name / "x.png")
    assert build_index(root).classes == ("1", "10", "9", "Z", "a")


def test_a_flat_folder_has_no_labels_and_one_split(root: Path) -> None:
    image(root / "2.png")
    image(root / "1.webp")
    (root / "notes").mkdir()
    index = build_index(root)
    assert table(index) == {"1.webp": ("all", None), "2.png": ("all", None)}
    assert index.classes == () and index.split("all").keys == ("1.webp", "2.png")


def test_hidden_files_and_other_files_are_skipped(root: Path) -> None:
    image(root / "cat" / "1.png")
    image(root / "cat" / ".thumbs" / "2.png")
    image(root / "cat" / "._3.png")
    image(root / ".cache" / "4.png")
    image(root / "stray.png")
    (root / "cat" / "notes.txt").write_text("not an image")
    (root / "cat" / "folder.png").mkdir()
    os.mkfifo(root / "cat" / "pipe.png")  # opening it would block
    assert build_index(root).keys == ("cat/1.png",)


def test_links_are_followed_and_loops_end(root: Path, tmp_path: Path) -> None:
    elsewhere = image(tmp_path / "elsewhere" / "1.png", 8, 9)
    image(root / "a" / "2.png")
    image(root / "b" / "3.png")
    (root / "a" / "linked.png").symlink_to(elsewhere)
    (root / "a" / "again").symlink_to(root / "a")
    (root / "a" / "up").symlink_to(root)
    (root / "b" / "folder").symlink_to(elsewhere.parent)
    (root / "b" / "gone.png").symlink_to(root / "nowhere")
    (root / "b" / "itself.png").symlink_to(root / "b" / "itself.png")
    index = build_index(root, max_bad_fraction=0.5)
    assert index.keys == ("a/2.png", "a/linked.png", "b/3.png", "b/folder/1.png")
    assert (index.heights[1], index.widths[3]) == (8, 9)
    assert [key for key, _ in index.bad] == ["b/gone.png", "b/itself.png"]
    assert index.bad[0][1] == "there is no such file"


def test_folders_that_link_to_each_other_are_listed_fast(root: Path) -> None:
    names = [f"f{number:02}" for number in range(12)]
    for name in names:
        image(root / "a" / name / "x.ppm")
        for other in names:
            (root / "a" / name / other).symlink_to(root / "a" / other)
    assert len(build_index(root)) == len(names)  # there are 12! ways through them


def test_file_names_that_are_not_utf8(root: Path, headers: list[str]) -> None:
    path = image(root / "cat" / "x.png")
    os.rename(path, os.fsencode(path.parent) + b"/\xff\xfe.png")
    for _ in range(2):
        index = build_index(root)
        assert os.fsencode(index.path(0)).endswith(b"/\xff\xfe.png")
    assert len(headers) == 1


def test_folders_without_images(root: Path) -> None:
    with pytest.raises(BadDataset, match=r"neither a folder nor a manifest.*expected"):
        build_index(root)
    (root / "cat").mkdir(parents=True)
    with pytest.raises(BadDataset, match=r"holds no images: expected <folder>/<split>/<class>"):
        build_index(root)


def test_a_folder_without_read_permission(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image(root / "cat" / "1.png")

    def deny(folder: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(folder))

    monkeypatch.setattr(folders.os, "scandir", deny)
    with pytest.raises(BadDataset, match="images cannot be read: Permission denied"):
        build_index(root)


# --- manifests

CSV = """path,split,label,weight
b.png,valid,dog,0.5
c/a.png,train,cat,1
"a,b.png",train,dog,"x ""y"" z"
"""


def test_csv(root: Path) -> None:
    for name in ("b.png", "c/a.png", "a,b.png"):
        image(root / name)
    index = build_index(manifest(root, "list.csv", CSV))
    assert table(index) == {
        "a,b.png": ("train", "dog"),
        "b.png": ("val", "dog"),
        "c/a.png": ("train", "cat"),
    }
    assert index.columns == {"weight": ('x "y" z', "0.5", "1")}
    assert index.split("val").columns == {"weight": ("0.5",)}
    assert index.root == root


def test_jsonl(root: Path, tmp_path: Path) -> None:
    elsewhere = image(tmp_path / "far" / "z.png", 8, 9)
    image(root / "a.png")
    rows = [
        {"path": "./a.png", "label": None, "size": [1, 2], "text": "é"},
        {"path": str(elsewhere), "label": 3, "split": "train"},
    ]
    text = "\n\n".join(json.dumps(row) for row in rows)
    index = build_index(manifest(root, "list.JSONL", text))
    assert index.classes == ("3",)
    assert table(index) == {str(elsewhere): ("train", "3"), "a.png": ("train", None)}
    assert index.columns == {"size": ("", "[1, 2]"), "text": ("", "é")}
    assert index.path(0) == elsewhere and index.heights.tolist() == [8, 2]


def test_a_manifest_without_splits_is_split_by_class(root: Path) -> None:
    names = [f"{number}.ppm" for number in range(20)]
    for name in names:
        image(root / name)
    rows = "".join(f"{name},{'cat' if i % 2 else 'dog'}\n" for i, name in enumerate(names))
    index = build_index(manifest(root, "list.csv", "path,label\n" + rows))
    sizes = {"train": 8, "val": 1, "test": 1}
    expected = {(split, c): sizes[split] for split in sizes for c in ("cat", "dog")}
    assert Counter(table(index).values()) == expected


BAD_MANIFESTS = [
    ("l.csv", "file,label\na.png,x\n", r"l\.csv, line 2: there is no `path` \(there is file, lab"),
    ("l.csv", "path,label\na.png,x\n,x\n", "line 3: there is no `path`"),
    ("l.csv", "path,label\na.png\n", "line 2: not as many cells"),
    ("l.csv", "path,label\na.png,x,y\n", "line 2: not as many cells"),
    ("l.csv", 'path\n"' + "a" * 140_000 + '"\n', r"line 2: not CSV \(field larger"),
    ("l.csv", "path\na.png\nb.png\na.png\n", r"a\.png \(line 4\): is on line 2 already"),
    ("l.csv", "path\na.png\nb/../a.png\n", r"a\.png \(line 3\): is on line 2 already"),
    ("l.csv", "", r"l\.csv is empty: expected"),
    ("l.csv", "path,label\n", r"l\.csv is empty: expected"),
    ("l.jsonl", "\n", r"l\.jsonl is empty: expected"),
    ("l.jsonl", '{"path": "a.png"}\n{"path": \n', "line 2: not JSON"),
    ("l.jsonl", '["a.png"]\n', "line 1: not a JSON object"),
    ("l.jsonl", '{"label": "x"}\n', r"line 1: there is no `path` \(there is label\)"),
    ("l.jsonl", "{}\n", r"line 1: there is no `path` \(there is nothing\)"),
]


@pytest.mark.parametrize(("name", "text", "message"), BAD_MANIFESTS)
def test_bad_manifests(root: Path, name: str, text: str, message: str) -> None:
    image(root / "a.png")
    image(root / "b.png")
    with pytest.raises(BadDataset, match=message):
        build_index(manifest(root, name, text))


def test_an_absolute_and_a_relative_path_to_one_file_are_duplicates(root: Path) -> None:
    path = image(root / "a.png")
    with pytest.raises(BadDataset, match=r"\(line 3\): is on line 2 already"):
        build_index(manifest(root, "l.csv", f"path\na.png\n{path}\n"))


def test_duplicates_within_the_limit_are_skipped_and_listed(root: Path) -> None:
    image(root / "a.png")
    rows = "path,label\na.png,cat\na.png,dog\n"
    index = build_index(manifest(root, "l.csv", rows), max_bad_fraction=0.5)
    assert index.keys == ("a.png",) and index.classes == ("cat",)
    assert index.bad == (("a.png (line 3)", "is on line 2 already"),)


def test_a_manifest_that_is_not_utf8(root: Path) -> None:
    root.mkdir()
    (root / "l.csv").write_bytes(b"path\n\xff\xfe.png\n")
    with pytest.raises(BadDataset, match="is not UTF-8 text"):
        build_index(root / "l.csv")


def test_impossible_file_names_are_unreadable_files(root: Path) -> None:
    image(root / "a.png")
    text = '{"path": "a.png"}\n{"path": "\\u0000.png"}\n{"path": "\\ud800.png"}\n'
    index = build_index(manifest(root, "l.jsonl", text), max_bad_fraction=0.9)
    assert index.keys == ("a.png",) and len(index.bad) == 2


# --- splits and selections


def test_a_tenth_of_train_is_held_out_without_a_validation_split(root: Path) -> None:
    """Images of one group stay together; other splits do not change."""
    rows = ["path,split,group"]
    for number in range(60):
        image(root / f"{number}.ppm")
        rows.append(f"{number}.ppm,{'test' if number < 12 else 'train'},{number // 3}")
    (root / "labels.csv").write_text("\n".join(rows))
    index = build_index(root / "labels.csv")
    groups = {
        name: {g for g, split in zip(index.columns["group"], index.splits, strict=True)
               if split == name}
        for name in ("train", "val", "test")
    }  # fmt: skip
    assert {name: len(of) for name, of in groups.items()} == {"train": 14, "val": 2, "test": 4}
    assert not groups["train"] & groups["val"] and index.held_out == 6
    again = build_index(root / "labels.csv")
    assert index.splits == again.splits
    (root / "labels.csv").write_text("\n".join([*rows[:-1], rows[-1].replace("train", "val")]))
    explicit = build_index(root / "labels.csv")
    assert explicit.held_out == 0 and explicit.splits.count("val") == 1


def test_an_unknown_split(root: Path) -> None:
    for number in range(3):
        image(root / "train" / "cat" / f"{number}.ppm")
    image(root / "test" / "cat" / "x.ppm")
    index = build_index(root)
    names = r"test \(1\), train \(2\), val \(1\)"
    with pytest.raises(BadDataset, match=rf"no split 'tset'.*{names}.*'test'\?"):
        index.split("tset")
    with pytest.raises(ValueError, match=rf"no split '9'; it has {names}; set data\.train"):
        index.split("9")


def test_select_keeps_the_order_given(root: Path) -> None:
    for number in range(4):
        image(root / f"{number}.png", height=number + 1)
    index = build_index(root).select([3, 1])
    assert index.keys == ("3.png", "1.png") and index.heights.tolist() == [4, 2]
    assert len(index.select([])) == 0


def test_a_class_that_is_never_trained_on(root: Path) -> None:
    image(root / "train" / "cat" / "1.png")
    image(root / "val" / "dog" / "2.png")
    image(root / "test" / "emu" / "3.png")
    image(root / "unknown" / "yak" / "4.png")
    with pytest.raises(BadDataset, match=r"2 classes are in val or test but not.*: 'dog', 'emu'$"):
        build_index(root)


def test_an_evaluation_manifest_needs_no_train_split(root: Path) -> None:
    image(root / "a.png")
    index = build_index(manifest(root, "l.csv", "path,split,label\na.png,test,cat\n"))
    assert table(index) == {"a.png": ("test", "cat")}


# --- unreadable files


def test_a_few_unreadable_files_are_skipped_and_listed(root: Path) -> None:
    for number in range(99):
        image(root / "cat" / f"{number}.ppm")
    broken(root / "cat" / "bad.jpg")
    index = build_index(root)
    assert len(index) == len(index.labels) == len(index.heights) == 99
    assert index.bad == (("cat/bad.jpg", "is not an image, or is empty or damaged at its start"),)


def test_too_many_unreadable_files_are_an_error(root: Path) -> None:
    for number in range(88):
        image(root / "cat" / f"{number}.ppm")
    for number in range(12):
        broken(root / "cat" / f"bad{number:02}.jpg")
    with pytest.raises(BadDataset, match="12 of 100 images cannot be used") as error:
        build_index(root)
    assert str(error.value).count(": is not an image") == 10
    assert "cat/bad09.jpg: is not" in str(error.value) and "and 2 more" in str(error.value)
    assert len(build_index(root, max_bad_fraction=0.12)) == 88


def test_a_class_of_unreadable_files_is_an_error(root: Path) -> None:
    for number in range(20):
        image(root / "cat" / f"{number}.ppm")
    broken(root / "cat" / "0bad.jpg")
    broken(root / "dog" / "1.jpg")
    with pytest.raises(BadDataset, match=r"none of the 1 images of class 'dog'.*: dog/1\.jpg: is"):
        build_index(root, max_bad_fraction=0.5)


def test_a_dataset_of_unreadable_files_is_an_error_at_any_limit(root: Path) -> None:
    broken(root / "1.jpg")
    with pytest.raises(BadDataset, match="1 of 1 images cannot be used"):
        build_index(root, max_bad_fraction=1.0)


# --- cache


def test_headers_are_read_once(root: Path, headers: list[str], cache_home: Path) -> None:
    for number in range(5):
        image(root / "cat" / f"{number}.png", number + 1, 9)
    first = build_index(root)
    assert sorted(headers) == ["0.png", "1.png", "2.png", "3.png", "4.png"]
    headers.clear()
    (cache,) = cache_home.iterdir()  # no temporary file
    written = cache.stat()
    second = build_index(root)
    assert headers == []
    assert cache.stat().st_ino == written.st_ino and len(list(cache_home.iterdir())) == 1
    assert table(second) == table(first)
    np.testing.assert_array_equal(second.heights, first.heights)
    np.testing.assert_array_equal(second.widths, first.widths)


def test_changed_added_and_removed_files_are_detected(root: Path, headers: list[str]) -> None:
    for name in ("same", "longer", "later", "removed"):
        image(root / f"{name}.png")
    build_index(root)
    headers.clear()
    changed = (root / "longer.png").stat().st_mtime_ns
    image(root / "longer.png", 300, 200)
    os.utime(root / "longer.png", ns=(changed, changed))
    os.utime(root / "later.png", ns=(1, 1))
    image(root / "added.png", 4, 5)
    (root / "removed.png").unlink()
    index = build_index(root)
    assert sorted(headers) == ["added.png", "later.png", "longer.png"]
    assert index.keys == ("added.png", "later.png", "longer.png", "same.png")
    assert index.heights.tolist() == [4, 2, 300, 2]
    headers.clear()
    build_index(root)
    assert headers == []


def test_unreadable_files_are_read_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fixing a permission or a network disk leaves no trace in the file."""
    for name in ("1", "2"):
        image(root / f"{name}.png")
    read_size = index_module.read_size

    def fails(path: str, reading: ReadingConfig) -> tuple[int, int]:
        if path.endswith("2.png"):
            raise index_module.BadImage(path, "may not be read")
        return read_size(path, reading)

    monkeypatch.setattr(index_module, "read_size", fails)
    assert build_index(root, max_bad_fraction=0.5).bad == (("2.png", "may not be read"),)
    monkeypatch.setattr(index_module, "read_size", read_size)
    assert len(build_index(root)) == 2


def test_two_manifests_of_one_folder_have_separate_caches(root: Path, headers: list[str]) -> None:
    for name in ("a", "b"):
        image(root / f"{name}.png")
    lists = [manifest(root, f"{name}.csv", f"path\n{name}.png\n") for name in ("a", "b")]
    for path in lists * 2:
        build_index(path)
    assert headers == ["a.png", "b.png"]


def test_a_file_replaced_by_one_of_the_same_length_and_time(root: Path) -> None:
    """At once, perhaps in the same tick of the clock: an 8-bit PPM of 2 × 3 and of 3 × 2."""
    path = image(root / "1.ppm", 2, 3)
    assert build_index(root).heights.tolist() == [2]
    stat = path.stat()
    image(path, 3, 2)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_size == stat.st_size
    assert build_index(root).heights.tolist() == [3]


@pytest.mark.parametrize("year", [-1, 2300, 1900])
def test_any_modification_time(root: Path, headers: list[str], year: int) -> None:
    path = image(root / "1.png")
    seconds = year if year < 0 else (year - 1970) * 31_556_952
    os.utime(path, (seconds, seconds))
    for _ in range(2):
        assert build_index(root).keys == ("1.png",)
    assert headers == ["1.png"]


def not_a_zip(path: Path) -> None:
    path.write_bytes(b"junk")


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def other_arrays(path: Path) -> None:
    np.savez(path, version=file_cache.CACHE_VERSION)


def other_version(path: Path) -> None:
    with np.load(path) as cache:
        np.savez(path, **{**cache, "version": file_cache.CACHE_VERSION + 1})


def fewer_keys(path: Path) -> None:
    with np.load(path) as cache:
        np.savez(path, **{**cache, "keys": np.frombuffer(b"1.png", np.uint8)})


def impossible_sizes(path: Path) -> None:
    with np.load(path) as cache:
        numbers = cache["numbers"].copy()
        numbers[:, 3:] = [[0, 5], [-7, 5]]
        np.savez(path, **{**cache, "numbers": numbers})


def other_width(path: Path) -> None:
    with np.load(path) as cache:
        numbers = cache["numbers"]
        np.savez(path, **{**cache, "numbers": np.c_[numbers, numbers]})


def pickled(path: Path) -> None:
    with np.load(path) as cache:
        np.savez(path, **{**cache, "numbers": np.array([[print]], object)}, allow_pickle=True)


def compressed(path: Path) -> None:
    """A file of 100 KB that would fill 100 MB."""
    with np.load(path) as cache:
        np.savez_compressed(path, **{**cache, "keys": np.zeros(100_000_000, np.uint8)})


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    "damage",
    [
        not_a_zip, cut_short, other_arrays, other_version, fewer_keys, impossible_sizes,
        other_width, pickled, compressed, pipe, endless,
    ],
)  # fmt: skip
def test_a_damaged_cache_is_rebuilt(
    root: Path, headers: list[str], cache_home: Path, damage
) -> None:
    for name in ("1", "2"):
        image(root / f"{name}.png")
    build_index(root)
    (cache,) = cache_home.iterdir()
    damage(cache)
    headers.clear()
    assert build_index(root).heights.tolist() == [2, 2]
    assert headers == ["1.png", "2.png"]
    build_index(root)
    assert headers == ["1.png", "2.png"]


def test_every_flipped_byte_of_a_cache(root: Path, cache_home: Path) -> None:
    for name in ("1", "2"):
        image(root / f"{name}.png", 5, 7)
    build_index(root)
    (cache,) = cache_home.iterdir()
    whole = cache.read_bytes()
    for at in range(0, len(whole), 3):
        cache.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        index = build_index(root)
        assert index.keys == ("1.png", "2.png"), at
        assert index.heights.tolist() == [5, 5] and index.widths.tolist() == [7, 7], at


def test_a_folder_in_the_way_of_the_cache(root: Path, cache_home: Path) -> None:
    image(root / "1.png")
    build_index(root)
    (cache,) = cache_home.iterdir()
    folder(cache)
    assert build_index(root).keys == ("1.png",)


def test_an_unwritable_cache_is_skipped(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image(root / "1.png")
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    assert len(build_index(root, cache_dir=in_the_way)) == 1

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(file_cache.os, "replace", full)
    assert len(build_index(root, cache_dir=tmp_path / "full")) == 1
    assert list((tmp_path / "full").iterdir()) == []


def test_the_cache_is_written_to_cache_dir(root: Path, tmp_path: Path, cache_home: Path) -> None:
    image(root / "1.png")
    build_index(root, cache_dir=tmp_path / "here")
    assert [path.suffix for path in (tmp_path / "here").iterdir()] == [".npz"]
    assert not cache_home.exists()


def test_usual_names_of_splits(tmp_path):
    for split in ("Training", "Validation", "Test", "__MACOSX"):
        for label in ("a", "b"):
            image(tmp_path / "images" / split / label / "1.png")
    index = build_index(tmp_path / "images", cache_dir=tmp_path / "cache")
    assert set(index.splits) == {"train", "val", "test"} and index.classes == ("a", "b")


def test_classes_are_those_of_the_training_split(tmp_path):
    for path in ("train/a/1.png", "train/b/1.png", "odd/c/1.png"):
        image(tmp_path / "images" / path)
    index = build_index(tmp_path / "images", cache_dir=tmp_path / "cache")
    assert index.classes == ("a", "b") and index.split("odd").labels.tolist() == [-1]
