"""`patchpack train`: a run from a folder or a recipe; --resume continues one.

A recipe is a Python file, and is run: use only recipes from sources that you trust.
"""

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path

import tyro

from patchpack.config import RunConfig, load_recipe
from patchpack.data.config import DataConfig
from patchpack.model.presets import model_config
from patchpack.pretrained.convert import RECORD
from patchpack.pretrained.read import is_foreign, read_trained
from patchpack.printable import printable
from patchpack.run import load_config, resume, start
from patchpack.tasks.registry import task_of
from patchpack.train.progress import Progress

DESCRIPTION = """Train on DIR (images or clips), a COCO file or a manifest, or as RECIPE.py defines.

RECIPE.py is Python code that runs: use only recipes from sources that you trust.
--resume RUN continues a run exactly; with --data.root NEW where its data have moved."""


def run_train(argv: Sequence[str]) -> None:
    """`train` reads its positional argument first: it decides every option's default."""
    argv = list(argv)
    as_json = "--json" in argv
    argv = [word for word in argv if word != "--json"]
    folder = _take_option(argv, "--resume")
    if folder is not None:
        root = _take_option(argv, "--data.root")
        if argv:
            raise ValueError(
                f"--resume takes no further options but --data.root, not {' '.join(argv)}"
            )
        progress = resume(Path(folder), data_root=Path(root) if root else None)
        _report_training(progress, Path(folder), as_json)
        return
    preset = _take_option(argv, "--preset")
    default, is_recipe = RunConfig(), False
    if argv and not argv[0].startswith("-") and ":" not in argv[0]:
        source = Path(argv.pop(0))
        if is_recipe := source.suffix == ".py":
            default = load_recipe(source)
        else:
            default = dataclasses.replace(default, data=DataConfig(root=source))
    if preset is not None:
        default = dataclasses.replace(default, model=model_config(preset))
    elif not is_recipe and (init := _value_of(argv, "--init")):
        default = _with_model_of(default, init)
    config = tyro.cli(
        RunConfig,
        default=default,
        args=argv,
        prog="patchpack train [DIR | RECIPE.py] [--resume RUN] [--preset NAME] [--json]",
        description=DESCRIPTION,
        config=(tyro.conf.CascadeSubcommandArgs,),
    )
    _report_training(start(config), config.out, as_json)


def _with_model_of(default: RunConfig, init: str) -> RunConfig:
    """The config with the architecture of the weights in --init; with those of another library,
    also with its rule for sizes, which is part of its preprocessing."""
    trained = read_trained(init)
    spec = trained.spec
    default = dataclasses.replace(default, model=spec.model, init=Path(init))
    if not (is_foreign(trained.folder) or (trained.folder / RECORD).is_file()):
        return default
    data = dataclasses.replace(
        default.data, resolution=spec.resolution, eval_tokens=spec.eval_tokens
    )
    return dataclasses.replace(default, data=data)


def _value_of(argv: list[str], name: str) -> str | None:
    """The value of an option that stays among the words."""
    words = list(argv)
    for word in argv:
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
    return _take_option(words, name)


def _take_option(argv: list[str], name: str) -> str | None:
    """Remove `name VALUE`, or `name=VALUE`, from the words, and give the value."""
    joined = next((word for word in argv if word.startswith(f"{name}=")), None)
    if joined is not None:
        argv.remove(joined)
        return joined.removeprefix(f"{name}=")
    if name not in argv:
        return None
    position = argv.index(name)
    if position + 1 >= len(argv):
        raise ValueError(f"{name} needs a value")
    value = argv[position + 1]
    del argv[position : position + 2]
    return value


def _report_training(progress: Progress, out: Path, as_json: bool) -> None:
    if os.environ.get("RANK", "0") != "0":  # of several processes, the first one speaks
        return
    if as_json:
        print(json.dumps({"out": str(out), **dataclasses.asdict(progress)}))
        return
    metric = task_of(load_config(out).task).metric.name
    best = "none" if progress.best is None else f"{progress.best:.4f}"
    print(
        f"{progress.step} steps, {progress.images:,} images, {progress.flops / 1e12:,.1f} TFLOP "
        f"in {progress.seconds:.0f} s; best {metric} {best} at step "
        f"{progress.best_step}\n"
        f"patchpack eval {printable(out)}"
    )
