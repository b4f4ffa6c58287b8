"""Every example runs, and each asserts its own claim."""

import runpy
from pathlib import Path

import pytest

pytestmark = pytest.mark.filterwarnings("ignore:`get_trial_id`:UserWarning")  # of Ray beside YOLO
EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


FAST = ("several_rules", "where_to_put_it")
NEEDED = {  # example -> the extras it shows
    "heat_map_beside_grad_cam": ["matplotlib", "pytorch_grad_cam"],
    "adapters_beside_attention": ["peft"],
    "sweep_variants": ["ray.tune"],
    "train_a_yolo": ["ultralytics"],
    "train_with_accelerate": ["accelerate"],
    "train_with_lightning": ["lightning"],
    "train_with_transformers": ["transformers", "accelerate"],
}


@pytest.mark.parametrize(
    "path",
    [pytest.param(p, marks=() if p.stem in FAST else pytest.mark.slow) for p in EXAMPLES],
    ids=lambda path: path.stem,
)
def test_example_runs_and_asserts_its_claim(path, capsys):
    for package in NEEDED.get(path.stem, []):
        pytest.importorskip(package)
    assert "assert " in path.read_text()
    runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out


def test_there_are_examples_to_run():
    assert len(EXAMPLES) >= 6
    assert {path.stem for path in EXAMPLES} >= set(FAST)


def test_an_example_whose_claim_is_false_fails(tmp_path):
    (source,) = [path.read_text() for path in EXAMPLES if path.stem == "your_own_network"]
    broken = tmp_path / "broken.py"
    broken.write_text(source.replace("torch.equal(operated(x)", "not torch.equal(operated(x)"))
    with pytest.raises(AssertionError):
        runpy.run_path(str(broken), run_name="__main__")
