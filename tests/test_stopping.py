"""A run that is stopped from outside saves, ends with the right status, and leaves no process.

Each test runs the command in processes of its own, in a group of their own.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from conftest import write_folder
from patchpack.checkpoint import list_checkpoints
from patchpack.run import resume
from patchpack.serialization import to_json
from patchpack.train.stopping import TrainingError, catch_stop_signals, saved_on_loss
from runs import final_tensors, tiny, with_loader
from test_loader_processes import running, wait_until

PROGRAM = """
import json, os, signal, sys, time
from pathlib import Path
from patchpack.config import RunConfig
from patchpack.run import start, resume
from patchpack.serialization import from_json
from patchpack.train import loop
import patchpack.run, patchpack.cli.train
if __name__ == "__main__":
    config = from_json(RunConfig, json.loads(Path(sys.argv[1]).read_text()))
    slow = float(sys.argv[2])
    step = loop.Trainer.step
    def slower(self, *args, **kwargs):
        totals = step(self, *args, **kwargs)
        if self.progress.step == 2:
            (config.out / f"rank-{self.world.rank}").write_text(str(os.getpid()))
        time.sleep(slow)
        return totals
    loop.Trainer.step = slower
    patchpack.cli.train.load_recipe = lambda path: config
    from patchpack.cli import main
    main(["train", "recipe.py"])
"""
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data") / "images", {"train": 8, "val": 2})


class Command:
    """A `train` command that sleeps after every step, and writes a file after the second."""

    def __init__(self, config, folder: Path, *, launcher: tuple = (), before=None) -> None:
        (folder / "program.py").write_text(PROGRAM)
        (folder / "config.json").write_text(json.dumps(to_json(config)))
        self.word = f"PATCHPACK_TEST={folder.name}-{os.getpid()}"
        threads = str(torch.get_num_threads())
        env = dict([*os.environ.items(), self.word.split("=")], OMP_NUM_THREADS=threads)
        words = [sys.executable, *launcher, folder / "program.py", folder / "config.json", "0.1"]
        self.out = config.out
        self.process = subprocess.Popen(
            list(map(str, words)), env=env, stderr=subprocess.PIPE, text=True,
            start_new_session=True, preexec_fn=before,
        )  # fmt: skip

    def __enter__(self) -> "Command":
        return self

    def __exit__(self, *details: object) -> None:
        for pid in running(self.word):
            os.kill(pid, signal.SIGKILL)
        self.process.communicate()

    def wait_for_step(self, rank: int = 0) -> int:
        """Wait for the second step of a rank, and return its process."""
        path = self.out / f"rank-{rank}"
        assert wait_until(lambda: path.exists() and path.read_text() != "", 60)
        return int(path.read_text())

    def end(self) -> tuple[int, str]:
        """Status and stderr; all processes are gone."""
        err = self.process.communicate(timeout=60)[1]
        assert wait_until(lambda: not running(self.word))
        return self.process.returncode, err


def same_as_undisturbed(config, folder: Path) -> bool:
    from dataclasses import replace

    from patchpack.run import start

    resume(config.out, live=False)
    start(replace(config, out=folder / "undisturbed"), live=False)
    left, right = final_tensors(config.out), final_tensors(folder / "undisturbed")
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


def test_signals_to_the_group_of_a_run_with_loader_processes(root, tmp_path):
    """Twice, as `timeout` sends them: saved, status 143, no loader left, continued bit for bit."""
    config = tiny(root, tmp_path / "run", steps=12, save_every=1000, eval_every=1000)
    config = with_loader(config, workers=2, worker_type="processes")
    with Command(config, tmp_path) as command:
        pid = command.wait_for_step()
        os.kill(pid, signal.SIGTERM)
        os.killpg(pid, signal.SIGTERM)
        status, err = command.end()
    assert status == 143 and "Traceback" not in err
    assert "stopped by SIGTERM after step" in err and "--resume" in err
    assert list_checkpoints(config.out / "checkpoints", "last")
    assert same_as_undisturbed(config, tmp_path)


def test_a_hangup_saves_and_a_kill_leaves_no_loader(root, tmp_path):
    config = tiny(root, tmp_path / "run", steps=200, save_every=1000, eval_every=1000)
    with Command(config, tmp_path) as command:
        os.kill(command.wait_for_step(), signal.SIGHUP)
        status, err = command.end()
    assert status == 129 and "stopped by SIGHUP" in err
    assert list_checkpoints(config.out / "checkpoints", "last")


def test_killed_loaders_are_replaced_and_a_killed_run_leaves_none(root, tmp_path):
    config = tiny(root, tmp_path / "run", steps=12, save_every=3)
    config = with_loader(config, workers=1, worker_type="processes")
    with Command(config, tmp_path) as command:
        pid = command.wait_for_step()
        for other in running(command.word) - {pid}:
            if b"multiprocessing" in Path(f"/proc/{other}/cmdline").read_bytes():
                os.kill(other, signal.SIGKILL)  # fork server, tracker and loader
        folder = config.out / "checkpoints" / "last-00000006"
        assert wait_until(folder.exists, 60)
        os.kill(pid, signal.SIGKILL)
        assert command.end()[0] == -9
    assert same_as_undisturbed(config, tmp_path)


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def test_both_ranks_stop_when_torchrun_is_killed(root, tmp_path):
    config = tiny(root, tmp_path / "run", steps=2000, save_every=10_000, eval_every=10_000)
    with Command(config, tmp_path, launcher=TORCHRUN) as command:
        ranks = [command.wait_for_step(rank) for rank in (0, 1)]
        command.process.kill()
        assert wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in ranks), 30)
        _, err = command.end()
    assert "torchrun has ended" in err and "stopped by SIGTERM" in err and "Traceback" not in err
    (newest,) = list_checkpoints(config.out / "checkpoints", "last")
    time.sleep(1)
    assert list_checkpoints(config.out / "checkpoints", "last") == [newest]


def test_a_rank_that_is_killed_stops_the_other_which_saves(root, tmp_path):
    config = tiny(root, tmp_path / "run", steps=2000, save_every=10_000, eval_every=10_000)
    with Command(config, tmp_path, launcher=TORCHRUN) as command:
        os.kill([command.wait_for_step(rank) for rank in (0, 1)][1], signal.SIGKILL)
        status, err = command.end()
    assert status == 1 and "another process of this run has ended; step" in err
    assert list_checkpoints(config.out / "checkpoints", "last")


def test_a_second_interrupt_ends_at_once_and_repeated_signals_do_not():
    with catch_stop_signals() as received:
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.raise_signal(number)
    assert received == [signal.SIGTERM, signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
    code = (
        "import signal, time; from patchpack.train import stopping; stopping.SAME_STOP = 0.1\n"
        "with stopping.catch_stop_signals():\n"
        "    signal.raise_signal(2); time.sleep(0.2); signal.raise_signal(2)\n"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -2


def test_a_hangup_that_is_ignored_stays_ignored():
    """As under nohup."""
    handler = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with catch_stop_signals() as received:
            signal.raise_signal(signal.SIGHUP)
        assert not received and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, handler)


def test_only_lost_data_and_processes_save():
    saved = []

    def save() -> str:
        saved.append(True)
        return "step 3 is saved"

    for error in (
        OSError(5, "Input/output error", "a.png"),
        RuntimeError("[/gloo/pair.cc] closed"),
    ):
        with pytest.raises(TrainingError, match="step 3 is saved"), saved_on_loss(save):
            raise error
    assert len(saved) == 2
    for other in (RuntimeError("shapes differ"), ValueError("x")):
        with pytest.raises(type(other)), saved_on_loss(save):
            raise other
    assert len(saved) == 2
