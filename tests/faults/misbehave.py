"""A check that hangs, crashes, raises and answers, for tests of workers; imports nothing slow."""

import os
import time
from pathlib import Path

from faults.verdicts import Outcome, Verdict


def misbehave(number: int, folder: Path, reference: Path) -> Outcome:
    if number == 1:
        time.sleep(60)
    if number == 2:
        os._exit(11)
    if number == 3:
        raise KeyError("x")
    return Outcome("fine", Verdict.RIGHT)
