"""The library speaks the field's words: no banned identifier, and every option has a help text that
stands alone."""

import ast
import dataclasses
import re
import typing
from pathlib import Path

import pytest
from tyro._docstrings import get_field_docstring

import patchpack
from patchpack.cli.compare import Compare
from patchpack.cli.convert import Convert
from patchpack.cli.demo import Demo
from patchpack.cli.embed import Embed
from patchpack.cli.eval import EvalOptions
from patchpack.cli.inspect import Inspect
from patchpack.cli.predict import PredictOptions
from patchpack.cli.search import Search
from patchpack.config import RunConfig

SOURCE = Path(patchpack.__file__).parent
BANNED = {
    "judge", "judged", "told", "said", "tell", "asked", "alone", "mine", "theirs", "there", "found",
    "place", "many", "some", "own", "lot", "todo", "trunk", "alter",
}  # fmt: skip


def identifiers(tree: ast.Module) -> set[str]:
    """Names that a file defines: variables, arguments, attributes, functions, classes."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.id if isinstance(node, ast.Name) else node.attr)
    return names


def test_no_identifier_is_banned():
    wrong = [
        f"{path.relative_to(SOURCE)}: {', '.join(sorted(used))}"
        for path in sorted(SOURCE.rglob("*.py"))
        if (used := BANNED & {n.strip("_") for n in identifiers(ast.parse(path.read_text()))})
    ]
    assert not wrong


def dataclasses_in(hint: object) -> set[type]:
    """The dataclasses that an annotation may hold, and those of their fields."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        hints = typing.get_type_hints(hint)
        below = [dataclasses_in(hints[f.name]) for f in dataclasses.fields(hint) if f.init]
        return {hint}.union(*below)
    return set().union(*map(dataclasses_in, typing.get_args(hint)))


VERBS = (RunConfig, Convert, Inspect, EvalOptions, Compare, PredictOptions, Embed, Search, Demo)
OPTIONS = sorted(set().union(*map(dataclasses_in, VERBS)), key=lambda cls: cls.__qualname__)


@pytest.mark.parametrize("cls", OPTIONS, ids=lambda cls: cls.__name__)
def test_every_option_has_a_help_text_that_stands_alone(cls):
    for field in dataclasses.fields(cls):
        text = get_field_docstring(cls, field.name, ())
        assert text, f"{cls.__name__}.{field.name} has no help text"
        assert not re.match(r"(of|…|as in|for these)\b", text.strip()), f"{field.name}: {text}"
        assert "…" not in text[-2:], f"{field.name}: {text}"
