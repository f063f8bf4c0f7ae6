"""Frozen dataclasses to JSON and back; unknown fields and types are rejected.

    to_json(RunConfig(…))  →  {"optim": {"lr": 0.001, …}, "resolution": {"type": "Native", …}}

The annotations are the schema. Where a field may be one of several dataclasses, "type" names it.
Errors have the path of the value and, for an unknown name, the closest known one.

Traps: `bool` is not accepted as `int`; an integer is accepted as `float`; NaN and infinity are
rejected both ways, since JSON has neither.
"""

import difflib
import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from patchpack.old_names import TYPES, current_fields

T = TypeVar("T")

TYPE_NAMES = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    Path: "a path",
    NoneType: "null",
    dict: "an object",
    tuple: "a list",
}


SHOWN = 500  # maximum characters of a value in a message


class ConfigError(ValueError):
    """A config has an unknown field or an invalid value; the message has its path."""


class Choice:
    """Base of a dataclass that stands for any of its subclasses: a field annotated with it holds
    one of them, named in "type"."""


def to_json(config: object) -> dict[str, Any]:
    """Return a dataclass as plain JSON values; raise ConfigError for a value without JSON form."""
    if not is_dataclass(config) or isinstance(config, type):
        raise ConfigError(f"expected a dataclass, got {config!r}")
    return _plain(config, "", named=False)


def from_json(cls: type[T], data: object) -> T:
    """Return the dataclass, or member of a union, that `to_json` wrote; else raise ConfigError."""
    return _value(cls, data, "")


def with_fields(config: T, changes: Mapping[str, object]) -> T:
    """Return a copy with fields replaced; raise ConfigError for unknown names, invalid values."""
    _reject_unknown(type(config), changes, "")
    try:
        return replace(config, **changes)  # pyrefly: ignore
    except ValueError as error:
        raise ConfigError(str(error)) from error


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint for a message about an unknown name: the closest known name, or all."""
    names = list(known)
    if len(name) > SHOWN:
        return ""
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; choose among {', '.join(names)}"


def _shown(value: object) -> str:
    """A value in a message: of a damaged file, it may be megabytes long or nested without end."""
    try:
        text = repr(value)
    except RecursionError:
        return "a value nested too deeply"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _plain(value: Any, path: str, *, named: bool) -> Any:
    """Return a value as plain JSON; `named`: whether a dataclass gets a "type"."""
    if is_dataclass(value):
        hints = get_type_hints(type(value))
        type_name = {"type": type(value).__name__} if named else {}
        return type_name | {
            name: _plain(getattr(value, name), _join(path, name), named=_is_choice(hints[name]))
            for name in _fields(type(value))
        }
    if isinstance(value, tuple | list):
        return [_plain(item, f"{path}[{i}]", named=named) for i, item in enumerate(value)]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _plain(item, _join(path, key), named=named) for key, item in value.items()}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{path}: {value} is not finite")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ConfigError(f"{path}: {value!r} has no form in JSON")


def _is_choice(hint: Any) -> bool:
    """Return whether an annotation allows several dataclasses."""
    args = get_args(hint)
    if _is_open(hint):
        return True
    if get_origin(hint) in (Union, UnionType) and sum(map(is_dataclass, args)) > 1:
        return True
    return any(_is_choice(arg) for arg in args)


def _is_open(hint: Any) -> bool:
    return isinstance(hint, type) and Choice in hint.__bases__


def _subclasses(cls: Any) -> dict[str, Any]:
    """The dataclasses that a `Choice` stands for, by name."""
    below = [
        *cls.__subclasses__(),
        *(c for sub in cls.__subclasses__() for c in _subclasses(sub).values()),
    ]
    return {sub.__name__: sub for sub in below}


def _dataclass(cls: Any, data: Any, path: str) -> Any:
    prefix = f"{path}: " if path else ""
    if not isinstance(data, dict):
        raise ConfigError(f"{prefix}expected an object of {cls.__name__}, got {_shown(data)}")
    known = _fields(cls)
    if "type" not in known and data.get("type") == cls.__name__:
        data = {key: value for key, value in data.items() if key != "type"}
    data = current_fields(cls, data)
    _reject_unknown(cls, data, prefix)
    required = [
        name
        for name, field in known.items()
        if field.default is MISSING and field.default_factory is MISSING
    ]
    missing = [name for name in required if name not in data]
    if missing:
        raise ConfigError(f"{prefix}{cls.__name__} needs {', '.join(map(repr, missing))}")
    hints = get_type_hints(cls)
    values = {key: _value(hints[key], value, _join(path, key)) for key, value in data.items()}
    try:
        return cls(**values)
    except ValueError as error:
        raise ConfigError(f"{prefix}{error}") from error


def _reject_unknown(cls: Any, names: Iterable[Any], prefix: str) -> None:
    known = _fields(cls)
    for name in names:
        if name not in known:
            hint = nearest(str(name), known)
            raise ConfigError(f"{prefix}unknown field {_shown(name)} of {cls.__name__}{hint}")


def _fields(cls: Any) -> dict[str, Any]:
    """Return the fields that `cls(…)` takes."""
    return {field.name: field for field in fields(cls) if field.init}


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _value(hint: Any, data: Any, path: str) -> Any:
    origin = get_origin(hint)
    if _is_open(hint):
        return _choice(_subclasses(hint), data, path)
    if is_dataclass(hint):
        return _dataclass(hint, data, path)
    if origin in (Union, UnionType):
        return _union(hint, data, path)
    if origin is Literal:
        return _literal(get_args(hint), data, path)
    if origin is tuple:
        return _tuple(get_args(hint), data, path)
    if origin is dict:
        return _dict(get_args(hint), data, path)
    return _scalar(hint, data, path)


def _union(hint: Any, data: Any, path: str) -> Any:
    options = get_args(hint)
    if data is None and NoneType in options:
        return None
    classes: dict[str, Any] = {}
    for option in options:
        if is_dataclass(option):
            classes |= _subclasses(option) if _is_open(option) else {option.__name__: option}
    rest = [option for option in options if option is not NoneType and not is_dataclass(option)]
    if classes and (isinstance(data, dict) or not rest):
        return _choice(classes, data, path)
    if len(rest) == 1:
        return _value(rest[0], data, path)
    for option in sorted(rest, key=lambda option: type(data) is not option):
        try:
            return _value(option, data, path)
        except ConfigError:
            continue
    expected = " or ".join(
        TYPE_NAMES.get(get_origin(option) or option, str(option)) for option in rest
    )
    raise ConfigError(f"{path}: expected {expected}, got {_shown(data)}")


def _choice(classes: dict[str, Any], data: Any, path: str) -> Any:
    """Return one of several dataclasses, selected by "type"; optional if there is only one."""
    if len(classes) == 1:
        return _dataclass(next(iter(classes.values())), data, path)
    if not isinstance(data, dict) or "type" not in data:
        names = ", ".join(classes)
        raise ConfigError(
            f"{path}: expected an object whose 'type' is one of {names}, got {_shown(data)}"
        )
    name = data["type"]
    if name not in list(classes) and isinstance(name, str):
        name = TYPES.get(name, name)
    if name not in list(classes):
        raise ConfigError(f"{path}: unknown type {_shown(name)}{nearest(str(name), classes)}")
    return _dataclass(classes[name], data | {"type": name}, path)


def _literal(choices: tuple[Any, ...], data: Any, path: str) -> Any:
    if any(type(data) is type(choice) and data == choice for choice in choices):
        return data
    raise ConfigError(
        f"{path}: expected one of {', '.join(map(repr, choices))}, got {_shown(data)}"
    )


def _tuple(kinds: tuple[Any, ...], data: Any, path: str) -> tuple[Any, ...]:
    if not isinstance(data, list | tuple):
        raise ConfigError(f"{path}: expected a list, got {_shown(data)}")
    if kinds[1:] == (Ellipsis,):
        kinds = (kinds[0],) * len(data)
    if len(kinds) != len(data):
        raise ConfigError(f"{path}: expected {len(kinds)} values, got {len(data)}: {_shown(data)}")
    pairs = enumerate(zip(kinds, data, strict=True))
    return tuple(_value(kind, item, f"{path}[{i}]") for i, (kind, item) in pairs)


def _dict(kinds: tuple[Any, ...], data: Any, path: str) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected an object, got {_shown(data)}")
    return {
        _scalar(kinds[0], key, path): _value(kinds[1], item, f"{path}.{key}")
        for key, item in data.items()
    }


def _scalar(kind: Any, data: Any, path: str) -> Any:
    if kind is Path and isinstance(data, str):
        return Path(data)
    number = kind is float and isinstance(data, int | float) and not isinstance(data, bool)
    if number and abs(data) <= sys.float_info.max:
        return float(data)
    if number:
        raise ConfigError(f"{path}: {data} is not finite")
    if type(data) is kind:
        return data
    raise ConfigError(f"{path}: expected {TYPE_NAMES.get(kind, str(kind))}, got {_shown(data)}")
