"""Digests of file contents: what they cover, and when a file is read again."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patchpack.data import contents
from patchpack.data.annotations.masks import attach_masks
from patchpack.data.contents import ENDS, content_digests, file_digests
from patchpack.data.index import build_index
from patchpack.data.records import CLIPS


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files whose contents were read."""
    names: list[str] = []
    read_digest = contents._read_digest

    def counted(path: str) -> int:
        names.append(os.path.basename(path))
        return read_digest(path)

    monkeypatch.setattr(contents, "_read_digest", counted)
    return names


def image(path: Path, color: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), (color, 0, 0)).save(path)
    return path


def put(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_one_digest_per_item_and_files_are_read_once(tmp_path: Path, read: list[str]) -> None:
    for number in range(3):
        image(tmp_path / "d" / f"{number}.bmp", number % 2)
    index = build_index(tmp_path / "d", cache_dir=tmp_path / "c")
    assert read == []  # an index alone reads no contents
    first = content_digests(index, cache_dir=tmp_path / "c")
    assert first.dtype == np.uint64 and first.shape == (3,)
    assert first[0] == first[2] != first[1]  # of the contents, not of the name
    assert sorted(read) == ["0.bmp", "1.bmp", "2.bmp"]
    read.clear()
    np.testing.assert_array_equal(content_digests(index, cache_dir=tmp_path / "c"), first)
    selected = content_digests(index.select([2, 1]), cache_dir=tmp_path / "c")
    assert read == [] and selected.tolist() == [first[2], first[1]]


def test_a_file_replaced_by_one_of_the_same_length_and_time(
    tmp_path: Path, read: list[str]
) -> None:
    path = image(tmp_path / "d" / "1.bmp")
    index = build_index(tmp_path / "d", cache_dir=tmp_path / "c")
    before, stat = content_digests(index, cache_dir=tmp_path / "c"), path.stat()
    image(path, 255)  # at once, perhaps in the same tick of the clock
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_size == stat.st_size
    assert content_digests(index, cache_dir=tmp_path / "c") != before


def test_what_a_digest_covers(tmp_path: Path) -> None:
    data = bytearray(os.urandom(4 * ENDS))
    names = ["whole", "start", "end", "middle", "shorter", "small", "small_middle"]
    put(tmp_path / "whole", data)
    for name, at in [("start", ENDS - 1), ("end", -ENDS), ("middle", 2 * ENDS)]:
        changed = data.copy()
        changed[at] ^= 1
        put(tmp_path / name, changed)
    put(tmp_path / "shorter", data[:ENDS] + data[ENDS + 1 :])
    put(tmp_path / "small", data[: 2 * ENDS])
    data[ENDS] ^= 1
    put(tmp_path / "small_middle", data[: 2 * ENDS])  # whole where it has no more than 64 KiB
    digests = dict(zip(names, file_digests(tmp_path, names, cache_dir=tmp_path / "c"), strict=True))
    assert digests.pop("middle") == digests["whole"]
    assert len(set(digests.values())) == len(digests)


def test_files_that_cannot_be_read_are_zero_and_read_again(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").mkdir()
    names = ["gone", "pipe", "empty", "\0"]
    assert file_digests(tmp_path, names, cache_dir=tmp_path / "c").tolist() == [0, 0, 0, 0]
    put(tmp_path / "gone", b"here again")
    assert file_digests(tmp_path, ["gone"], cache_dir=tmp_path / "c") != 0


def test_every_frame_of_a_folder(tmp_path: Path) -> None:
    for number in range(4):
        image(tmp_path / "d" / "clip" / f"{number}.bmp")
    index = build_index(tmp_path / "d", cache_dir=tmp_path / "c", media_type=CLIPS)
    digests = [content_digests(index, cache_dir=tmp_path / "c").tolist()]
    image(tmp_path / "d" / "clip" / "3.bmp", 9)
    digests.append(content_digests(index, cache_dir=tmp_path / "c").tolist())
    (tmp_path / "d" / "clip" / "0.bmp").rename(tmp_path / "d" / "clip" / "00.bmp")
    digests.append(content_digests(index, cache_dir=tmp_path / "c").tolist())
    assert len({d for (d,) in digests}) == 3


def test_masks_belong_to_the_contents_of_their_image(tmp_path: Path) -> None:
    for number in range(2):
        image(tmp_path / "d" / "images" / f"{number}.bmp")
        path = tmp_path / "d" / "masks" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(path)
    index, _ = attach_masks(build_index(tmp_path / "d", cache_dir=tmp_path / "c"), 2, None)
    before = content_digests(index, cache_dir=tmp_path / "c")
    Image.fromarray(np.ones((4, 4), np.uint8)).save(tmp_path / "d" / "masks" / "1.png")
    after = content_digests(index, cache_dir=tmp_path / "c")
    assert before[0] == after[0] and before[1] != after[1]
