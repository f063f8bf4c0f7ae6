"""The house: who may import whom, no cycles, and the limits that keep files small."""

import ast
import subprocess
import sys
from pathlib import Path

import patchpack

SOURCE = Path(patchpack.__file__).parent
FILES = {"printable", "regular_files", "terminal", "writing"}  # any room reads, writes, prints
MAY_IMPORT: dict[str, set[str]] = {
    "batch": set(),
    "losses": set(),
    "distributed": set(),
    "old_names": set(),
    **{name: {"printable"} for name in FILES},
    "manifest": FILES,
    "serialization": {"old_names"},
    "checkpoint": {"old_names", "manifest"} | FILES,
    "data": {"batch"} | FILES,
    "model": {"batch", "serialization"},
    "metrics": {"batch", "data"},
    "visualize": {"batch", "data", "metrics"} | FILES,
    "train": {
        "batch", "data", "metrics", "losses", "distributed", "checkpoint", "serialization",
    } | FILES,
    "inference": {
        "batch", "data", "model", "checkpoint", "manifest", "serialization", "old_names",
    } | FILES,
    "tasks": {
        "batch", "losses", "distributed", "old_names", "serialization", "checkpoint", "data",
        "model", "metrics", "visualize", "inference",
    } | FILES,
}  # fmt: skip
BELOW = {*MAY_IMPORT}
MAY_IMPORT |= {
    "config": BELOW,
    "pretrained": BELOW | {"config"},
    "loading": BELOW | {"pretrained"},
    "continuation": BELOW | {"config"},
    "run": BELOW | {"config", "pretrained", "continuation"},
    "evaluation": BELOW | {"pretrained", "loading", "run"},
    "demo": BELOW | {"config", "loading", "run", "evaluation"},
    "cli": BELOW | {"config", "pretrained", "loading", "run", "evaluation", "demo"},
    "__main__": {"cli"},
    "__init__": BELOW | {"loading"},
}
LONGEST_FILE = 400
LONGEST_FUNCTION = 80


def modules() -> dict[str, ast.Module]:
    return {
        path.relative_to(SOURCE).with_suffix("").as_posix(): ast.parse(path.read_text())
        for path in sorted(SOURCE.rglob("*.py"))
    }


def imports(tree: ast.Module) -> set[str]:
    """Modules of ours that are imported anywhere in a file, as paths."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("patchpack."):
            found.add(node.module.removeprefix("patchpack.").replace(".", "/"))
        if isinstance(node, ast.Import):
            found |= {
                alias.name.removeprefix("patchpack.").replace(".", "/")
                for alias in node.names
                if alias.name.startswith("patchpack.")
            }
    return found


def test_arrows_point_one_way():
    wrong = []
    for name, tree in modules().items():
        room = name.split("/")[0]
        for target in imports(tree):
            other = target.split("/")[0]
            if other != room and other not in MAY_IMPORT[room]:
                wrong.append(f"{name} imports {target}")
    assert not wrong


def test_there_are_no_cycles():
    graph = {name: imports(tree) for name, tree in modules().items()}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " → ".join((*path, name))
        if name not in done:
            for target in graph.get(name, ()):
                visit(target, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_files_and_functions_stay_small():
    for name, tree in modules().items():
        assert len((SOURCE / f"{name}.py").read_text().splitlines()) <= LONGEST_FILE, name
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                assert length <= LONGEST_FUNCTION, f"{name}.{node.name}: {length} lines"


def test_every_file_says_what_it_promises():
    empty = {"data/__init__", "model/__init__", "train/__init__"}
    for name, tree in modules().items():
        assert ast.get_docstring(tree) or name in empty, name


def test_no_file_is_a_drawer_for_everything():
    drawers = {"utils", "util", "common", "helpers", "misc"}
    assert not [name for name in modules() if name.split("/")[-1] in drawers]


def test_importing_the_package_loads_no_torch():
    import subprocess
    import sys

    program = "import sys, patchpack; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_public_names_exist():
    for name in patchpack.__all__:
        assert getattr(patchpack, name) is not None
    assert set(patchpack.__all__) <= set(dir(patchpack))
    imported = ast.walk(ast.parse((SOURCE / "__init__.py").read_text()))
    typed = {a.asname for node in imported if isinstance(node, ast.ImportFrom) for a in node.names}
    assert typed - {None} == set(patchpack.__all__)


def test_the_command_starts_without_what_only_reports_need():
    """matplotlib, tokenizers and scikit-learn are extras."""
    code = "import sys, patchpack.cli; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    extras = {"matplotlib", "tokenizers", "sentencepiece", "sklearn", "scipy", "tensorboard"}
    assert not extras & set(found.stdout.split())
