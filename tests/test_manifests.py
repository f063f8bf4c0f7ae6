"""Manifests as people and spreadsheets write them: one meaning is read, none or two are refused."""

import codecs
import json
import time
from pathlib import Path

import pytest
from PIL import Image

from patchpack.data.index import Index, build_index
from patchpack.data.records import BadDataset

NBSP, BOM = "\u00a0", "\ufeff"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("a.png", "b/c.png"):
        path = tmp_path / "d" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (3, 2)).save(path)
    return tmp_path / "d"


def read(folder: Path, content: str | bytes, name: str = "m.csv") -> Index:
    data = content if isinstance(content, bytes) else content.encode()
    (folder / name).write_bytes(data)
    return build_index(folder / name)


def table(index: Index) -> dict[str, tuple[str, str | None]]:
    labels = [index.classes[i] if i >= 0 else None for i in index.labels]
    return dict(zip(index.keys, zip(index.splits, labels, strict=True), strict=True))


PLAIN = "path,label,split\na.png,cat,train\nb/c.png,cat,val\n"
READ = {"a.png": ("train", "cat"), "b/c.png": ("val", "cat")}
CELLS = {
    "plain": PLAIN,
    "spaces around cells": "path , label,split \na.png , cat, train\n b/c.png,cat ,val \n",
    "non-breaking spaces": PLAIN.replace("cat", f"{NBSP}cat{NBSP}").replace("val", f"val{NBSP}"),
    "zero-width characters": PLAIN.replace("cat,", "cat\u200b,").replace("train", f"{BOM}train"),
    "names of splits": PLAIN.replace("train", "TRAINING").replace("val", "Valid"),
    "names of columns": PLAIN.replace("path,label,split", "Path,LABEL,Split"),
    "semicolons": PLAIN.replace(",", ";"),
    "tabs": PLAIN.replace(",", "\t"),
    "bars": PLAIN.replace(",", "|"),
    "quoted semicolons": PLAIN.replace(",", ";").replace("cat", '"cat"').replace("path", '"path"'),
    "a sep line": "sep=;\n" + PLAIN.replace(",", ";"),
    "a quoted sep line": '"sep=;"\r\n' + PLAIN.replace(",", ";"),
    "a sep line of a tab": "sep=\t\n" + PLAIN.replace(",", "\t"),
    "rows of commas": PLAIN.replace("\n", "\n,,\n") + ",,\n , ,\n\n",
    "blank rows first": "\n,,\n" + PLAIN,
    "commas at the end of each row": PLAIN.replace("\n", ",,\n"),
    "the index of pandas": ",path,label,split\n0,a.png,cat,train\n1,b/c.png,cat,val\n",
    "carriage returns": PLAIN.replace("\n", "\r"),
    "lines of DOS": PLAIN.replace("\n", "\r\n"),
    "quoted cells": '"path","label","split"\n"a.png","cat","train"\n"b/c.png","cat","val"\n',
    "a quoted line end": 'path,label,split,note\na.png,cat,train,"x\ny"\nb/c.png,cat,val,\n',
    "UTF-8 with a mark": BOM + PLAIN,
    "UTF-16": codecs.BOM_UTF16_LE + PLAIN.encode("utf-16-le"),
    "UTF-16, big-endian": codecs.BOM_UTF16_BE + PLAIN.encode("utf-16-be"),
    "UTF-32": PLAIN.encode("utf-32"),
    "backslashes": PLAIN.replace("b/c.png", "b\\c.png"),
    "dots": PLAIN.replace("a.png", "./b/../a.png").replace("b/c.png", ".\\b\\c.png"),
    "case of files": PLAIN.replace("a.png", "A.PNG").replace("b/c", "B/C"),
}


@pytest.mark.parametrize("name", CELLS)
def test_cells_that_have_one_meaning(folder: Path, name: str) -> None:
    assert table(read(folder, CELLS[name])) == READ


def test_a_class_in_brackets(folder: Path) -> None:
    assert table(read(folder, "path,label\na.png,[other]\n"))["a.png"][1] == "[other]"


def test_a_file_of_tabs(folder: Path) -> None:
    assert table(read(folder, PLAIN.replace(",", "\t"), "m.tsv")) == READ
    commas = PLAIN.replace(",", "\t").replace("cat", "cat,dog")
    assert table(read(folder, commas, "m.TSV"))["a.png"] == ("train", "cat,dog")
    assert table(read(folder, PLAIN, "commas.tsv")) == READ


ROWS = [{"path": "a.png", "label": "cat", "split": "train"},
        {"path": "b/c.png", "label": "cat", "split": "val"}]  # fmt: skip
LINES = "\n".join(map(json.dumps, ROWS))
JSON = {
    "plain": LINES,
    "spaces": LINES.replace('"cat"', '" cat "').replace('"val"', '"val\\u00a0"'),
    "names of keys": LINES.replace('"path"', '" Path "').replace('"label"', '"LABEL"'),
    "a mark and lines of DOS": BOM + LINES.replace("\n", "\r\n"),
    "a list": json.dumps(ROWS),
    "an indented list": json.dumps(ROWS, indent=2),
    "a list of one label": LINES.replace('"cat"', '["cat"]'),
    "UTF-16": LINES.encode("utf-16"),
}


@pytest.mark.parametrize("name", JSON)
def test_json_that_has_one_meaning(folder: Path, name: str) -> None:
    assert table(read(folder, JSON[name], "m.jsonl")) == READ


@pytest.mark.parametrize(
    ("value", "label"),
    [("3", "3"), ("1.0", "1"), ("2.5", "2.5"), ("true", "true"), ("null", None), ('""', None),
     ('" "', None), ("1e400", "refused"), ("[]", "refused"), ('["a", "b"]', "refused"),
     ('{"name": "a"}', "refused"), ("NaN", "refused"), ("-Infinity", "refused"),
     ('"nan"', "refused")],
)  # fmt: skip
def test_labels_of_json(folder: Path, value: str, label: str | None) -> None:
    content = f'{{"path": "b/c.png", "label": "x"}}\n{{"path": "a.png", "label": {value}}}'
    if label == "refused":
        with pytest.raises(BadDataset, match=r"m\.jsonl, line 2: "):
            read(folder, content, "m.jsonl")
    else:
        assert table(read(folder, content, "m.jsonl"))["a.png"][1] == label


REFUSED = {
    "m.csv": [
        ("path,label\na.png,nan\n", r"line 2: label is nan; leave the cell empty"),
        ("path,label,split\na.png,cat,NaN\n", r"line 2: split is NaN"),
        ("path,label\na.png,#N/A\n", r"line 2: label is #N/A"),
        ("path,label\na.png,\"['cat', 'dog']\"\n", r"line 2: label is \['cat', 'dog'\]; one label"),
        ("path,label,Label\na.png,cat,dog\n", r"line 1: two columns are named label"),
        ("path,x,x\na.png,1,2\n", r"line 1: two columns are named x"),
        ("a.png,cat\nb/c.png,cat\n", r"there is no `path`.*the first line must name the columns"),
        ("path,label\na.png,cat,dog\n", r"line 2: not as many cells.*\(3, not 2\)"),
        ('path,label\na.png,"cat\nb/c.png,cat\n', r"line 3: not CSV \(unexpected end of data\)"),
        ("path,label\nC:\\x\\a.png,cat\n", r"line 2: C:\\x\\a\.png is an absolute path of Windows"),
        ("path,label\n\\\\nas\\a.png,cat\n", r"line 2: .*absolute path of Windows"),
        ("path\nhttps://x.org/a.png\n", r"line 2: https://x\.org/a\.png is no file of this"),
        ("path\ns3://bucket/a.png\n", r"line 2: s3://bucket/a\.png is no file"),
        ("path,label\na.png,é\n".encode("latin-1"), r"line 2: is not UTF-8 .*byte 0xe9\); save"),
        ("path,label\r\ra.png,é\r".encode("cp1252"), r"line 3: is not UTF-8 text \(byte 0xe9\)"),
        ("path,label\na.png,cat\n".encode("utf-16-le"), r"line 1: holds NUL bytes, as UTF-16"),
        (codecs.BOM_UTF16_LE + b"p\0a", r"is not UTF-16 text, as its first bytes claim"),
    ],
    "m.jsonl": [
        ('{"path": "a.png", "split": 3}', r"line 1: split is 3; it must be text"),
        ('{"path": "a.png", "split": ["train"]}', r'line 1: split is \["train"\]'),
        ('{"path": ["a.png"]}', r'line 1: path is \["a\.png"\]; it must be text'),
        ('{"path": 3}', r"line 1: path is 3; it must be text"),
        ('{"path": "a.png", "group": [1]}', r"line 1: group is \[1\]; it must be one text"),
        ('{"path": "a.png", "label": "x", "label": "y"}', r"line 1: .*key 'label' is there twice"),
        ('{"path": "a.png", "label": "x", "Label": "y"}', r"line 1: two columns are named label"),
        ('{"path": "a.png", "weight": NaN}', r"line 1: not JSON \(NaN is no value; write null"),
        ('[{"path": "a.png"}, {"path": "b/c.png", "split": 3}]', r"item 2: split is 3"),
        ('[{"path": "a.png"}, 3]', r"line 1: not a JSON object"),
        ('[{"path": "a.png"}', r"line 1: not JSON"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [(name, *case) for name, cases in REFUSED.items() for case in cases],
)
def test_cells_without_one_meaning(
    folder: Path, name: str, content: str | bytes, message: str
) -> None:
    with pytest.raises(BadDataset, match=message) as error:
        read(folder, content, name)
    assert str(folder / name) in str(error.value)


def test_paths_of_other_kinds(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    index = read(folder, f"path\nfile://{folder}/b/%63.png\n~/a.png\n")
    assert sorted(index.path(row).resolve() for row in range(2)) == [
        (folder / "a.png").resolve(), (folder / "b" / "c.png").resolve()
    ]  # fmt: skip


def test_a_file_is_taken_as_typed_where_it_exists(folder: Path) -> None:
    for name in (" a.png", "b\\c.png", "A.png", "C:\\x.png"):
        Image.new("RGB", (7, 7)).save(folder / name)
    content = "path\n a.png\na.png\nb\\c.png\nb/c.png\nA.png\nC:\\x.png\n"
    index = read(folder, content)
    assert set(index.keys) == {" a.png", "a.png", "b\\c.png", "b/c.png", "A.png", "C:\\x.png"}


def test_accents_in_two_forms(folder: Path) -> None:
    Image.new("RGB", (7, 7)).save(folder / "e\u0301.png")
    assert read(folder, "path\n\u00e9.png\n").keys == ("e\u0301.png",)


def test_a_name_that_differs_in_case_from_two_files_is_neither(folder: Path) -> None:
    for name in ("Xx.png", "xX.png"):
        Image.new("RGB", (7, 7)).save(folder / name)
    index_rows = "path\na.png\nxx.png\n"
    (folder / "m.csv").write_text(index_rows)
    index = build_index(folder / "m.csv", max_bad_fraction=0.5)
    assert index.bad == (("xx.png", "there is no such file"),)


def test_one_file_by_two_spellings_is_listed_once(folder: Path) -> None:
    (folder / "m.csv").write_text("path\nb/c.png\nB\\C.png\n")
    index = build_index(folder / "m.csv", max_bad_fraction=0.5)
    assert index.bad == (("b/c.png (line 3)", "is on line 2 already"),)


def test_mask_cells_are_paths(folder: Path) -> None:
    index = read(folder, "path,Mask\na.png, b\\c.png \n")
    assert index.columns == {"mask": ("b/c.png",)}


def test_filters_do_not_depend_on_spaces(folder: Path) -> None:
    index = read(folder, "path, site \na.png, north \nb/c.png,south\n")
    assert index.where(["site = north"]).keys == ("a.png",)
    with pytest.raises(BadDataset, match="'site' is no filter: write column=value"):
        index.where(["site"])


def test_labels_that_may_be_typos_and_missing_ones_are_noted(folder: Path) -> None:
    for n in range(5):
        Image.new("RGB", (7, 7)).save(folder / f"{n}.png")
    index = read(folder, "path,label\n0.png,Cat\n1.png,cat\n2.png,cat \n3.png,\n4.png,dog\n")
    assert index.classes == ("Cat", "cat", "dog")
    assert index.notes == (
        "1 of 5 images have no label",
        "classes that differ only in case, spaces or the writing of a number: 'Cat' (1) and 'cat' "
        "(2); they are learned as different classes",
    )


def test_numbers_written_twice_and_several_classes_in_a_cell_are_noted(folder: Path) -> None:
    for n in range(5):
        Image.new("RGB", (7, 7)).save(folder / f"{n}.png")
    index = read(folder, "path;label\n0.png;1.0\n1.png;1\n2.png;0\n3.png;0|1\n4.png;a|b\n")
    assert index.notes == (
        "classes that differ only in case, spaces or the writing of a number: '1' (1) and '1.0' "
        "(1); they are learned as different classes",
        "classes whose names hold several classes: '0|1' (1); they are learned as different "
        "classes",
    )


@pytest.mark.parametrize("cell", ["None", "NULL", "null", "NA", "n/a", "<NA>", "NaT", "\\N"])
@pytest.mark.parametrize("column", ["label", "group", "split"])
def test_names_of_no_value_are_refused(folder: Path, cell: str, column: str) -> None:
    with pytest.raises(BadDataset, match=f"line 2: {column} is .*; leave the cell empty"):
        read(folder, f"path,{column}\na.png,{cell}\n")


def test_a_class_named_none(folder: Path) -> None:
    assert table(read(folder, "path,label\na.png,none\n"))["a.png"][1] == "none"


def test_large_manifests_are_read_in_seconds(folder: Path) -> None:
    from patchpack.data.records import IMAGES
    from patchpack.data.sources.manifest import read_manifest

    rows = "".join(f"b/{n}.png, cat ,{n % 7}\n" for n in range(20_000))
    (folder / "m.csv").write_text("path,label,group\n" + rows)
    start = time.process_time()
    assert len(read_manifest(folder / "m.csv", IMAGES)) == 20_000
    assert time.process_time() - start < 5
