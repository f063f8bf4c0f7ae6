"""A process that has imported patchpack and forks a child for each command: milliseconds, not
seconds.

Requests come as JSON lines on stdin, answers go as JSON lines to stdout: {"pid"} at once, and
{"pid", "status", "seconds", "megabytes"} when a command has ended: seconds of computing, and peak
memory. A command runs in a session of its own, with files as stdout and stderr. `commands.py` is
the other end.
"""

import io
import json
import os
import resource
import select
import signal
import sys
from contextlib import redirect_stderr, suppress
from typing import Any

POLL = 0.01  # seconds between looks at children


def main() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    _warm_up()
    resident = _resident()
    started: set[int] = set()
    lines = b""
    while True:
        ready, _, _ = select.select([0], [], [], POLL if started else None)
        if ready:
            data = os.read(0, 1 << 16)
            if not data:
                break
            *whole, lines = (lines + data).split(b"\n")
            for line in whole:
                request = json.loads(line)
                if (pid := os.fork()) == 0:
                    run(request)  # raises SystemExit
                started.add(pid)
                _answer(pid=pid)
        for pid in list(started):
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                _, status, usage = os.wait4(pid, 0)
                started.remove(pid)
                _answer(pid=pid, status=os.waitstatus_to_exitcode(status),
                        seconds=usage.ru_utime + usage.ru_stime,
                        megabytes=max(0, usage.ru_maxrss - resident) / 1024)  # fmt: skip
    for pid in started:
        os.kill(pid, signal.SIGKILL)


def _warm_up() -> None:
    """Do once what every command would do first: imports, and the parser of options."""
    from patchpack.cli import main as command

    with suppress(ImportError):
        import patchpack.visualize.figures
        import patchpack.visualize.plots  # noqa: F401
    errors = io.StringIO()
    for words in (["inspect", "/absent"], ["predict", "/absent", "/absent"]):
        with redirect_stderr(errors), suppress(SystemExit):
            command(words)
    sys.stderr.flush()


def run(request: dict[str, Any]) -> None:
    """Become the command of a request, and exit as it does."""
    os.setsid()
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    for descriptor, path in ((0, os.devnull), (1, request["out"]), (2, request["err"])):
        file = os.open(path, os.O_RDONLY if descriptor == 0 else flags, 0o600)
        os.dup2(file, descriptor)
        os.close(file)
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    for name, value in request["limits"].items():
        resource.setrlimit(getattr(resource, name), (value, value))
    if request["limits"]:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond the limit fails instead
    sys.argv = ["patchpack", *request["words"]]
    from patchpack.cli import main as command

    command(request["words"])
    sys.exit(0)


def _answer(**fields: object) -> None:
    os.write(1, json.dumps(fields).encode() + b"\n")


def _resident() -> int:
    """Memory of this process in KiB, which its children start with."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
