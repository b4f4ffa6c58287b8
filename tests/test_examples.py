"""Every example runs, and each asserts its own claim."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs_and_asserts_its_claim(path):
    assert "assert " in path.read_text()
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_there_are_examples_to_run():
    assert len(EXAMPLES) >= 5


def test_an_example_whose_claim_is_false_fails(tmp_path):
    broken = tmp_path / "broken.py"
    source = (Path(__file__).parents[1] / "examples" / "price_before_training.py").read_text()
    broken.write_text(source.replace('["eca"].delta.params == 86', '["eca"].delta.params == 87'))
    done = subprocess.run([sys.executable, broken], capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
