"""Python that the tool prints runs as it is printed: in the terminal, the page, the card, hints."""

import ast
import html
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import attnsurgeon as library
from tests.cli.command import attnsurgeon
from tests.saved import networks
from tests.test_readme import blocks

PACKAGE = Path(library.__file__).parent
SIZE = ["--input-size", "3,20,28"]


ZOO = """

class Zoo:
    @classmethod
    def named(cls, name="net"):
        return make()
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with a network in a file, weights for it elsewhere, and a copy beside it."""
    monkeypatch.chdir(tmp_path)
    networks.write(tmp_path)
    (tmp_path / "zoo.py").write_text(f"{networks.FILE}{ZOO}")
    (tmp_path / "weights").mkdir()
    state = library.load_model("own_net.py:make").state_dict()
    torch.save(state, tmp_path / "weights" / "base.pth")
    return tmp_path


def terminal(out: str) -> str:
    """The lines that follow what was saved, without their indentation."""
    after = out[out.index("saved to") :].splitlines()[1:]
    return "\n".join(line.removeprefix("    ") for line in after)


def page(folder: str) -> str:
    assert attnsurgeon("report", folder, "--html", "report.html").code == 0
    text = Path("report.html").read_text()
    code = re.search(r'"Python to go on with"><code>(.*?)</code></pre>', text, re.DOTALL)
    assert code
    return html.unescape(re.sub(r"<[^>]*>", "", code[1]))  # without its colours


def card(folder: str) -> str:
    code = re.search(r"^```python\n(.*?)^```$", (Path(folder) / "README.md").read_text(),
                     re.DOTALL | re.MULTILINE)  # fmt: skip
    assert code
    return code[1]


def run(code: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "printed"}
    exec(compile(code, "printed", "exec"), names)
    return names


CASES = {
    "all weights of a name": ["test_resnet", "--attn", "se", "--where", "residual-branch"],
    "all weights of your own code": ["own_net.py:make", *SIZE, "--attn", "se"],
    "its arguments": ["own_net.py:make", *SIZE, "--attn", "se", "--model-arg", "width=32"],
    "code that a folder may not have run": ["zoo.py:Zoo.named", *SIZE, "--attn", "se"],
    "code of a module that a folder may not have run": [
        "zoo:Zoo.named", *SIZE, "--attn", "se", "--checkpoint", "weights/base.pth",
    ],
    "an adapter on code that a folder may not have run": [
        "zoo.py:Zoo.named", *SIZE, "--attn", "se", "--model-arg", "name=it's",
        "--checkpoint", "weights/base.pth", "--save", "adapter",
    ],
    "your own attention": ["test_resnet", "--attn", "own_net.py:Block"],
    "your own attention in your own network": [
        "own_net.py:make", *SIZE, "--attn", "own_net.py:Block", "--arg", "channels=$C",
    ],
    "an adapter on a checkpoint": [
        "own_net.py:make", *SIZE, "--attn", "se",
        "--checkpoint", "weights/base.pth", "--save", "adapter",
    ],
    "an adapter on published weights": [
        "own_net.py:published", *SIZE, "--attn", "se", "--pretrained", "--save", "adapter",
    ],
    "attention without parameters": [
        "own_net.py:make", *SIZE, "--attn", "simam", "--init", "paper",
    ],
    "a checkpoint of which all weights are saved": [
        "own_net.py:make", *SIZE, "--attn", "se", "--checkpoint", "weights/base.pth",
    ],
    "a file with a quote in its name": [
        "own_net.py:make", *SIZE, "--attn", "se",
        "--checkpoint", "weights/it's.pth", "--save", "adapter",
    ],
}  # fmt: skip


each_case = pytest.mark.parametrize(
    "case",
    [pytest.param(c, marks=pytest.mark.slow if at % 3 else ()) for at, c in enumerate(CASES)],
)


@each_case
def test_what_is_printed_after_an_operation_runs_as_it_is_printed(here, case):
    if case == "a file with a quote in its name":
        (here / "weights" / "base.pth").rename(here / "weights" / "it's.pth")
    done = attnsurgeon("insert", *CASES[case], "-o", "out")
    assert done.code == 0, done.err
    names = run(terminal(done.out))
    frozen = [name for name, p in names["model"].named_parameters() if not p.requires_grad]
    assert bool(frozen) is (case != "attention without parameters")
    # A whole pretrained network gets a lower rate than what is new alone.
    rate = 1e-4 if case == "attention without parameters" else 1e-3
    assert {group["lr"] for group in names["optimizer"].param_groups} == {rate}
    assert library.audit(names["model"], input_size=(3, 20, 28)).ok


@pytest.mark.parametrize("init", ["paper", "identity"])
def test_a_start_as_published_is_told_how_its_norms_get_the_new_scale(here, init):
    words = ["test_resnet", "--attn", "se", "--where", "residual-branch", "--init", init]
    done = attnsurgeon("insert", *words, "-o", "out")
    code = terminal(done.out)
    recalibrates = re.compile(r"^# (attnsurgeon\.recalibrate_norms\(.*)$", re.MULTILINE)
    found = recalibrates.findall(code)
    assert len(found) == (init == "paper")
    if found:  # and it runs once there is a loader
        loader = f"loader = [(torch.randn(2, 3, 64, 64), 0)]\n{found[0]}"
        names = run(recalibrates.sub(lambda _: loader, code))
        assert names["model"].bn1.num_batches_tracked == 1


@each_case
def test_the_page_and_the_card_of_a_folder_run_as_they_stand(here, case):
    if case == "a file with a quote in its name":
        (here / "weights" / "base.pth").rename(here / "weights" / "it's.pth")
    assert attnsurgeon("insert", *CASES[case], "-o", "out").code == 0
    for file in (here / "weights").iterdir():  # a folder knows the name, not where the file was
        file.rename(here / file.name)
    for code in (page("out"), card("out")):
        assert library.audit(run(code)["model"], input_size=(3, 20, 28)).ok


def test_json_says_how_to_load_what_was_saved_and_nothing_where_nothing_was(here):
    adapter = CASES["an adapter on a checkpoint"]
    record = attnsurgeon("insert", *adapter, "-o", "out", "--json").json()
    names = run(f"import attnsurgeon\n{record['load']}")
    assert library.audit(names["model"], input_size=(3, 20, 28)).ok
    unsaved = ["insert", "own_net.py:make", *SIZE, "--attn", "se", "--json"]
    assert attnsurgeon(*unsaved).json()["load"] is None


def test_a_base_that_nobody_can_name_is_what_the_card_says_it_is(here):
    model = library.load_model("own_net.py:make")
    del model.__dict__["_attnsurgeon_source"]
    library.insert(model, "se", "residual-branch", input_size=(3, 20, 28)).save("out")
    code = card("out")
    with pytest.raises(NameError, match="base"):
        run(code)
    made = run(f"import attnsurgeon\nbase = attnsurgeon.load_model('own_net.py:make')\n{code}")
    assert library.audit(made["model"], input_size=(3, 20, 28)).ok
    said = (here / "out" / "README.md").read_text()
    assert re.search(r"`base` is the \S*Net that was operated", said)


# ------------------------------------------------------------------ the recipe of two phases


def moved_by(model: Any, optimizer: Any) -> set[str]:
    """Trains two steps; returns which values changed."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for seed in (1, 2):
        optimizer.zero_grad()
        x = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(seed))
        model.train()(x).square().mean().backward()
        optimizer.step()
    return {
        name for name, value in model.state_dict().items() if not torch.equal(value, before[name])
    }


RECIPES = [("README.md", 0), ("docs/python.md", 1)]


@pytest.mark.parametrize(
    ("name", "at"),
    [RECIPES[0], *(pytest.param(*other, marks=pytest.mark.slow) for other in RECIPES[1:])],
    ids=[name for name, _ in RECIPES],
)
def test_the_recipe_moves_what_is_new_and_then_everything(name, at):
    code = blocks(name, "python")[at]
    phases: list[tuple[set[str], dict[str, set[float]]]] = []

    def train(model: Any, optimizer: Any) -> None:
        if not phases:
            networks.randomise(model)  # a norm that starts at zero lets nothing through
        rates: dict[str, set[float]] = {}
        for group in optimizer.param_groups:
            rates.setdefault(group["name"].partition(".")[0], set()).add(group["lr"])
        phases.append((moved_by(model, optimizer), rates))

    recipe, count = re.subn(r"^\.\.\.  #", "train(model, optimizer)  #", code, flags=re.MULTILINE)
    assert count == 2
    names: dict[str, Any] = {"__name__": "recipe", "train": train}
    exec(compile(recipe, name, "exec"), names)
    every = set(names["model"].state_dict())
    (first, slow), (second, both) = phases
    assert first == {key for key in every if ".attn." in key}
    assert second == every
    assert slow == {"new": {1e-3}}
    assert both == {"base": {1e-4}, "new": {1e-3}}


def test_an_optimizer_of_the_first_phase_would_not_have_moved_the_rest():
    model = library.insert(library.load_model("test_resnet"), "se", "residual-branch").model
    networks.randomise(model)
    library.freeze_backbone(model)
    optimizer = torch.optim.AdamW(library.param_groups(model, 1e-3))
    library.unfreeze(model)
    moved = moved_by(model, optimizer)
    assert not {key for key in moved if ".attn." not in key and "running" not in key
                and "batches" not in key}  # fmt: skip


# ------------------------------------------------------------------ Python inside messages


def calls_in_messages() -> list:
    """Every call of a public function that stands in a text of the package, as `ast` reads it."""
    public = {name for name in library.__all__ if inspect.isfunction(getattr(library, name))}
    found = []
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
                continue
            for match in re.finditer(
                r"(?<![\w.])(?:attnsurgeon\.)?(\w+)\(([^()\n]*)\)", node.value
            ):
                if match[1] in public:
                    where = f"{file.relative_to(PACKAGE)}:{node.lineno}"
                    found.append(pytest.param(match[1], match[2], id=f"{where} {match[0]}"))
    return found


@pytest.mark.parametrize(("name", "arguments"), calls_in_messages())
def test_a_call_in_a_message_is_one_that_the_function_takes(name, arguments):
    text = arguments.replace("...", "_").replace("**", "_=").rstrip(", ")
    call = ast.parse(f"f({text})", mode="eval").body
    assert isinstance(call, ast.Call)
    signature = inspect.signature(getattr(library, name))
    words = {word.arg: None for word in call.keywords if word.arg not in (None, "_")}
    places = [a for a in call.args if not (isinstance(a, ast.Name) and a.id == "_")]
    signature.bind_partial(*places, **words)


def test_there_are_such_calls_and_a_wrong_one_is_found():
    assert len(calls_in_messages()) > 15
    with pytest.raises(TypeError, match="unexpected keyword"):
        test_a_call_in_a_message_is_one_that_the_function_takes("load", "path, models=base")
