"""Configs survive JSON unchanged; invalid data is rejected with its path."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchpack.config import RunConfig
from patchpack.serialization import ConfigError, from_json, nearest, to_json, with_fields


@dataclass(frozen=True, kw_only=True)
class SquareResize:
    side: int = 16


@dataclass(frozen=True, kw_only=True)
class Native:
    tokens: int | None = None


@dataclass(frozen=True, kw_only=True)
class Optim:
    lr: float = 1e-3
    schedule: Literal["rsqrt", "cosine"] = "rsqrt"
    betas: tuple[float, float] = (0.9, 0.999)

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError(f"lr must be positive, not {self.lr}")


@dataclass(frozen=True, kw_only=True)
class Train:
    optim: Optim = field(default_factory=Optim)
    warm: Optim | None = None


@dataclass(frozen=True, kw_only=True)
class Config:
    name: str
    steps: int = 1
    fast: bool = False
    root: Path | None = None
    empty: None = None
    level: Literal[1, 2] = 1
    sides: tuple[int, ...] = ()
    size: SquareResize | Native = field(default_factory=Native)
    sizes: tuple[SquareResize | Native, ...] = ()
    named_sizes: dict[str, SquareResize | Native] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    limit: int | str | None = None
    ratio: float | int = 1
    train: Train = field(default_factory=Train)
    doubled: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "doubled", 2 * self.steps)


def through_text(config: Any) -> Any:
    return from_json(type(config), json.loads(json.dumps(to_json(config), allow_nan=False)))


finite = st.floats(allow_nan=False, allow_infinity=False)
sizes = st.builds(SquareResize, side=st.integers()) | st.builds(
    Native, tokens=st.none() | st.integers()
)
optims = st.builds(
    Optim,
    lr=finite.filter(lambda x: x > 0),
    schedule=st.sampled_from(["rsqrt", "cosine"]),
    betas=st.tuples(finite, finite),
)
configs = st.builds(
    Config,
    name=st.text(),
    steps=st.integers(),
    fast=st.booleans(),
    root=st.none() | st.sampled_from([Path("a/b"), Path("/x y")]),
    level=st.sampled_from([1, 2]),
    sides=st.lists(st.integers()).map(tuple),
    size=sizes,
    sizes=st.lists(sizes).map(tuple),
    named_sizes=st.dictionaries(st.text(), sizes),
    weights=st.dictionaries(st.text(), finite),
    limit=st.none() | st.integers() | st.text(),
    ratio=finite | st.integers(),
    train=st.builds(Train, optim=optims, warm=st.none() | optims),
)


@settings(deadline=None, max_examples=50)
@given(configs)
def test_a_config_survives_json(config):
    assert through_text(config) == config


def test_a_run_config_survives_json():
    assert through_text(RunConfig()) == RunConfig()


def test_only_a_union_of_dataclasses_has_a_type():
    train = Train(warm=Optim())
    data = to_json(
        Config(name="x", sizes=(SquareResize(),), named_sizes={"a": Native()}, train=train)
    )
    assert data["size"] == {"type": "Native", "tokens": None}
    assert data["sizes"] == [{"type": "SquareResize", "side": 16}]
    assert data["named_sizes"] == {"a": {"type": "Native", "tokens": None}}
    assert all("type" not in part for part in (data, data["train"], data["train"]["warm"]))
    assert "doubled" not in data


def test_types_survive():
    data = {"name": "x", "limit": "7", "ratio": 3, "train": {"optim": {"type": "Optim", "lr": 1}}}
    config = from_json(Config, data)
    assert config.limit == "7"
    assert type(config.ratio) is int
    assert type(config.train.optim.lr) is float


INVALID = [
    ({"train": {"optim": {"lr": "abc"}}}, "train.optim.lr: expected a number, got 'abc'"),
    ({"train": {"optim": {"lr": True}}}, "train.optim.lr: expected a number, got True"),
    ({"train": {"optim": {"lr": math.nan}}}, "train.optim.lr: nan is not finite"),
    ({"train": {"optim": {"lr": math.inf}}}, "train.optim.lr: inf is not finite"),
    ({"train": {"optim": {"lr": -(10**400)}}}, f"train.optim.lr: {-(10**400)} is not finite"),
    ({"train": {"optim": {"lr": -1}}}, "train.optim: lr must be positive, not -1.0"),
    ({"train": {"warm": {"lr": 0}}}, "train.warm: lr must be positive, not 0.0"),
    ({"train": {"optim": {"schedule": "cos"}}},
     "train.optim.schedule: expected one of 'rsqrt', 'cosine', got 'cos'"),
    ({"train": {"optim": {"betas": [0.9]}}},
     "train.optim.betas: expected 2 values, got 1: [0.9]"),
    ({"train": {"optim": {"betas": 0.9}}}, "train.optim.betas: expected a list, got 0.9"),
    ({"train": {"optim": []}}, "train.optim: expected an object of Optim, got []"),
    ({"train": {"optim": {"type": "Train"}}},
     "train.optim: unknown field 'type' of Optim; choose among lr, schedule, betas"),
    ({"train": {"optm": {}}}, "train: unknown field 'optm' of Train; did you mean 'optim'?"),
    ({"doubled": 2}, "unknown field 'doubled' of Config; choose among"),
    ({3: 2}, "unknown field 3 of Config; choose among"),
    ({"steps": True}, "steps: expected a whole number, got True"),
    ({"steps": 1.0}, "steps: expected a whole number, got 1.0"),
    ({"steps": None}, "steps: expected a whole number, got None"),
    ({"fast": 1}, "fast: expected true or false, got 1"),
    ({"name": 1}, "name: expected a text, got 1"),
    ({"root": 1}, "root: expected a path, got 1"),
    ({"empty": 0}, "empty: expected null, got 0"),
    ({"level": True}, "level: expected one of 1, 2, got True"),
    ({"level": []}, "level: expected one of 1, 2, got []"),
    ({"sides": [1, "2"]}, "sides[1]: expected a whole number, got '2'"),
    ({"size": {"type": "Nativ"}}, "size: unknown type 'Nativ'; did you mean 'Native'?"),
    ({"size": {"type": []}}, "size: unknown type []; choose among SquareResize, Native"),
    ({"size": {"side": 3}}, "size: expected an object whose 'type' is one of SquareResize, Native"),
    ({"size": 3}, "size: expected an object whose 'type' is one of SquareResize, Native, got 3"),
    ({"sizes": [{"type": "SquareResize", "side": "3"}]}, "sizes[0].side: expected a whole number"),
    ({"weights": {"cat": None}}, "weights.cat: expected a number, got None"),
    ({"weights": [1]}, "weights: expected an object, got [1]"),
    ({"weights": {1: 1.0}}, "weights: expected a text, got 1"),
    ({"limit": 1.5}, "limit: expected a whole number or a text, got 1.5"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), INVALID, ids=[m[:60] for _, m in INVALID])
def test_errors_have_the_path_of_the_value(change, message):
    with pytest.raises(ConfigError) as caught:
        from_json(Config, {"name": "x", **change})
    assert str(caught.value).startswith(message)


def test_a_missing_field_is_named():
    with pytest.raises(ConfigError, match=r"^Config needs 'name'$"):
        from_json(Config, {"steps": 3})


@pytest.mark.parametrize("data", [None, 1, "x", [], Config(name="x")])
def test_only_an_object_makes_a_config(data):
    with pytest.raises(ConfigError, match=r"^expected an object of Config, got"):
        from_json(Config, data)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Config(name="x", weights={"cat": math.nan}), "weights.cat: nan is not finite"),
        (Config(name="x", sides=({1},)), "sides[0]: {1} has no form in JSON"),
        (Config(name="x", weights={1: 1.0}), "weights: {1: 1.0} has no form in JSON"),
        (Config, "expected a dataclass, got <class"),
        ({"name": "x"}, "expected a dataclass, got {'name': 'x'}"),
    ],
)
def test_values_without_json_form_are_rejected(config, message):
    with pytest.raises(ConfigError) as caught:
        to_json(config)
    assert str(caught.value).startswith(message)


def test_fields_are_replaced_by_name():
    config = Config(name="x", steps=3)
    assert with_fields(config, {"steps": 5, "fast": True}) == Config(name="x", steps=5, fast=True)
    assert config.steps == 3
    with pytest.raises(ConfigError, match=r"^unknown field 'step' of Config; did you mean 'steps'"):
        with_fields(config, {"step": 5})
    with pytest.raises(ConfigError, match=r"^lr must be positive, not 0$"):
        with_fields(Optim(), {"lr": 0})


def test_nearest_suggests_a_name_or_lists_all():
    assert nearest("widht", ["width", "depth"]) == "; did you mean 'width'?"
    assert nearest("?", ["width", "depth"]) == "; choose among width, depth"
