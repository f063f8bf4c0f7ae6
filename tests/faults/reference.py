"""What damaged runs are compared with: data, a whole run, one stopped half-way, their outputs."""

import json
import os
import shutil
import signal
import time
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import torch

from conftest import write_folder
from faults.commands import Result, TimedOut, run, start
from faults.verdicts import Verdict, of_command
from patchpack.checkpoint import list_checkpoints
from patchpack.inference.operating_point import OperatingPoint, write_operating_point
from runs import final_tensors

STEPS = 12
HALF = 5  # steps after which the half run is stopped
OPTIONS = (
    "--model.dim 16 --model.depth 2 --model.num-heads 2 --model.mlp-dim 32 --model.patch-size 4 "
    "--model.dropout 0.1 --data.max-tokens 256 --data.eval-tokens 64 --data.loader.workers 1 "
    f"--data.augment.flip horizontal --optim.warmup 3 --train.steps {STEPS} --train.save-every 2 "
    "--train.eval-every 4 --train.log-every 1 --train.precision float32 --train.ema 0.9"
).split()
SIZES = {"train": 8, "val": 3, "test": 3}  # images per class


def make_reference(folder: Path) -> None:
    """Write data/, runs/whole, runs/half, runs/other (another seed), outputs.json, sizes.json."""
    data, runs = write_folder(folder / "data", SIZES), folder / "runs"
    words = ["train", data, *OPTIONS]
    for name, seed in (("whole", 0), ("other", 1)):
        _require(command([*words, "--out", runs / name, "--train.seed", seed], folder))
        _write_point(runs / name, temperature=1.5 + seed)
    stop_half_way(["train", data, *OPTIONS, "--out", runs / "half"], runs / "half", folder)
    _write_point(runs / "half", temperature=1.5)
    for name in ("whole", "half"):
        result = _require(predict(runs / name, folder, folder))
        (folder / f"outputs-{name}.json").write_text(result.out)
    (folder / "sizes.json").write_text(_require(inspect(folder, folder)).out)


def _write_point(run: Path, temperature: float) -> None:
    (best,) = list_checkpoints(run / "checkpoints", "best")
    weights = sha256((best / "model.safetensors").read_bytes()).hexdigest()
    point = OperatingPoint(max_tokens=40, temperature=temperature, weights=weights)
    write_operating_point(run, point)


def stop_half_way(words: Sequence[object], out: Path, folder: Path) -> None:
    """Start a run and stop it by SIGTERM once it has saved a checkpoint of step HALF or later."""
    running = start(words, folder / "half", env=cache_of(folder))
    until = time.monotonic() + 60
    while time.monotonic() < until and step_of(out) < HALF:
        time.sleep(0.01)
    os.kill(running.pid, signal.SIGTERM)
    result = running.wait(60)
    assert result.status == 128 + signal.SIGTERM and HALF <= step_of(out) < STEPS, result.err


def step_of(out: Path) -> int:
    """Step of the newest checkpoint of a run; 0 without one."""
    newest = list_checkpoints(out / "checkpoints", "last")
    return int(newest[0].name.rpartition("-")[2]) if newest else 0


def command(words: Sequence[object], folder: Path, seconds: float = 60) -> Result:
    """Run a command whose output and caches are in a folder; a hang raises TimedOut."""
    return run(words, folder / "command", seconds=seconds, env=cache_of(folder))


def cache_of(folder: Path) -> dict[str, str]:
    return {"XDG_CACHE_HOME": str(folder / "cache"), "HOME": str(folder)}


def predict(run: Path, reference: Path, folder: Path, seconds: float = 30) -> Result:
    """`predict --json` for the test images."""
    return command(["predict", run, reference / "data" / "test", "--json"], folder, seconds)


def inspect(reference: Path, folder: Path, seconds: float = 30) -> Result:
    return command(["inspect", reference / "data", "--json"], folder, seconds)


def copy_run(reference: Path, name: str, folder: Path) -> Path:
    """A fresh copy of a run, and of the cache of the data."""
    for path in (folder / "run", folder / "cache"):
        shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(reference / "cache", folder / "cache")
    return Path(shutil.copytree(reference / "runs" / name, folder / "run"))


def verdict_of_predict(run: Path, reference: Path, folder: Path, names: Sequence[str]):
    """The verdict on `predict`: its output is that of the undamaged half run, or it is refused."""
    expected = (reference / "outputs-half.json").read_text()
    return _verdict(lambda: predict(run, reference, folder), names, lambda r: r.out == expected)


def verdict_of_inspect(run: Path, reference: Path, folder: Path, names: Sequence[str]):
    expected = json.loads((reference / "sizes.json").read_text())
    return _verdict(
        lambda: inspect(reference, folder), names, lambda r: json.loads(r.out) == expected
    )


def verdict_of_resume(run: Path, reference: Path, folder: Path, names: Sequence[str]):
    """The verdict on `--resume`: it ends with the bits of the whole run, or it is refused."""
    return _verdict(
        lambda: command(["train", "--resume", run], folder),
        names,
        lambda _: same_tensors(run, reference / "runs" / "whole"),
    )


def same_tensors(left: Path, right: Path) -> bool:
    """Whether the newest checkpoints of two runs are equal to the bit."""
    a, b = final_tensors(left), final_tensors(right)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def _verdict(act, names: Sequence[str], is_right) -> tuple[Verdict, str]:
    try:
        result = act()
    except TimedOut as error:
        return Verdict.HANG, str(error)
    verdict, detail = of_command(result.status, result.err, names)
    if verdict == Verdict.RIGHT and not is_right(result):
        return Verdict.SILENT, f"another answer, {detail}"
    return verdict, detail


def _require(result: Result) -> Result:
    assert result.status == 0, result.err
    return result
