"""Recipes: Python files that hold a RunConfig named `config`."""

import runpy
from pathlib import Path

from patchpack.serialization import ConfigError
from patchpack.train.config import RunConfig


def load_recipe(path: Path) -> RunConfig:
    """Run a recipe and take its `config`; raises ConfigError where there is none.

    A recipe is a program: run only those you trust.
    """
    if not path.is_file():
        raise ConfigError(f"there is no recipe {path}")
    config = runpy.run_path(str(path)).get("config")
    if not isinstance(config, RunConfig):
        raise ConfigError(f"{path} is no recipe: it defines no `config` that is a RunConfig")
    return config
