"""Captions: sources, tokenization, one caption drawn per epoch, and the text budget of packs."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from patchpack.data.annotations.captions import (
    Captions,
    attach_captions,
    build_captions,
    read_captions,
)
from patchpack.data.config import PackingConfig
from patchpack.data.index import build_index
from patchpack.data.loader import LoaderConfig, load_epoch
from patchpack.data.packing.bin_packing import Packing
from patchpack.data.packing.plan import ItemSizes, make_plan
from patchpack.data.packing.resolution import Native
from patchpack.data.packing.text_budget import enforce_text_budget
from patchpack.data.records import BadDataset
from patchpack.data.spec import Preprocessing
from patchpack.data.tokenizer import train_tokenizer
from patchpack.data.transforms.augment import Augment


def write_images(root: Path, names: list[str]) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        Image.new("RGB", (16 + number, 12), (number * 20, 0, 0)).save(root / name)


def manifest(root: Path, rows: list[dict]) -> Path:
    write_images(root, [row["path"] for row in rows])
    path = root / "captions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_texts_of_a_manifest(tmp_path):
    rows = [
        {"path": "a.png", "captions": [" one ", "", "two"]},
        {"path": "b.png", "captions": "[x] only"},
        {"path": "c.png", "captions": []},
    ]
    assert read_captions(build_index(manifest(tmp_path, rows))) == [
        ("one", "two"), ("[x] only",), (),
    ]  # fmt: skip


@pytest.mark.parametrize("column", ["caption", "text"])
def test_texts_of_a_csv(tmp_path, column):
    write_images(tmp_path, ["a.png", "b.png"])
    (tmp_path / "m.csv").write_text(f'path,{column}\na.png,"red, round"\nb.png,blue\n')
    assert read_captions(build_index(tmp_path / "m.csv")) == [("red, round",), ("blue",)]


def test_texts_beside_images(tmp_path):
    write_images(tmp_path / "train", ["a.png", "b.png", "c.png"])
    (tmp_path / "train/a.txt").write_text("one\n\n two\n")
    (tmp_path / "train/b.txt").write_bytes(b"\xef\xbb\xbfthree\r\n")
    assert read_captions(build_index(tmp_path)) == [("one", "two"), ("three",), ()]


def test_no_texts_at_all(tmp_path):
    write_images(tmp_path, ["a.png"])
    with pytest.raises(BadDataset, match=r"no text for any image: expected a manifest .* \.txt"):
        read_captions(build_index(tmp_path))


def test_invalid_texts_are_dropped(tmp_path):
    """A file that is not UTF-8, other kinds of JSON, and invalid Unicode."""
    write_images(tmp_path / "side", ["a.png", "b.png"])
    (tmp_path / "side/a.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "side/b.txt").write_text("two")
    assert read_captions(build_index(tmp_path / "side")) == [(), ("two",)]
    rows = [
        {"path": "a.png", "captions": ["one", None, 3, ["x"]]},
        {"path": "b.png", "captions": {"en": "x"}},
        {"path": "c.png", "captions": ["lone \ud800", "\ud800"]},
        {"path": "d.png", "captions": [["nested"]]},
    ]
    assert read_captions(build_index(manifest(tmp_path, rows))) == [("one",), (), (), ()]


def test_texts_truncated_to_the_same_tokens_stay_different_texts(tmp_path):
    rows = [
        {"path": f"{n}.png", "captions": [f"the same beginning {n}", "shared"]} for n in range(2)
    ]
    index = build_index(manifest(tmp_path, rows))
    texts = read_captions(index)
    tokenizer = train_tokenizer([text for captions in texts for text in captions], 300)
    captions = attach_captions(index, texts, tokenizer, 4).index.annotation(Captions)
    assert captions.text(0).tolist() == captions.text(2).tolist()  # truncated
    assert captions.text_ids.tolist() == [0, 1, 2, 1]
    assert captions.select(np.array([1])).text_ids.tolist() == [2, 1]


def test_images_in_a_flat_folder_are_split(tmp_path):
    write_images(tmp_path, [f"{n}.png" for n in range(40)])
    index = build_index(tmp_path)
    parts = [set(index.split(name).keys) for name in ("train", "val", "test")]
    assert [len(part) for part in parts] == [32, 4, 4] and set.union(*parts) == set(index.keys)
    assert index.split("val").keys == build_index(tmp_path).split("val").keys


def test_images_without_text_are_dropped_and_listed(tmp_path):
    rows = [
        {"path": "a.png", "captions": ["a small red box", "red"]},
        {"path": "b.png", "captions": [" "]},
        {"path": "c.png", "captions": ["a long tale of a box that is red and small and old"]},
    ]
    index = build_index(manifest(tmp_path, rows))
    texts = read_captions(index)
    tokenizer = train_tokenizer([text for captions in texts for text in captions], 300)
    pairs = attach_captions(index, texts, tokenizer, 8)
    assert pairs.index.keys == ("a.png", "c.png") and pairs.without_text == {"b.png": "has no text"}
    captions = pairs.index.annotation(Captions)
    assert captions.image_offsets.tolist() == [0, 2, 3] and captions.image_ids.tolist() == [0, 0, 1]
    whole = tokenizer.encode(["red", rows[2]["captions"][0]], 1000).tokens
    assert captions.text(1).tolist() == whole[0]
    assert pairs.truncated >= 1 and captions.text(2).tolist() == [*whole[1][:7], whole[1][-1]]
    only = pairs.index.select([1]).annotation(Captions)
    assert only.text(0).tolist() == captions.text(2).tolist() and len(only) == 1


def test_an_epoch_draws_one_caption_of_each_image():
    captions = build_captions([[1], [2, 2], [3, 3, 3], [4]], [1, 3])
    draws = np.stack([captions.sample(0, epoch) for epoch in range(200)])
    assert set(draws[:, 0]) == {0}
    counts = np.bincount(draws[:, 1], minlength=4)
    assert counts[0] == 0 and counts[1:].min() > 40
    assert (captions.sample(0, 5) == captions.sample(0, 5)).all()


def test_texts_of_a_pack_are_those_of_its_images(tmp_path):
    rows = [{"path": f"{n}.png", "captions": [f"{n}", f"{n} {n} {n}"]} for n in range(9)]
    index = build_index(manifest(tmp_path, rows))
    texts = read_captions(index)
    index = attach_captions(index, texts, train_tokenizer(["0 1 2"], 300), 16).index
    captions = index.annotation(Captions)
    chosen = captions.sample(7, 0)
    sizes = ItemSizes(index.heights, index.widths, captions.lengths[chosen])
    packing = PackingConfig(patch_size=4, max_tokens=40, resolution=Native(), max_text_tokens=12)
    plan = make_plan(sizes, packing, seed=7, epoch=0)
    preprocessing = Preprocessing(patch_size=4, augment=Augment(), seed=7)
    seen = {}
    for pack in load_epoch(index, plan, preprocessing, LoaderConfig(workers=0)):
        stream = pack.batch.texts
        assert len(stream.tokens) <= 12 and len(stream.lengths) == pack.batch.num_images
        seen |= dict(zip(pack.batch.keys, stream.tokens.split(stream.lengths), strict=True))
    assert sorted(seen) == sorted(index.keys)
    for number, key in enumerate(index.keys):
        assert seen[key].tolist() == captions.text(chosen[number]).tolist()


def test_an_item_has_the_caption_whose_length_is_planned():
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 6, 50)
    captions = build_captions([rng.integers(9, size=n + 1) for n in range(counts.sum())], counts)
    for seed, epoch in ((0, 0), (7, 0), (7, 3)):
        sampled, lengths = captions.sample(seed, epoch), captions.stream_lengths(seed, epoch)
        for row in range(50):
            tokens = captions.item(row, seed, epoch, Path()).tokens
            assert tokens.tolist() == captions.text(sampled[row]).tolist()
            assert len(tokens) == lengths[row]


@pytest.mark.parametrize("budget", [20, 33, 1000])
def test_the_text_budget_holds_and_no_image_is_lost(budget):
    rng = np.random.default_rng(0)
    lengths, texts = rng.integers(5, 40, 300), rng.integers(1, 20, 300)
    offsets = np.append(np.arange(0, 300, 5), 300)
    full = Packing(rng.permutation(300), lengths, offsets)
    kept = enforce_text_budget(full, texts, budget, 200)
    assert sorted(kept.order) == list(range(300))
    by_position = dict(zip(full.order.tolist(), lengths.tolist(), strict=True))
    assert [by_position[i] for i in kept.order.tolist()] == kept.lengths.tolist()
    for pack in np.split(np.arange(300), kept.offsets[1:-1]):
        assert texts[kept.order[pack]].sum() <= budget and kept.lengths[pack].sum() <= 200
    if budget == 1000:
        assert kept.order.tolist() == full.order.tolist()


def test_a_text_longer_than_the_budget_raises():
    full = Packing(np.arange(2), np.array([3, 3]), np.array([0, 2]))
    with pytest.raises(ValueError, match="9 tokens, but a pack may hold 8"):
        enforce_text_budget(full, np.array([4, 9]), 8, 10)


def test_conditions_select_images(tmp_path):
    rows = [{"path": f"{n}.png", "caption": "x", "vendor": "ab"[n % 2]} for n in range(4)]
    index = build_index(manifest(tmp_path, rows))
    assert index.where(["vendor=b"]).keys == ("1.png", "3.png") and index.where([]) is index
    with pytest.raises(BadDataset, match="no column 'seller'; it has caption, vendor"):
        index.where(["seller=b"])
    with pytest.raises(BadDataset, match="left by 'vendor=c'; vendor is one of a, b"):
        index.where(["vendor=c"])


def test_packed_texts_follow_their_images_when_some_are_selected(tmp_path):
    rows = [{"path": f"{n}.png", "caption": "x " * (n + 1)} for n in range(3)]
    index = build_index(manifest(tmp_path, rows))
    index = attach_captions(index, read_captions(index), train_tokenizer(["x"], 300), 16).index
    packing = PackingConfig(patch_size=4, max_tokens=100, resolution=Native())
    plan = make_plan(ItemSizes(index.heights, index.widths), packing, seed=0, epoch=0)
    batch = next(
        load_epoch(index, plan, Preprocessing(patch_size=4), LoaderConfig(workers=0))
    ).batch
    selected = batch.select([2, 0])
    pieces = batch.texts.tokens.split(batch.texts.lengths)
    assert torch.equal(selected.texts.tokens, torch.cat([pieces[2], pieces[0]]))
