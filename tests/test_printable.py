"""Names with escapes, newlines, bidirectional controls or markup: shown, never obeyed."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import write_folder
from patchpack.data.images import BadImage
from patchpack.printable import message_of, printable
from patchpack.run import start
from patchpack.terminal import Terminal
from patchpack.visualize.contact_sheet import Hit, draw_hits
from patchpack.visualize.html import page, paragraph, table
from patchpack.visualize.section import Section, Table
from runs import tiny
from test_cli import patchpack

HOSTILE = "a\x1b[31m\r\n\u202eFAKE: [red]cat[/] :cat: <b>100%</b>|\u2028\x07"
ACTS = re.compile(
    r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]"
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31m", "a\\x1b[31m"),
        ("a\nb\r\tc", "a\\nb\\r\\tc"),
        ("\u202egpj.exe", "\\u202egpj.exe"),
        ("\udcff.png", "\\udcff.png"),
        ("é 漢字 🐈 e\u0301 a\u3000b", "é 漢字 🐈 e\u0301 a\u3000b"),
        ("C:\\new [red]", "C:\\new [red]"),
        (Path("a\x07"), "a\\x07"),
    ],
)
def test_what_acts_on_a_terminal_is_escaped(text, shown):
    assert printable(text) == shown == printable(shown)


def test_errors_are_one_line_with_their_file(tmp_path):
    assert str(BadImage("a\nb", "is\x1b[2J damaged")) == "a\\nb: is\\x1b[2J damaged"
    with pytest.raises(OSError) as caught:
        (tmp_path / "a\nb").read_text()
    assert message_of(caught.value) == f"{tmp_path}/a\\nb: No such file or directory"


def test_a_terminal_shows_names_as_they_are(capsys):
    Terminal().print(HOSTILE, soft_wrap=True)
    out = capsys.readouterr().out
    assert out == printable(HOSTILE) + "\n" and "[red]cat[/] :cat:" in out


def test_reports_show_names_as_they_are():
    section = Section(name="x", title=HOSTILE, text=[HOSTILE],
                      tables=[Table([HOSTILE, "b"], [[HOSTILE, "1"]])])  # fmt: skip
    html = page(HOSTILE, HOSTILE, [(HOSTILE, section.html())])
    for text in (html, paragraph(HOSTILE), table([HOSTILE], [[HOSTILE]])):
        assert "<b>" not in text and not ACTS.search(text)
    lines = section.markdown("x").splitlines()
    assert not any(ACTS.search(line) or re.search(r"(?<!\\)<b>", line) for line in lines)
    rows = [line for line in lines if line.startswith("| ")]
    assert [len(re.findall(r"(?<!\\)\|", row)) for row in rows] == [3, 3]


def test_pictures_show_names_as_they_are():
    hit = Hit(np.zeros((8, 8, 3), np.uint8), f"{HOSTILE}\udcff")
    assert draw_hits([(f"{HOSTILE}\udcff", [hit])]).width > 8
    figures = pytest.importorskip("patchpack.visualize.figures")
    for name in ("$\\frac$", "a$b", HOSTILE, "漢\udcff"):
        assert figures.draw_confusion(np.eye(2, dtype=int), [name, "x"])[:4] == b"\x89PNG"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run whose classes and files have such names."""
    root = write_folder(tmp_path_factory.mktemp("data") / "images", {"train": 6, "val": 4})
    for split in ("train", "val"):
        name = HOSTILE.replace("/", "")
        (root / split / "plain").rename(root / split / name)
        image = next((root / split / name).iterdir())
        image.rename(image.with_name(f"{name}.png"))
    out = tmp_path_factory.mktemp("runs") / "run\x1b[2J"
    start(tiny(root, out, steps=4, eval_every=4, ema=0.0), live=False)
    return out


def test_every_verb_shows_names_as_they_are(capsys, run, tmp_path):
    root = Path(json.loads((run / "config.json").read_text())["data"]["root"])
    folder = next(path for path in (root / "val").iterdir() if path.name.startswith("a\x1b"))
    bad = tmp_path / "b\x1b]0;owned\x07\n.png"
    bad.write_bytes(b"no image")
    commands = (
        ("predict", run, folder, bad),
        ("inspect", root, "--patch-size", 4),
        ("inspect", tmp_path / "no\x1b[31m\nsuch"),
        ("eval", run, "--split", "val"),
        ("eval", run, "--split", "val", "--suite", "calibration", "--budgets", 4),
        ("embed", run, folder, bad, "-o", tmp_path / "v\x1b[31m.npz"),
        ("predict", run, tmp_path / "absent\x1b[31m\n.png"),
        ("eval", tmp_path / "absent\x1b[31m\n"),
        ("nonsense\x1b[31m\n",),
        ("eval", run, "--nonsense\x1b[31m"),
        ("train", tmp_path / "absent\x1b[31m\n"),
        ("train", "--resume", run),
    )
    for words in commands:
        _, out, err = patchpack(capsys, *words)
        assert not ACTS.search(out.replace("\n", "")) and not ACTS.search(err), words
        assert not re.search(r"^FAKE", out + err, re.MULTILINE), words
        assert "\\x1b" in out + err or words[0] == "inspect", words


def test_json_stays_exact(capsys, run):
    root = Path(json.loads((run / "config.json").read_text())["data"]["root"])
    folder = next(path for path in (root / "val").iterdir() if path.name.startswith("a\x1b"))
    _, out, _ = patchpack(capsys, "predict", run, folder, "--json")
    records = [json.loads(line) for line in out.splitlines()]
    assert {record["image"] for record in records} == set(map(str, folder.iterdir()))
    names = {label["label"] for record in records for label in record["labels"]}
    assert folder.name in names
    with Image.open(records[0]["image"]) as image:
        assert image.width
