"""Loader processes: replaced when they die, named when they keep dying, gone with the main one."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from patchpack.data.index import build_index
from patchpack.data.loader import LoadedPack, LoaderConfig, load_epoch, load_pack
from patchpack.data.loader_processes import LoaderProcessError, LoaderProcesses
from patchpack.data.spec import PackSpec, pack_spec
from test_loader import PREPROCESSING, equal_packs, plan_of


def kill_once(spec: PackSpec) -> LoadedPack:
    """As the kernel does when memory is full, at the first pack alone."""
    marker = spec.images[0].source.path.parents[3] / "killed"
    if spec.step == 0 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return load_pack(spec)


def crash(spec: PackSpec) -> LoadedPack:
    """As a decoder with a fault does at one file."""
    if any(image.source.key.endswith("plain/003.png") for image in spec.images):
        os.kill(os.getpid(), signal.SIGSEGV)
    return load_pack(spec)


class Unsendable(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} {two}")


def fail(spec: PackSpec) -> LoadedPack:
    if spec.step == 0:
        raise OSError(5, "Input/output error", "a.png")
    raise Unsendable("what", "happened")


@pytest.fixture
def specs(folder, tmp_path):
    index = build_index(folder, cache_dir=tmp_path / "cache").split("train")
    plan = plan_of(index)
    return [
        pack_spec(index, plan, PREPROCESSING, epoch=0, step=step, rank=0)
        for step in range(plan.num_steps)
    ]


def test_a_killed_process_is_replaced_and_loads_the_same_pack(specs, tmp_path):
    pool = LoaderProcesses(kill_once, 1)
    found = [pool.submit(spec) for spec in specs[:3]]
    assert all(equal_packs(f.result(), load_pack(s)) for f, s in zip(found, specs, strict=False))
    assert (tmp_path / "killed").exists()
    pool.shutdown()


def test_a_file_that_ends_every_process_is_named(specs):
    pool = LoaderProcesses(crash, 2)
    found = [pool.submit(spec) for spec in specs]
    errors = [future.exception() for future in found]
    assert sum(error is None for error in errors) == len(specs) - 1
    (error,) = filter(None, errors)
    assert isinstance(error, LoaderProcessError)
    expected = r"^3 loader processes were ended by SIGSEGV while they loaded train/plain/003.png: "
    with pytest.raises(LoaderProcessError, match=expected):
        raise error
    pool.shutdown()


def test_errors_arrive_with_type_and_file(specs):
    pool = LoaderProcesses(fail, 1)
    error = pool.submit(specs[0]).exception()
    assert type(error) is OSError and (error.errno, error.filename) == (5, "a.png")
    other = pool.submit(replace(specs[0], step=1)).exception()
    assert str(other) == "Unsendable: what happened"
    pool.shutdown()


def running(word: str) -> set[int]:
    """Processes whose environment has a word."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if word.encode() in (folder / "environ").read_bytes():
                state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
                found |= {int(folder.name)} if state != "Z" else set()
        except OSError:
            continue
    return found


def wait_until(condition, seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


PROGRAM = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from patchpack.data.index import build_index
from patchpack.data.loader import LoaderConfig, load_forever
from test_loader import PREPROCESSING, plan_of
if __name__ == "__main__":
    index = build_index(sys.argv[2]).split("train")
    config = LoaderConfig(workers=2, worker_type="processes")
    packs = load_forever(index, lambda epoch: plan_of(index, epoch), PREPROCESSING, config)
    for pack in packs:
        print(pack.step, flush=True)
        time.sleep(0.02)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_processes_end_with_the_main_process_and_not_with_its_group(folder, tmp_path):
    """Signals of the group are the main process's; kill -9 of it leaves none behind."""
    (tmp_path / "program.py").write_text(PROGRAM)
    words = [sys.executable, tmp_path / "program.py", Path(__file__).parent, folder]
    word = f"PATCHPACK_TEST={tmp_path.name}-{os.getpid()}"
    env = dict([*os.environ.items(), word.split("=")], XDG_CACHE_HOME=str(tmp_path))
    main = subprocess.Popen(words, env=env, stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert main.stdout is not None and main.stdout.readline() == b"0\n"
        assert wait_until(lambda: len(running(word)) == 5)  # fork server, tracker, two loaders
        others = running(word) - {main.pid}
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            for pid in others:
                os.kill(pid, number)
        time.sleep(0.3)
        assert running(word) == {main.pid, *others}
        main.kill()
        assert wait_until(lambda: not running(word))
    finally:
        main.kill()
        main.communicate()


def test_ending_early_leaves_no_process(folder, tmp_path):
    index = build_index(folder, cache_dir=tmp_path / "cache").split("train")
    config = LoaderConfig(workers=2, worker_type="processes")
    packs = load_epoch(index, plan_of(index), PREPROCESSING, config)
    assert isinstance(next(packs).batch.patches, torch.Tensor)
    packs.close()
    import multiprocessing

    assert wait_until(lambda: not multiprocessing.active_children())


STARTED = """
import multiprocessing, os
from multiprocessing import forkserver
from patchpack.data.loader_processes import PRELOADED

multiprocessing.set_forkserver_preload(PRELOADED)
status, pipe = forkserver.connect_to_new_process([])
os.close(pipe)  # as if this process were killed before it sent what to run
os.read(status, 8)  # the number of the process
os.read(status, 8)  # its exit status
"""


def test_a_process_that_never_started_leaves_no_traceback():
    words = [sys.executable, "-c", STARTED]
    run = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0 and not run.stderr, run.stderr
