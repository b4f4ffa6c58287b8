"""What is installed is what was written."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import attnsurgeon
from attnsurgeon.rules.placements import shipped_names

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_wheel_carries_the_rules_the_types_and_the_command(tmp_path):
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "-w",
        str(tmp_path),
        str(ROOT),
    ]
    done = subprocess.run(build, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (points,) = [archive.read(n).decode() for n in names if n.endswith("entry_points.txt")]
    pages = ROOT / "attnsurgeon/report/templates"
    templates = {f"attnsurgeon/report/templates/{path.name}" for path in pages.iterdir()}
    assert "attnsurgeon/report/templates/base.html" in templates
    rules = {f"attnsurgeon/rules/shipped/{path.name}" for path in (ROOT / "rules").glob("*.yaml")}
    assert rules <= names
    assert {"attnsurgeon/py.typed", *templates} <= names
    assert "attnsurgeon = attnsurgeon.cli:main" in points
    ours = ("tests/", "benchmarks/", "pictures/", "docs/", "examples/")
    assert not [name for name in names if name.startswith(ours)]


def test_every_rule_file_at_the_top_level_is_a_placement():
    files = {path.stem for path in (ROOT / "rules").glob("*.yaml")}
    assert files == set(shipped_names()) - {"paper"}


def test_every_public_name_is_there():
    assert [name for name in attnsurgeon.__all__ if not hasattr(attnsurgeon, name)] == []


def test_no_module_has_the_name_of_a_public_function():
    package = ROOT / "attnsurgeon"
    taken = [name for name in attnsurgeon.__all__ if (package / f"{name}.py").exists()]
    assert taken == []


def test_importing_the_package_does_not_import_torch():
    code = "import sys, attnsurgeon; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
    code = "import sys, attnsurgeon; attnsurgeon.plan; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 1
