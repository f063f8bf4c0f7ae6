"""The command `patchpack`, also as `python -m patchpack`."""

import os


def main() -> None:
    """Settle how threads wait, then run the command line.

    OpenMP's threads spin while they wait. Beside loading threads, or any other program, on few
    cores, a spinning thread keeps the one it waits for from running; one that sleeps at once takes
    long to wake. So they spin for a short while; `docs/log.md` has the measurements. The setting
    is read when PyTorch is loaded, and one made in the environment stands.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "30000")
    from patchpack.cli import main as run

    run()


if __name__ == "__main__":
    main()
