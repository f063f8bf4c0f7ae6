"""Frozen dataclasses to JSON and back; what is not known is refused.

    to_json(RunConfig(…))  →  {"optim": {"lr": 0.001, …}, "resolution": {"type": "Native", …}}

A field that may hold one of several dataclasses says which in "type". Errors give the path of the
value, and the nearest name where one does not exist.
"""

import difflib
import math
from collections.abc import Iterable
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


class ConfigError(ValueError):
    """A configuration that says something unknown or impossible, and where."""


def to_json(config: Any) -> Any:
    """A dataclass as plain JSON values; every nested dataclass carries its type's name."""
    return _plain(config, typed=False)


def _plain(value: Any, typed: bool = True) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        named = {"type": type(value).__name__} if typed else {}
        return named | {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def from_json(cls: type[T], data: Any) -> T:
    """The dataclass that `to_json` wrote; raises ConfigError for anything else."""
    return _dataclass(cls, data, "")


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint to append to a message about an unknown name."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(names)}"


def _dataclass(cls: Any, data: Any, path: str) -> Any:
    where = f"{path}: " if path else ""
    if not isinstance(data, dict):
        raise ConfigError(f"{where}expected an object of {cls.__name__}, got {data!r}")
    data = {key: value for key, value in data.items() if key != "type"}
    known = {field.name: field for field in fields(cls)}
    for key in data:
        if key not in known:
            raise ConfigError(f"{where}{cls.__name__} has no field {key!r}{nearest(key, known)}")
    hints = get_type_hints(cls)
    values = {
        key: _value(hints[key], value, f"{path}.{key}" if path else key)
        for key, value in data.items()
    }
    for name, field in known.items():
        if name not in data and field.default is MISSING and field.default_factory is MISSING:
            raise ConfigError(f"{where}{cls.__name__} needs the field {name!r}")
    try:
        return cls(**values)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{where}{error}") from error


def _value(hint: Any, data: Any, path: str) -> Any:
    origin = get_origin(hint)
    if is_dataclass(hint):
        return _dataclass(hint, data, path)
    if origin in (Union, UnionType):
        return _union(get_args(hint), data, path)
    if origin is Literal:
        if data not in get_args(hint):
            raise ConfigError(f"{path}: {data!r} is none of {', '.join(map(repr, get_args(hint)))}")
        return data
    if origin is tuple:
        return _tuple(get_args(hint), data, path)
    if origin is dict and isinstance(data, dict):
        return {key: _value(get_args(hint)[1], item, f"{path}.{key}") for key, item in data.items()}
    return _scalar(hint, data, path)


def _union(options: tuple[Any, ...], data: Any, path: str) -> Any:
    if data is None and NoneType in options:
        return None
    classes = {option.__name__: option for option in options if is_dataclass(option)}
    if classes and isinstance(data, dict):
        name = data.get("type")
        if name not in classes:
            raise ConfigError(f"{path}: no type {name!r}{nearest(str(name), classes)}")
        return _dataclass(classes[name], data, path)
    rest = [option for option in options if option is not NoneType and not is_dataclass(option)]
    errors: list[ConfigError] = []
    for option in rest:
        try:
            return _value(option, data, path)
        except ConfigError as error:
            errors.append(error)
    raise errors[0] if errors else ConfigError(f"{path}: cannot be {data!r}")


def _tuple(kinds: tuple[Any, ...], data: Any, path: str) -> tuple[Any, ...]:
    if not isinstance(data, list | tuple):
        raise ConfigError(f"{path}: expected a list, got {data!r}")
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        kinds = (kinds[0],) * len(data)
    if len(kinds) != len(data):
        raise ConfigError(f"{path}: expected {len(kinds)} values, got {len(data)}")
    return tuple(
        _value(k, item, f"{path}[{i}]") for i, (k, item) in enumerate(zip(kinds, data, strict=True))
    )


def _scalar(hint: Any, data: Any, path: str) -> Any:
    kinds = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    if hint is Path and isinstance(data, str):
        return Path(data)
    if hint is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    if type(data) is hint:
        if hint is float and not math.isfinite(data):
            raise ConfigError(f"{path}: {data} is not finite")
        return data
    raise ConfigError(f"{path}: expected {kinds.get(hint, hint)}, got {data!r}")
