"""Numbers that make no run, and recipes that are none, are errors that name them."""

import math
from dataclasses import replace

import pytest

from patchpack import config as config_module
from patchpack.config import RunConfig, load_recipe
from patchpack.data.config import DataConfig, LoaderConfig
from patchpack.serialization import ConfigError
from patchpack.train.config import TrainConfig
from patchpack.train.optim import OptimConfig

NONSENSE = {
    "seed must lie in": (TrainConfig, {"seed": -1}),
    "seed must lie in [": (TrainConfig, {"seed": 2**63}),
    "steps must be at least 1": (TrainConfig, {"steps": 0}),
    "steps must be at most": (TrainConfig, {"steps": 10**30}),
    "eval_every must be at least 1, not 0": (TrainConfig, {"eval_every": 0}),
    "save_every must be at least 1, not -3": (TrainConfig, {"save_every": -3}),
    "flops must be more than 0": (TrainConfig, {"flops": math.nan}),
    "ema must lie in": (TrainConfig, {"ema": math.nan}),
    "lr must be a positive number, not nan": (OptimConfig, {"lr": math.nan}),
    "lr must be a positive number, not inf": (OptimConfig, {"lr": math.inf}),
    "weight_decay must be a number of at least 0": (OptimConfig, {"weight_decay": -1.0}),
    "head_weight_decay must be a number": (OptimConfig, {"head_weight_decay": math.nan}),
    "betas must lie in": (OptimConfig, {"betas": (0.9, 1.0)}),
    "grad_clip_norm not negative": (OptimConfig, {"grad_clip_norm": math.nan}),
    "workers must lie in": (LoaderConfig, {"workers": 10**6}),
    "prefetch must lie in": (LoaderConfig, {"prefetch": 0}),
    "max_tokens must be at most": (DataConfig, {"max_tokens": 10**20}),
    "max_bad_fraction must lie in": (DataConfig, {"max_bad_fraction": math.nan}),
}


@pytest.mark.parametrize(("message", "case"), NONSENSE.items(), ids=NONSENSE)
def test_numbers_that_make_no_run_are_refused_by_name(message, case):
    cls, values = case
    with pytest.raises(ValueError) as error:
        cls(**values)
    assert message in str(error.value)


def test_no_field_holds_infinity():
    with pytest.raises(ConfigError, match=r"train\.seconds: inf is not finite"):
        RunConfig(train=replace(TrainConfig(), seconds=math.inf))


RECIPES = {
    "raises": ("x = 1\n\nraise KeyError('a')\n", r"recipe\.py, line 3: KeyError: 'a'"),
    "exits": ("import sys\nsys.exit(3)\n", r"recipe\.py, line 2: SystemExit: 3"),
    "is not Python": ("x = 1\nthis is a text\n", r"recipe\.py, line 2: SyntaxError"),
    "is binary": (bytes(range(256)), r"recipe\.py(, line \d+)?: (SyntaxError|ValueError)"),
    "imports nothing": ("import nowhere_at_all\n", r"line 1: ModuleNotFoundError: No module"),
    "loops": ("while True:\n    pass\n", r"line [12]: the recipe still runs after 1 s"),
    "recurses": ("def f():\n    f()\nf()\n", r"line 2: RecursionError"),
    "has no config": ("x = 1\n", "defines no `config`"),
    "has another config": ("config = 5\n", "defines no `config` that is a RunConfig"),
    "has a wrong value": (
        "from patchpack.train.config import TrainConfig\n\nTrainConfig(steps=0)\n",
        r"line 3: ValueError: steps must be at least 1",
    ),
}


@pytest.mark.parametrize(("text", "message"), RECIPES.values(), ids=RECIPES)
def test_recipes_that_are_none_are_named_with_their_line(tmp_path, monkeypatch, text, message):
    monkeypatch.setattr(config_module, "RECIPE_SECONDS", 1)
    path = tmp_path / "recipe.py"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=message) as error:
        load_recipe(path)
    assert "\n" not in str(error.value)


def test_a_recipe_prints_beside_the_output(tmp_path, capsys):
    path = tmp_path / "recipe.py"
    path.write_text(
        "from patchpack.config import RunConfig\nprint('hello')\nconfig = RunConfig()\n"
    )
    assert load_recipe(path) == RunConfig()
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err == "hello\n"
