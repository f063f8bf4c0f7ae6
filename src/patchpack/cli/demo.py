"""`patchpack demo`: train and compare two models on generated images."""

import json
from dataclasses import dataclass
from pathlib import Path

from patchpack.printable import printable


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Train a small NaViT and a square ViT on generated images, and write a report of both."""

    out: Path = Path("demo")  # folder for the images, the runs and report.html
    steps: int = 400  # optimizer steps of the NaViT; the square ViT gets the same compute
    json: bool = False  # print JSON


def run_demo(options: Demo) -> None:
    try:
        from patchpack.demo.show import show
    except ImportError as error:
        raise ImportError("the demo draws pictures: pip install 'patchpack[report]'") from error
    summary = show(options.out, options.steps)
    print(json.dumps(summary) if options.json else printable(summary["report"]))
