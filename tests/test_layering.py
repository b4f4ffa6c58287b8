"""Imports run down the floors only, and each outside library has one door."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "attnsurgeon"
# Lowest first; names on one line may import one another in the order given.
_LAYERS = """
    version errors garbage plain sizes attention sites
    randomness caches meta models record shape_only memory trace passing flow layouts
    tokens residuals trunk finder analysis
    retype alignment proxies symbolic modes shallow likeness places
    rebuilders cuts steps values deciding
    rules selection planning parts passage configs splice
    cost auditing learning verify saved save depth
    operate replay restore integrations folding finetune exporting checkup
    report cli __init__ __main__
"""
FLOORS: list[str] = [*_LAYERS.split()]
DOORS = {
    "timm": "models",
    "torchvision": "models",
    "ultralytics": ("models", "integrations"),
    "transformers": ("models", "integrations"),
    "yaml": "rules",
    "pydantic": "rules",
    "fvcore": "cost",
    "rich": "report",
    "click": "cli",
    "safetensors": ("saved", "models"),
}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if "shipped" not in path.parts)


def floor_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_names(source: str, *, at_run_time_only: bool = True) -> set[str]:
    tree = ast.parse(source)
    hidden: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            hidden.update(inner for statement in node.body for inner in ast.walk(statement))
    nodes = [n for n in ast.walk(tree) if not (at_run_time_only and n in hidden)]
    plain = {alias.name for n in nodes if isinstance(n, ast.Import) for alias in n.names}
    return plain | {n.module or "" for n in nodes if isinstance(n, ast.ImportFrom)}


def breaches(floor: str, names: set[str]) -> list[str]:
    found = []
    for name in sorted(names):
        top, _, rest = name.partition(".")
        if top == "attnsurgeon" and rest:
            other = rest.split(".")[0]
            if FLOORS.index(other) > FLOORS.index(floor):
                found.append(f"{floor} imports {name}, which is above it")
        doors = DOORS.get(top, floor)
        if floor not in ((doors,) if isinstance(doors, str) else doors):
            found.append(f"{floor} imports {top}, whose door is {doors}")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path):
    assert breaches(floor_of(path), imported_names(path.read_text(encoding="utf-8"))) == []


def test_every_file_has_a_floor():
    assert sorted({floor_of(path) for path in FILES} - set(FLOORS)) == []


def test_this_check_can_fail():
    assert breaches("trace", imported_names("from attnsurgeon.cli import main")) != []
    assert breaches("trace", imported_names("def f():\n    import click")) != []
    assert breaches("cost", imported_names("from attnsurgeon.splice import MARK")) == []
