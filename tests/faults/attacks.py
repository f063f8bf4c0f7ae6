"""What users, schedulers and machines do to runs and outputs: one function per attack.

Each returns its verdict, or raises AssertionError where the answer is wrong in silence.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from faults.commands import Result, TimedOut, environment, run, start
from faults.reference import (
    OPTIONS,
    cache_of,
    command,
    copy_run,
    same_tensors,
    step_of,
)
from faults.verdicts import Outcome, Verdict, of_command

Attack = Callable[[Path, Path], tuple[Verdict, str]]  # (folder, reference) → verdict


def check_attack(number: int, folder: Path, reference: Path) -> Outcome:
    attack = ATTACKS[number]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    name = attack.__name__.replace("_", " ")
    try:
        return Outcome(name, *attack(folder, reference))
    except TimedOut as error:
        return Outcome(name, Verdict.HANG, str(error))
    except AssertionError as error:
        return Outcome(name, Verdict.SILENT, str(error))


def two_runs_with_one_out(folder: Path, reference: Path) -> tuple[Verdict, str]:
    """Two starts at once, as by a queue that starts a job twice: one is refused."""
    out = folder / "run"
    words = ["train", reference / "data", *OPTIONS, "--out", out]
    both = [start(words, folder / name, env=cache_of(folder)) for name in ("first", "second")]
    results = sorted((running.wait(60) for running in both), key=lambda result: result.status)
    assert results[1].status != 0, "both runs train into one folder"
    assert results[0].status == 0, f"the runs end each other: {results[0].err[-300:]}"
    assert same_tensors(out, reference / "runs/whole"), "other weights"
    return of_command(results[1].status, results[1].err, (str(out),))


def resume_beside_its_run(folder: Path, reference: Path) -> tuple[Verdict, str]:
    out = folder / "run"
    words = ["train", reference / "data", *OPTIONS, "--out", out, "--train.steps", "60"]
    first = start(words, folder / "first", env=cache_of(folder))
    _until(lambda: step_of(out) > 0)
    second = run(["train", "--resume", out], folder / "second", env=cache_of(folder))
    assert second.status != 0, "a run is resumed while it runs"
    assert first.wait(60).status == 0, "the second run ends the first"
    return of_command(second.status, second.err, (str(out),))


def out_inside_the_data(folder: Path, reference: Path) -> tuple[Verdict, str]:
    data = shutil.copytree(reference / "data", folder / "data")
    words = ["train", data, *OPTIONS, "--out", data / "run"]
    result = command(words, folder)
    if result.status == 0:
        before, after = _inspected(reference / "data", folder), _inspected(data, folder)
        assert before == after, "the pictures of the run are images of the data"
        result = command(["train", "--resume", data / "run"], folder)
    return of_command(result.status, result.err, (str(data),))


def images_of_the_same_size_and_time_replaced(folder: Path, reference: Path):
    data = shutil.copytree(reference / "data", folder / "data")
    out = _half_run(data, folder)
    for path in data.rglob("*.png"):
        times = path.stat()
        with Image.open(path) as image:
            size = image.size
        Image.new("RGB", size, (255, 0, 0)).save(path)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    return _noticed(out, folder, str(data))


def images_removed_before_resume(folder: Path, reference: Path) -> tuple[Verdict, str]:
    data = shutil.copytree(reference / "data", folder / "data")
    out = _half_run(data, folder)
    next(data.glob("train/across/*.png")).unlink()
    return _noticed(out, folder, str(data))


def validation_images_changed_before_resume(folder: Path, reference: Path):
    data = shutil.copytree(reference / "data", folder / "data")
    out = _half_run(data, folder)
    for path in data.glob("val/*/*.png"):
        with Image.open(path) as image:
            turned = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
        turned.save(path)
    return _noticed(out, folder, str(data))


def labels_swapped_before_resume(folder: Path, reference: Path) -> tuple[Verdict, str]:
    data = shutil.copytree(reference / "data", folder / "data")
    out = _half_run(data, folder)
    for name, other in (("across", "x"), ("along", "across"), ("x", "along")):
        (data / "train" / name).rename(data / "train" / other)
    return _noticed(out, folder, str(data))


def train_over_files_of_others(folder: Path, reference: Path) -> tuple[Verdict, str]:
    out = folder / "run"
    out.mkdir()
    for name in ("config.json", "log.jsonl", "curves.png"):
        (out / name).write_text("precious")
    result = command(["train", reference / "data", *OPTIONS, "--out", out], folder)
    lost = [p.name for p in out.glob("*.*") if p.is_file() and p.read_text("latin1") != "precious"]
    assert not lost, f"{lost} are overwritten"
    return of_command(result.status, result.err, (str(out),))


def a_picture_over_an_image(folder: Path, reference: Path) -> tuple[Verdict, str]:
    picture = folder / "a.png"
    shutil.copy(next(reference.glob("data/test/*/*.png")), picture)
    before = picture.read_bytes()
    result = command(["inspect", reference / "data", "--picture", picture], folder)
    assert picture.read_bytes() == before, "the image is overwritten"
    return of_command(result.status, result.err, (picture.name,))


def embed_through_a_link(folder: Path, reference: Path) -> tuple[Verdict, str]:
    secret = folder / "secret"
    secret.write_text("precious")
    (folder / ".tmp-v.npz").symlink_to(secret)
    words = ["embed", reference / "runs/half", reference / "data/test", "-o", folder / "v.npz"]
    result = command(words, folder)
    assert secret.read_bytes() == b"precious", "a link is followed, and its file overwritten"
    return of_command(result.status, result.err, ())


def embed_over_a_file(folder: Path, reference: Path) -> tuple[Verdict, str]:
    (folder / "v.npz").write_text("precious")
    words = ["embed", reference / "runs/half", reference / "data/test", "-o", folder / "v.npz"]
    result = command(words, folder)
    assert (folder / "v.npz").read_bytes() == b"precious", "the file is overwritten"
    return of_command(result.status, result.err, ("v.npz",))


def a_second_report_over_the_first(folder: Path, reference: Path) -> tuple[Verdict, str]:
    run_folder, report = copy_run(reference, "half", folder), folder / "report"
    words = ["eval", run_folder, "--suite", "calibration", "--out", report]
    first = command(words, folder)
    assert first.status == 0, first.err
    files = [path for path in report.rglob("*") if path.suffix in (".html", ".json")]
    for path in files:
        path.write_text("precious")
    second = command(words, folder)
    lost = [path.name for path in files if path.read_text() != "precious"]
    assert not (lost and second.status == 0 and not second.err.count("replace")), f"{lost} are lost"
    return of_command(second.status, second.err, (str(report),))


def a_new_run_over_finished_weights(folder: Path, reference: Path) -> tuple[Verdict, str]:
    out = copy_run(reference, "whole", folder)
    for path in out.glob("checkpoints/last-*"):
        shutil.rmtree(path)
    (best,) = out.glob("checkpoints/best-*")
    before = (best / "model.safetensors").read_bytes()
    words = ["train", reference / "data", *OPTIONS, "--out", out, "--train.seed", "1"]
    result = command(words, folder)
    kept = best.is_dir() and (best / "model.safetensors").read_bytes() == before
    assert kept, "the trained weights are gone"
    return of_command(result.status, result.err, (str(out),))


def escapes_in_predict(folder: Path, reference: Path) -> tuple[Verdict, str]:
    images = _hostile_names(folder, reference)
    return _no_escapes(command(["predict", reference / "runs/half", images], folder))


def escapes_in_predict_json(folder: Path, reference: Path) -> tuple[Verdict, str]:
    images = _hostile_names(folder, reference)
    return _no_escapes(command(["predict", reference / "runs/half", images, "--json"], folder))


def escapes_in_inspect(folder: Path, reference: Path) -> tuple[Verdict, str]:
    return _no_escapes(command(["inspect", _hostile_names(folder, reference)], folder))


def escapes_in_class_names(folder: Path, reference: Path) -> tuple[Verdict, str]:
    data = shutil.copytree(reference / "data", folder / "data")
    for split in ("train", "val", "test"):
        (data / split / "across").rename(data / split / "a\x1b[31m[bold]\n")
    out = folder / "run"
    trained = command(["train", data, *OPTIONS, "--out", out], folder)
    verdict = _no_escapes(trained)
    if trained.status or verdict[0] != Verdict.RIGHT:
        return verdict
    for words in (["predict", out, data / "test"], ["inspect", data], ["eval", out]):
        verdict = _no_escapes(command(words, folder))
        if verdict[0] != Verdict.RIGHT:
            return verdict
    return verdict


def escapes_in_errors(folder: Path, reference: Path) -> tuple[Verdict, str]:
    name = folder / "gone\x1b[2J\n\x07.csv"
    return _no_escapes(command(["inspect", name], folder))


def escapes_in_a_manifest(folder: Path, reference: Path) -> tuple[Verdict, str]:
    table = folder / "t.csv"
    table.write_text('path,label\n"a\x1b[31m\n.png",x\n')
    return _no_escapes(command(["inspect", table], folder))


def too_many_open_files(folder: Path, reference: Path) -> tuple[Verdict, str]:
    """Training that cannot open files stops; it does not go on without its images."""
    out = folder / "run"
    words = ["train", reference / "data", *OPTIONS, "--out", out, "--data.max-bad-fraction", "0.9"]
    result = run(words, folder, env=cache_of(folder), limits={"RLIMIT_NOFILE": 9})
    if result.status == 0:
        assert same_tensors(out, reference / "runs/whole"), "trained without images"
    return of_command(result.status, result.err, ())


def little_memory(folder: Path, reference: Path) -> tuple[Verdict, str]:
    """A whole image that does not fit in memory is not damaged."""
    path = folder / "large.png"
    Image.new("RGB", (9000, 9000)).save(path, compress_level=1)
    limits = {"RLIMIT_DATA": 700 << 20}
    words = ["embed", reference / "runs/half", path, "-o", folder / "v.npz"]
    result = run(words, folder, env=cache_of(folder), limits=limits)
    assert "damaged" not in result.err, f"memory is called damage: {result.err}"
    return of_command(result.status, result.err, ())


def times_of_the_far_future(folder: Path, reference: Path) -> tuple[Verdict, str]:
    data = shutil.copytree(reference / "data", folder / "data")
    for number, path in enumerate(sorted(data.rglob("*.png"))[:4]):
        os.utime(path, (0, (10_413_792_000, 253_402_300_799, -2, 2**33)[number]))
    result = command(["inspect", data, "--json"], folder)
    return of_command(result.status, result.err, (str(data),))


def output_into_a_closed_pipe(folder: Path, reference: Path) -> tuple[Verdict, str]:
    """`train | head -1`: the run goes on, or stops in one line."""
    out = folder / "run"
    words = [sys.executable, "-m", "patchpack", "train", reference / "data", *OPTIONS, "--out", out]
    line = f"{' '.join(map(str, words))} 2>&1 | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", line], env=environment() | cache_of(folder), capture_output=True, text=True,
        timeout=90, check=False,
    )  # fmt: skip
    if done.returncode == 0:
        assert same_tensors(out, reference / "runs/whole"), "another run"
    elif step_of(out):
        resumed = command(["train", "--resume", out], folder)
        assert resumed.status == 0 and same_tensors(out, reference / "runs/whole"), resumed.err
    else:
        return Verdict.UNCLEAR, f"status {done.returncode}, and no checkpoint is saved"
    return Verdict.RIGHT, ""


def a_file_of_the_finder_in_a_checkpoint(folder: Path, reference: Path) -> tuple[Verdict, str]:
    out = copy_run(reference, "half", folder)
    for path in out.glob("checkpoints/*"):
        (path / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    result = command(["train", "--resume", out], folder)
    verdict = of_command(result.status, result.err, (".DS_Store",))
    if verdict[0] == Verdict.RIGHT:
        assert same_tensors(out, reference / "runs/whole"), "other weights"
    return verdict


def seeds_at_the_ends(folder: Path, reference: Path) -> tuple[Verdict, str]:
    verdict = Verdict.RIGHT, ""
    for seed in ("-1", "9223372036854775807", "9223372036854775808", "1e9"):
        out = folder / f"run{seed}"
        words = ["train", reference / "data", *OPTIONS, "--out", out, "--train.seed", seed]
        result = command(words, folder)
        if "Traceback" in result.err:
            return Verdict.TRACEBACK, f"seed {seed}: {result.err[-300:]}"
        verdict = verdict if result.status == 0 else (Verdict.REFUSED, result.err[-300:])
    return verdict


def moved_data_named_on_resume(folder: Path, reference: Path) -> tuple[Verdict, str]:
    data = shutil.copytree(reference / "data", folder / "data")
    out = _half_run(data, folder)
    moved = folder / "moved"
    data.rename(moved)
    refused = command(["train", "--resume", out], folder)
    if refused.status == 0:
        return Verdict.SILENT, "resumes without its data"
    result = command(["train", "--resume", out, "--data.root", moved], folder)
    if result.status == 0:
        assert same_tensors(out, reference / "runs/whole"), "other weights"
    return of_command(result.status, result.err, (str(data), str(out)))


def hostile_images_in_one_folder(folder: Path, reference: Path) -> tuple[Verdict, str]:
    """Two hundred hostile files in one `predict`: each is right, or named in one line."""
    from faults.images import hostile_image

    images = folder / "images"
    images.mkdir()
    for seed in range(200):
        (images / f"{seed:03d}.png").write_bytes(hostile_image(50_000 + seed).data)
    result = command(["predict", reference / "runs/half", images, "--json"], folder)
    verdict, detail = of_command(result.status, result.err, ())
    named = sum(line.startswith(f"patchpack: {images}") for line in result.err.splitlines())
    assert len(result.out.splitlines()) + named == 200, "images are neither predicted nor named"
    return (Verdict.RIGHT if verdict == Verdict.REFUSED else verdict), detail[:200]


def a_hostile_image_for_each_loader(folder: Path, reference: Path) -> tuple[Verdict, str]:
    """One damaged image of the training split: every kind of loader leaves it out and goes on."""
    data = shutil.copytree(reference / "data", folder / "data")
    path = sorted(data.glob("train/*/*.png"))[5]
    path.write_bytes(path.read_bytes()[:-40])
    common = ["train", data, *OPTIONS, "--data.max-bad-fraction", "0.2"]
    loaders = (["0"], ["2"], ["2", "--data.loader.worker-type", "processes"])
    for number, loader in enumerate(loaders):
        out = folder / f"run{number}"
        result = command([*common, "--data.loader.workers", *loader, "--out", out], folder, 90)
        if result.status:
            return of_command(result.status, result.err, (path.name,))
        assert path.name in (out / "log.jsonl").read_text(), "the image is not named"
        assert same_tensors(out, folder / "run0"), "loaders differ"
    return Verdict.RIGHT, ""


ATTACKS: tuple[Attack, ...] = (
    two_runs_with_one_out, resume_beside_its_run, out_inside_the_data,
    images_of_the_same_size_and_time_replaced, images_removed_before_resume,
    validation_images_changed_before_resume, labels_swapped_before_resume,
    train_over_files_of_others, a_picture_over_an_image, embed_through_a_link, embed_over_a_file,
    a_second_report_over_the_first, a_new_run_over_finished_weights, escapes_in_predict,
    escapes_in_predict_json, escapes_in_inspect, escapes_in_class_names, escapes_in_errors,
    escapes_in_a_manifest, too_many_open_files, little_memory, times_of_the_far_future,
    output_into_a_closed_pipe, a_file_of_the_finder_in_a_checkpoint, seeds_at_the_ends,
    moved_data_named_on_resume, hostile_images_in_one_folder, a_hostile_image_for_each_loader,
)  # fmt: skip


def _half_run(data: Path, folder: Path) -> Path:
    """A run on this data that is killed half-way."""
    out = folder / "run"
    words = ["train", data, *OPTIONS, "--out", out]
    running = start(words, folder / "half", env=cache_of(folder))
    _until(lambda: step_of(out) >= 4)
    os.kill(running.pid, signal.SIGKILL)
    running.wait(60)
    return out


def _noticed(out: Path, folder: Path, name: str) -> tuple[Verdict, str]:
    """The verdict on a resume with changed data: to go on is wrong in silence."""
    result = command(["train", "--resume", out], folder)
    assert result.status != 0, "goes on with other data"
    return of_command(result.status, result.err, (name, str(out)))


def _hostile_names(folder: Path, reference: Path) -> Path:
    """A folder of two images and a damaged one whose names have escapes and markup."""
    images = folder / "images"
    images.mkdir()
    good = next(reference.glob("data/test/*/*.png"))
    for name in ("a\x1b[31m\nFAKE: cat 100%.png", "[bold]b[red] \x9b2J.png"):
        shutil.copy(good, images / name)
    (images / "c\x1b]0;owned\x07.jpg").write_text("no image")
    return images


def _no_escapes(result: Result) -> tuple[Verdict, str]:
    """The verdict on an output that a terminal shows."""
    raw = [c for c in result.out + result.err if not c.isprintable() and c not in "\n\t"]
    faked = any(line.startswith("FAKE") for line in result.out.splitlines())
    assert not raw and not faked, f"raw characters {raw[:5]} in the output"
    verdict, detail = of_command(result.status, result.err, ())
    return verdict, detail


def _inspected(data: Path, folder: Path) -> dict:
    return json.loads(command(["inspect", data, "--json"], folder).out)


def _until(condition: Callable[[], bool], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise TimedOut("the run makes no checkpoint")
        time.sleep(0.01)
