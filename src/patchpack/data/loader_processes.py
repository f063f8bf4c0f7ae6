"""Loader processes: packs loaded outside the main process, by one thread of it for each.

A thread sends a spec to its process and receives the pack. A process that ends in between (out of
memory, a crash of a decoder) is replaced, and the pack is loaded again, the same pack. After
ATTEMPTS the images that end a process are searched, one by one, and `LoaderProcessError` names
them.

Signals of a process group (SIGINT, SIGTERM, SIGHUP) are left to the main process, from the first
moment: the processes are started with these signals blocked. When the main process is gone, its
loader processes see the end of its pipe, and end as well; so do the fork server and the resource
tracker of `multiprocessing`, once no process uses them.
"""

import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO
from multiprocessing import resource_tracker, util
from multiprocessing.connection import Connection
from queue import Empty, LifoQueue
from typing import Any

import torch

from patchpack.data.spec import ClipSpec, ImageSpec, PackSpec

ATTEMPTS = 3  # processes that may end while they load the same pack
NAMED = 10  # maximum images listed in an error
PRELOADED = ["patchpack.data.loader", "patchpack.data.loader_server"]  # imported once for all
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_starting = threading.Lock()


class LoaderProcessError(ChildProcessError):
    """Loader processes end while they load a pack; the message names its images."""


class LoaderProcesses:
    """Calls `load(spec)` in processes; `submit` and `shutdown` as of an Executor."""

    def __init__(self, load: Callable[[PackSpec], Any], count: int) -> None:
        self._load = load
        self._idle: LifoQueue[_Process] = LifoQueue()
        self._running: set[_Process] = set()
        self._closed = False
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="patchpack-load")
        # Before the exit function of multiprocessing, which would wait for them.
        self._end = util.Finalize(self, _kill, (self._running,), exitpriority=100)

    def submit(self, spec: PackSpec) -> Future[Any]:
        """Load a pack in the background; the result raises what `load` raised."""
        return self._threads.submit(self._result, spec)

    def shutdown(self) -> None:
        """End all processes, whatever they do."""
        self._closed = True
        self._end()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _result(self, spec: PackSpec) -> Any:
        reason = "ended"
        for _ in range(ATTEMPTS):
            try:
                return self._call(spec)
            except _Ended as ended:
                if self._closed:
                    raise LoaderProcessError("the loader is shut down") from None
                reason = str(ended)
        ending = [image for image in spec.images if self._ends(_with_image(image, spec))]
        images = ending or spec.images
        keys = [i.key if isinstance(i, ClipSpec) else i.source.key for i in images]
        more = f", and {len(keys) - NAMED} more" if len(keys) > NAMED else ""
        which = "" if ending else "one of "
        raise LoaderProcessError(
            f"{ATTEMPTS} loader processes {reason} while they loaded {which}"
            f"{', '.join(keys[:NAMED])}{more}: remove the file, or free memory "
            "(data.loader.workers, data.loader.prefetch)"
        )

    def _ends(self, spec: PackSpec) -> bool:
        """Whether a process that loads a spec ends."""
        try:
            self._call(spec)
        except _Ended:
            return not self._closed
        except Exception:
            return False
        return False

    def _call(self, spec: PackSpec) -> Any:
        """Load in an idle process, or a new one; raise _Ended if it ends before it answers."""
        try:
            process = self._idle.get_nowait()
        except Empty:
            process = _Process(self._load)
            self._running.add(process)
            if self._closed:
                process.kill()
        try:
            answer = process.call(spec)
        except _Ended:
            self._running.discard(process)
            raise
        self._idle.put(process)
        if isinstance(answer, BaseException):
            raise answer
        return answer


def _with_image(image: ImageSpec | ClipSpec, spec: PackSpec) -> PackSpec:
    return replace(spec, images=(image,))  # pyrefly: ignore


class _Ended(Exception):
    """A process ended; the text is a verb phrase with the reason."""


class _Process:
    """One loader process, and the main process's end of its pipe."""

    def __init__(self, load: Callable[[PackSpec], Any]) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self._connection, far_end = context.Pipe()
        self._process = context.Process(target=_serve, args=(far_end, load), daemon=True)
        with _starting:
            # Children inherit the blocked signals of this thread. The resource tracker comes
            # first, because starting it unblocks two of them.
            signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
            resource_tracker.ensure_running()
            signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
            self._process.start()
        far_end.close()

    def call(self, spec: PackSpec) -> Any:
        """Send a spec and return the answer, a pack or an exception."""
        try:
            self._connection.send_bytes(_dumps(spec))
            return pickle.loads(self._connection.recv_bytes())
        except (EOFError, OSError):
            self.kill()
            self._connection.close()
            raise _Ended(_how_it_ended(self._process.exitcode)) from None

    def kill(self) -> None:
        """End the process, and wait for its end."""
        self._process.kill()
        self._process.join(5)


def _kill(processes: set[_Process]) -> None:
    for process in list(processes):
        process.kill()


def _how_it_ended(status: int | None) -> str:
    if status is None or status >= 0:
        return "ended"
    name = signal.Signals(-status).name
    why = ", as when memory is full," if -status == signal.SIGKILL else ""
    return f"were ended by {name}{why}"


def _serve(connection: Connection, load: Callable[[PackSpec], Any]) -> None:
    """Load one spec after another, on one core, until the main process closes the pipe."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_main_process, daemon=True).start()
    torch.set_num_threads(1)
    try:
        while True:
            spec = pickle.loads(connection.recv_bytes())
            connection.send_bytes(_answer(load, spec))
    except (EOFError, OSError):
        return


def _end_with_main_process() -> None:
    """End this process, in whatever it does, once the main process is gone."""
    main = multiprocessing.parent_process()
    if main is not None:
        main.join()
        os._exit(1)


def _answer(load: Callable[[PackSpec], Any], spec: PackSpec) -> memoryview:
    try:
        return _dumps(load(spec))
    except Exception as error:
        error.add_note("".join(traceback.format_exception(error)))
        try:
            answer = _dumps(error)
            pickle.loads(answer)
        except Exception:  # an exception that cannot be sent
            return _dumps(RuntimeError(f"{type(error).__name__}: {error}"))
        return answer


def _dumps(value: object) -> memoryview:
    buffer = BytesIO()
    _Pickler(buffer, protocol=5).dump(value)
    return buffer.getbuffer()


class _Pickler(pickle.Pickler):
    """Tensors go through the pipe as arrays, not through shared memory, which may be full."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor) and value.dtype != torch.bfloat16:
            return torch.from_numpy, (value.numpy(),)
        return NotImplemented
