"""What the commands print about the data: how they were split, what is passed over, what cannot be
read; and their exit status."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patchpack.cli import main

TINY = [
    "--model.dim", 16, "--model.depth", 1, "--model.num-heads", 2, "--model.mlp-dim", 16,
    "--model.patch-size", 8, "--data.max-tokens", 64, "--optim.warmup", 1, "--train.steps", 2,
    "--train.eval-every", 2, "--train.save-every", 2, "--data.max-bad-fraction", 0.3,
]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of 30 images, 3 of one group; one image cannot be read."""
    folder = tmp_path_factory.mktemp("commands") / "data"
    folder.mkdir()
    rows = ["path,label,group"]
    for n in range(60):
        Image.fromarray(np.full((16, 16, 3), 3 * n, np.uint8)).save(folder / f"{n}.png")
        rows.append(f"{n}.png,{'ab'[n // 3 % 2]},p{n // 3}")
    (folder / "m.csv").write_text("\n".join(rows))
    return folder


@pytest.fixture(scope="module", autouse=True)
def cache_home(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "r"
    main([str(word) for word in ["train", data / "m.csv", "--out", out, *TINY]])
    return out


def patchpack(capsys: pytest.CaptureFixture, *words: object) -> tuple[int, str, str]:
    capsys.readouterr()
    try:
        main([str(word) for word in words])
        status = 0
    except SystemExit as stop:
        status = int(stop.code or 0)
    out, err = capsys.readouterr()
    return status, out, err


SPLIT = "split: 48 train, 6 val, 6 test by hash of the file names; groups kept together (20 groups)"


def test_every_verb_prints_how_the_data_were_split(capsys, data, run, tmp_path) -> None:
    _, _, err = patchpack(capsys, "train", data / "m.csv", "--out", tmp_path / "r", *TINY)
    assert SPLIT in err
    status, out, _ = patchpack(capsys, "inspect", data / "m.csv")
    assert status == 0 and SPLIT in out
    status, out, _ = patchpack(capsys, "eval", run)
    assert status == 0 and SPLIT in out
    for words in (["inspect", data / "m.csv"], ["eval", run]):
        status, out, _ = patchpack(capsys, *words, "--json")
        record = json.loads(out)
        assert record["messages"] == [SPLIT] and record["passed_over"] == {}
        assert record["skipped_folders"] == record["empty_classes"] == {}


@pytest.fixture
def folder(data: Path, tmp_path: Path) -> Path:
    """Class folders with 5 .psd files, a thumbnail, and a damaged image in each of two splits."""
    root = tmp_path / "folder"
    for n in range(60):
        path = root / "train" / "ab"[n % 2] / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(data / f"{n}.png", path)
    shutil.copytree(root / "train", root / "test")
    (root / "train" / "a" / "@eaDir").mkdir()
    shutil.copy(data / "0.png", root / "train" / "a" / "@eaDir" / "thumb.png")
    for n in range(5):
        (root / "test" / "b" / f"{n}.PSD").write_bytes(b"x")
    for split in ("train", "test"):
        (root / split / "a" / "torn.png").write_bytes(b"x")
    return root


PASSED_OVER = "passed over: 5 .psd (convert"
SKIPPED = "not looked into: 1 folder @eaDir"


def test_inspect_names_what_is_passed_over_and_what_cannot_be_read(capsys, folder) -> None:
    status, out, _ = patchpack(capsys, "inspect", folder, "--max-bad-fraction", 0.5)
    assert status == 1 and PASSED_OVER in out and SKIPPED in out
    assert "unreadable: test/a/torn.png: is not an image" in out
    status, out, _ = patchpack(capsys, "inspect", folder, "--max-bad-fraction", 0.5, "--json")
    record = json.loads(out)
    assert status == 1 and record["passed_over"] == {".psd": 5}
    assert record["skipped_folders"] == {"folder @eaDir": 1}
    assert [line.split(":")[0] for line in record["unreadable"]] == [
        "test/a/torn.png", "train/a/torn.png"
    ]  # fmt: skip


def test_eval_names_what_is_passed_over_and_what_cannot_be_read(capsys, run, folder) -> None:
    words = ["eval", run, "--data", folder]
    status, out, _ = patchpack(capsys, *words)
    assert status == 1 and PASSED_OVER in out and SKIPPED in out
    assert "skipped: test/a/torn.png: is not an image" in out and "train/a/torn" not in out
    status, out, _ = patchpack(capsys, *words, "--json")
    record = json.loads(out)
    assert status == 1 and record["passed_over"] == {".psd": 5}
    assert "torn.png" in json.dumps(record) and "train/a/torn" not in json.dumps(record)
    # The share counts within the split: one of 61.
    status, _, err = patchpack(capsys, *words, "--max-bad-fraction", 0.01)
    assert status == 2 and "cannot be used (max_bad_fraction is 0.01)" in err


def test_a_suite_names_what_cannot_be_read(capsys, run, folder, tmp_path) -> None:
    pytest.importorskip("matplotlib")
    words = ["eval", run, "--data", folder, "--suite", "cost", "--budgets", 4]
    status, out, _ = patchpack(capsys, *words, "--out", tmp_path / "out")
    assert status == 1 and "test/a/torn.png" in out and PASSED_OVER in out
    status, out, _ = patchpack(capsys, *words, "--out", tmp_path / "json", "--json")
    assert status == 1 and json.loads(out)["unreadable"] == ["test/a/torn.png"]


def test_predict_and_embed_name_what_is_passed_over(capsys, run, folder, tmp_path) -> None:
    test = folder / "test"
    status, out, err = patchpack(capsys, "predict", run, test, test / "a" / "0.png", "--json")
    assert status == 1 and PASSED_OVER in err and "torn.png: is not an image" in err
    assert len(out.splitlines()) == 60  # each file once
    (test / "a" / "torn.png").unlink()
    status, _, err = patchpack(capsys, "embed", run, test, "-o", tmp_path / "v.npz")
    assert status == 0 and PASSED_OVER in err
    status, out, err = patchpack(capsys, "predict", run, test / "a" / "0.png", test / "a" / "0.png")
    assert status == 0 and len(out.splitlines()) == 1 and err == ""


def test_a_class_that_is_not_read_stops_training(capsys, folder, tmp_path) -> None:
    (folder / "train" / "c").mkdir()
    (folder / "train" / "c" / "1.psd").write_bytes(b"x")
    status, _, err = patchpack(capsys, "train", folder, "--out", tmp_path / "r", *TINY)
    assert status == 2 and "in the class folders train/c (1 files); convert" in err
    assert not (tmp_path / "r").exists() and len(err.splitlines()) == 1


@pytest.mark.parametrize("value", ["nan", "-0.1", "1.5", "inf"])
def test_a_share_is_a_share(capsys, data, run, value) -> None:
    for words in (["inspect", data / "m.csv"], ["eval", run]):
        status, _, err = patchpack(capsys, *words, f"--max-bad-fraction={value}")
        assert status == 2 and "max_bad_fraction must lie in [0, 1]" in err


def test_a_run_that_does_not_exist(capsys, data, tmp_path) -> None:
    status, _, err = patchpack(capsys, "predict", tmp_path / "nope", data / "1.png")
    assert status == 2 and "nope does not exist: name the folder of a run\n" in err
    status, _, err = patchpack(capsys, "predict", data / "1.png", data / "1.png")
    assert status == 2 and "1.png is not a folder: name the folder of a run" in err


def test_messages_are_one_line_each(capsys, tmp_path) -> None:
    root = tmp_path / "d"
    for label in ("cat", "dog"):
        (root / label).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(root / label / "1.png")
    (root / "cat" / "a.x\033[31m\ny").write_bytes(b"x")
    _, out, _ = patchpack(capsys, "inspect", root)
    assert "passed over: 1 .x\\x1b[31m\\ny" in out and "\033" not in out


def test_any_modification_time(capsys, tmp_path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "1.png")
    os.utime(tmp_path / "1.png", (10_413_792_000, 10_413_792_000))  # the year 2300
    assert patchpack(capsys, "inspect", tmp_path)[0] == 0
