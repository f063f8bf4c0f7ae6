"""Outputs of `eval`, `compare`, `embed`, `search` and `predict`: whole, new, and printed first."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import patchpack.writing as writing
from conftest import write_folder
from patchpack.inference.output_files import write_picture
from patchpack.run import start
from patchpack.writing import OutputExists, replace_file, write_new, write_text_atomic
from runs import tiny
from test_cli import patchpack

# Files


def full(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("write", [write_new, replace_file])
def test_a_full_disk_leaves_nothing_and_the_error_has_the_file(tmp_path, monkeypatch, write):
    monkeypatch.setattr(os, "fsync", full)
    path = tmp_path / "a.npz"
    with pytest.raises(OSError, match=f"^{path} could not be written: No space left on device$"):
        write(path, b"new")
    assert not list(tmp_path.iterdir())


def test_a_failing_writer_leaves_nothing(tmp_path):
    def fails(file: object) -> None:
        file.write(b"half")  # pyrefly: ignore
        raise ValueError("no such picture")

    with pytest.raises(ValueError, match="no such picture"):
        write_new(tmp_path / "a.png", fails)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["file", "link", "dangling link", "folder", "pipe"])
def test_a_new_output_replaces_nothing(tmp_path, kind):
    path, secret = tmp_path / "out.npz", tmp_path / "secret"
    secret.write_text("precious")
    make: dict[str, Callable[[], object]] = {
        "file": lambda: path.write_text("mine"),
        "link": lambda: path.symlink_to(secret),
        "dangling link": lambda: path.symlink_to(tmp_path / "nowhere"),
        "folder": path.mkdir,
        "pipe": lambda: os.mkfifo(path),
    }
    make[kind]()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(OutputExists, match="exists, and is not overwritten"):
        write_new(path, b"new")
    if kind != "file":
        with pytest.raises(OutputExists, match="is no regular file"):
            replace_file(path, b"new")
    assert sorted(tmp_path.iterdir()) == before and secret.read_text() == "precious"


def test_a_file_made_meanwhile_is_not_replaced(tmp_path):
    path = tmp_path / "out.npz"
    with pytest.raises(OutputExists):
        write_new(path, lambda file: path.write_text("mine"))
    assert path.read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


def test_without_hard_links_a_new_file_is_renamed(tmp_path, monkeypatch):
    def refuses(*paths: object, **options: object) -> None:
        raise OSError(errno.EPERM, "not supported")

    monkeypatch.setattr(os, "link", refuses)
    write_new(tmp_path / "out.npz", b"new")
    assert (tmp_path / "out.npz").read_bytes() == b"new" and len(list(tmp_path.iterdir())) == 1


def test_a_temporary_file_that_exists_is_never_opened(tmp_path, monkeypatch):
    secret = tmp_path / "secret"
    secret.write_text("precious")
    monkeypatch.setattr(writing.secrets, "token_hex", lambda size: "guessed")
    (tmp_path / ".tmp-guessed").symlink_to(secret)
    with pytest.raises(OSError, match="File exists"):
        write_text_atomic(tmp_path / "out.json", "new")
    assert secret.read_text() == "precious"


def test_a_picture_has_the_format_of_its_name(tmp_path):
    for suffix, kind in {".png": "PNG", ".JPG": "JPEG", ".webp": "WEBP"}.items():
        write_picture(tmp_path / f"a{suffix}", Image.new("RGB", (4, 4)))
        with Image.open(tmp_path / f"a{suffix}") as image:
            assert image.format == kind


# Commands


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    sizes = {"train": 8, "val": 4, "test": 4}
    return write_folder(tmp_path_factory.mktemp("data") / "images", sizes)


@pytest.fixture(scope="module")
def run(root, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    start(tiny(root, out, steps=4, eval_every=4, ema=0.0), live=False)
    return out


@pytest.fixture
def read_only(run, tmp_path, monkeypatch) -> Path:
    """A copy of the run in which no file can be made; tests may run as root, who may all."""
    copy = shutil.copytree(run, tmp_path / "read-only")
    real_open, real_mkdir = os.open, os.mkdir

    def check(path: object) -> None:
        if Path(os.fspath(path)).is_relative_to(copy):  # pyrefly: ignore
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))

    def open_(path, flags, *rest, **options):
        if flags & os.O_CREAT:
            check(path)
        return real_open(path, flags, *rest, **options)

    def mkdir(path, *rest, **options):
        check(path)
        real_mkdir(path, *rest, **options)

    monkeypatch.setattr(os, "open", open_)
    monkeypatch.setattr(os, "mkdir", mkdir)
    return copy


def test_a_read_only_run_is_evaluated(capsys, read_only):
    before = sorted(read_only.rglob("*"))
    status, out, err = patchpack(capsys, "eval", read_only)
    assert status == 0 and "top-1" in out and err.count("\n") == 1
    assert "not kept" in err and "eval-test.json" in err
    words = ("eval", read_only, "--max-ms", 1e6, "--budgets", 4, 8, "--json")
    status, out, err = patchpack(capsys, *words)
    assert status == 0 and json.loads(out)["cost"]
    assert "outputs are not kept" in err and "operating_point.json" in err
    assert err.count("12 images at 4 tokens\n") == 2, "once for val, once for test"
    assert sorted(read_only.rglob("*")) == before


def test_outputs_of_a_read_only_run_are_kept_beside_the_results(capsys, read_only, run, tmp_path):
    out = tmp_path / "results"
    words = ("--suite", "calibration", "--budgets", 4, "--out")
    status, _, err = patchpack(capsys, "eval", read_only, *words, out)
    assert status == 0 and "not kept" not in err
    assert (out / "report-test.html").exists() and len(list((out / "outputs").iterdir())) == 1
    status, _, err = patchpack(capsys, "compare", read_only, run, *words, tmp_path / "compared")
    assert status == 0 and "not kept" not in err
    assert (tmp_path / "compared" / "compare.html").exists()


def test_results_in_a_folder_of_the_user_are_never_replaced(capsys, run, tmp_path):
    out, report = tmp_path / "out", ("--suite", "calibration", "--budgets", 4)
    for words, file in ((("eval", run), "eval-test.json"),
                        (("eval", run, *report), "report-test.html"),
                        (("compare", run, shutil.copytree(run, tmp_path / "b"), *report),
                         "compare.html")):  # fmt: skip
        assert patchpack(capsys, *words, "--out", out)[0] == 0
        written = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
        assert out / file in written
        status, _, err = patchpack(capsys, *words, "--out", out)
        assert status == 2 and "is not overwritten: name another output" in err
        assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == written
    assert patchpack(capsys, "eval", run)[0] == patchpack(capsys, "eval", run)[0] == 0


@pytest.mark.parametrize("words", [
    ("eval", "{run}", "--out", "{root}/results"),
    ("eval", "{run}", "--suite", "cost", "--out", "{root}"),
    ("compare", "{run}", "{other}", "--out", "{root}/results"),
    ("inspect", "{root}", "--picture", "{root}/pack.png"),
])  # fmt: skip
def test_pictures_do_not_become_images_of_the_data(capsys, run, root, tmp_path, words):
    shutil.copytree(run, tmp_path / "other")
    names = {"run": run, "root": root, "other": tmp_path / "other"}
    before = sorted(root.rglob("*"))
    status, out, err = patchpack(capsys, *(word.format(**names) for word in words))
    assert status == 2 and not out and f"is inside {root}" in err
    assert sorted(root.rglob("*")) == before


def test_a_link_in_a_run_folder_is_not_followed(capsys, run, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("precious")
    copy = shutil.copytree(run, tmp_path / "run")
    for name in ("eval-test.json", "confusion-test.png"):
        (copy / name).unlink(missing_ok=True)
        (copy / name).symlink_to(secret)
    status, out, err = patchpack(capsys, "eval", copy)
    assert status == 0 and "top-1" in out and "is not replaced" in err
    assert secret.read_text() == "precious"


def test_a_damaged_output_of_the_cache_is_computed_again(capsys, run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    words = ("eval", copy, "--suite", "calibration", "--budgets", 4, "--json")
    first = patchpack(capsys, *words)[1]
    (path,) = (copy / "outputs").iterdir()
    with np.load(path) as saved:
        arrays = dict(saved)
    nan = np.full_like(arrays["logits"], np.nan)
    for change in ({"logits": nan}, {"logits": arrays["logits"][:-1]}, {"keys": np.arange(12)},
                   {"labels": arrays["labels"].astype(float)}, {"cost": np.zeros(3)}):  # fmt: skip
        np.savez(path, **(arrays | change))
        status, out, err = patchpack(capsys, *words)
        assert status == 0 and "images at 4 tokens" in err
        assert json.loads(out)["calibration"] == json.loads(first)["calibration"]


def test_embed_to_a_full_disk_names_the_file(capsys, run, root, tmp_path, monkeypatch):
    target = tmp_path / "vectors.npz"
    monkeypatch.setattr(os, "fsync", full)
    status, _, err = patchpack(capsys, "embed", run, root / "test", "-o", target)
    assert status == 2 and err == (
        f"patchpack: {target} could not be written: No space left on device\n"
    )
    assert not list(tmp_path.iterdir())


WRONG = {
    "no label map": (["--suite", "cost", "--label-map", "nope.json"], "nope.json cannot be read"),
    "a deep label map": (["--suite", "cost", "--label-map", "{deep}"], "nested too deeply"),
    "a nested label map": (["--suite", "cost", "--label-map", "{nested}"], "'a' is mapped to no"),
    "a folder": (["--suite", "cost", "--label-map", "{tmp}"], "it is a folder"),
    "accuracy above 1": (["--min-accuracy", "7"], "--min-accuracy must lie in [0, 1], not 7"),
    "NaN ms": (["--max-ms", "nan"], "--max-ms must be more than 0, not nan"),
    "negative GFLOP": (["--max-gflops", "-1"], "--max-gflops must be more than 0, not -1"),
    "too large a budget": (["--budgets", str(10**20)], "budgets must be at most"),
    "no fraction": (["--max-bad-fraction", "nan"], "max_bad_fraction must lie in [0, 1]"),
}


@pytest.mark.parametrize(("words", "message"), WRONG.values(), ids=WRONG)
def test_wrong_options_are_refused_before_the_work(capsys, run, tmp_path, words, message):
    files = {"deep": '{"a": ' + "[" * 100_000, "nested": '{"a": {"b": "c"}}'}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    paths = {name: tmp_path / name for name in files} | {"tmp": tmp_path}
    status, out, err = patchpack(capsys, "eval", run, *(word.format(**paths) for word in words))
    assert status == 2 and message in err and err.count("\n") == 1 and not out
    assert "images at" not in err
