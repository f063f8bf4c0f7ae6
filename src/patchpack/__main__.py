"""The command `patchpack`, also as `python -m patchpack`."""

import ctypes
import os
import sys


def main() -> None:
    """Settle how threads wait and where memory comes from, then run the command line."""
    spin_briefly()
    keep_freed_memory()
    from patchpack.cli import main as run

    run()


def spin_briefly() -> None:
    """Let OpenMP's threads spin for a short while before they sleep.

    Beside loading threads, or any other program, on few cores, a thread that spins keeps the one
    it waits for from running; one that sleeps at once takes long to wake. `docs/log.md` has the
    measurements. Read when PyTorch is loaded; a setting made in the environment stands.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "30000")


def keep_freed_memory() -> None:
    """Have glibc reuse the memory of one step in the next, instead of returning it in between.

    By default a freed tensor of some size goes back to the system, and the next one pays for
    fresh pages: 8,000 page faults and a tenth of the time of a training step of a small model.
    """
    if sys.platform == "linux" and "MALLOC_TRIM_THRESHOLD_" not in os.environ:
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):  # glibc has it, musl has not
            trim_threshold, mmap_threshold = -1, -3
            libc.mallopt(trim_threshold, 1 << 30)
            # Older ones take no more than 32 MiB, and answer 0 to more.
            libc.mallopt(mmap_threshold, 1 << 30) or libc.mallopt(mmap_threshold, 32 << 20)


if __name__ == "__main__":
    main()
