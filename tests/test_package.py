"""What is installed is what was written."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import attnsurgeon
from attnsurgeon.rules.placements import shipped_names
from tests import distribution

ROOT = Path(__file__).parents[1]


METADATA = "\n".join(f"{name}: {value}" for name, value in distribution.METADATA.items())
COMMAND = "[console_scripts]\nattnsurgeon = attnsurgeon.cli:main\n"
LICENCE = "attnsurgeon-1.dist-info/licenses/LICENSE"


@pytest.mark.slow
def test_the_wheel_carries_the_package_with_its_rules_and_types_and_nothing_else(tmp_path):
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
        names = archive.namelist()
        texts = {Path(n).name: archive.read(n).decode() for n in names if ".dist-info/" in n}
    found = distribution.wheel_problems(names, texts["METADATA"], texts["entry_points.txt"])
    assert found == []


def test_a_wheel_is_what_the_package_is():
    expected = distribution.expected()
    assert {"attnsurgeon/py.typed", "attnsurgeon/rules/shipped/bottleneck.yaml"} <= expected
    assert "attnsurgeon/report/templates/base.html" in expected
    names = [*expected, LICENCE]
    assert distribution.wheel_problems(names, METADATA, COMMAND) == []
    for lost in ("attnsurgeon/py.typed", "attnsurgeon/rules/shipped/stem.yaml"):
        found = distribution.wheel_problems({*names} - {lost}, METADATA, COMMAND)
        assert found == [f"the wheel lacks {lost}"]
    more = [*names, "tests/test_package.py"]
    assert distribution.wheel_problems(more, METADATA, COMMAND) == [f"the wheel has {more[-1]}"]
    assert distribution.wheel_problems(expected, METADATA, COMMAND) == ["no licence"]
    assert distribution.wheel_problems(names, METADATA, "") == ["no command"]
    other = METADATA.replace("Apache-2.0", "MIT")
    assert len(distribution.wheel_problems(names, other, COMMAND)) == 1


def test_an_sdist_is_complete_and_light():
    package = [n for n in distribution.expected() if "/shipped/" not in n]
    rules = [f"rules/{file.name}" for file in (ROOT / "rules").glob("*")]
    top = ["pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "PKG-INFO"]
    sizes = dict.fromkeys([*package, *rules, *top], 100)
    assert distribution.sdist_problems(sizes) == []
    assert distribution.sdist_problems({n: 1 for n in sizes if n != rules[0]}) == [
        f"the sdist lacks {rules[0]}"
    ]
    heavy = {**sizes, "tests/saved/written/0.1.zip": 3_763_008}
    assert len(distribution.sdist_problems(heavy)) == 2


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
