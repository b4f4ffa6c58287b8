"""What docs/installing.md says: its lines as pip reads them, and what is imported when."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from tests.saved import networks

ROOT = Path(__file__).parents[1]
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
CPU = "https://download.pytorch.org/whl/cpu"


def page(name: str = "installing.md") -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def installs() -> list[list[str]]:
    """The words of every `pip install` of the page."""
    lines = re.findall(r"^pip install .*$", page(), re.MULTILINE)
    parts = [part for line in lines for part in line.split("&&")]
    return [shlex.split(part, comments=True) for part in parts]


def parsed(words: list[str]) -> tuple[Any, list[str]]:
    """What pip itself takes them for; it ends the process for what it does not know."""
    commands = pytest.importorskip("pip._internal.commands")
    assert words[:2] == ["pip", "install"]
    return commands.create_command("install").parse_args(words[2:])


def dependencies() -> dict[str, Requirement]:
    lines = PROJECT.partition("dependencies = [")[2].partition("]\n")[0]
    found = [Requirement(text) for text in re.findall(r'"(.+?)"', lines)]
    return {requirement.name: requirement for requirement in found}


def test_the_line_without_a_gpu_takes_torch_from_its_own_index_and_the_rest_from_the_usual_one():
    (first, what), (then, rest) = map(parsed, installs()[:2])
    assert first.index_url == CPU
    assert what == ["torch", "torchvision"]
    assert then.index_url != CPU  # nothing else is there
    assert rest == ["attnsurgeon"]
    assert {*what} <= dependencies().keys()


def test_what_the_first_half_brings_satisfies_the_second():
    for name in ("torch", "torchvision"):
        at_least = str(next(iter(dependencies()[name].specifier))).removeprefix(">=")
        assert dependencies()[name].specifier.contains(f"{at_least}.1+cpu")
    assert not dependencies()["torch"].specifier.contains("2.0.1+cpu")


def test_a_line_that_pip_does_not_know_would_be_found():
    with pytest.raises(SystemExit):
        parsed(["pip", "install", "torch", "--index-uri", CPU])


def test_every_extra_of_the_page_is_one():
    named = re.findall(r"\[(\w+)\]", "\n".join(re.findall(r"^pip install .*$", page(), re.M)))
    extras = re.findall(
        r"^(\w+) = \[", PROJECT.partition("optional-dependencies]")[2], re.MULTILINE
    )
    assert len(named) >= 7
    assert {*named} <= {*extras}


def test_the_page_names_the_first_and_the_last_python():
    minors = re.findall(r"Python :: 3\.(\d+)", PROJECT)
    assert f"Python 3.{minors[0]} to 3.{minors[-1]}." in page()
    assert f'requires-python = ">=3.{minors[0]}"' in PROJECT


def test_the_pins_of_the_oldest_are_those_of_the_project():
    pytest.importorskip("tomllib")  # of Python 3.11
    script = (ROOT / ".ci" / "bounds").read_text(encoding="utf-8")
    code = re.search(r"<<'PY'\n(.*?)^PY$", script, re.DOTALL | re.MULTILINE)
    assert code

    def declared(what: str) -> list[str]:
        run = [sys.executable, "-c", code[1], what]
        return subprocess.check_output(run, cwd=ROOT, text=True).split()

    pins = dict(line.split("==") for line in declared("pins"))
    for name, requirement in dependencies().items():
        assert f">={pins[name]}" == str(requirement.specifier)
    assert "pytest" not in pins  # pinned already
    assert declared("pythons") == ["3.10", "3.13"]


WITHOUT = """
import sys
for name in ("timm", "torchvision"):
    sys.modules[name] = None
import attnsurgeon
operation = attnsurgeon.insert(attnsurgeon.load_model("own_net.py:make"), "eca", "conv",
                               input_size=(3, 20, 28))
assert operation.verify().problems == ()
attnsurgeon.load(operation.save("out"), trust=True)
print(len(operation.plan))
try:
    attnsurgeon.load_model("resnet18")
except ImportError:
    print("timm")
"""


@pytest.mark.slow
def test_a_network_of_ones_own_needs_neither_timm_nor_torchvision(tmp_path):
    networks.write(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], cwd=tmp_path, capture_output=True, text=True,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    count, refused = done.stdout.split()
    assert int(count) > 0
    assert refused == "timm"
