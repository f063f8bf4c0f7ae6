"""The command `patchpack`, also as `python -m patchpack`."""

import os


def main() -> None:
    """Settle how threads wait, then run the command line.

    OpenMP's threads spin while they wait. Beside loading threads, or any other process, on few
    cores, a spinning thread keeps the one it waits for from running: training on 2 cores of which
    another program used one was 10 times slower. The setting is read when PyTorch is loaded.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from patchpack.cli import main as run

    run()


if __name__ == "__main__":
    main()
