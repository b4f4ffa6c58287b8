"""Networks written out as Python: run in a process without attnsurgeon, compared bit for bit."""

import ast
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from attnsurgeon import freeze_backbone, insert, load_model, mechanisms
from attnsurgeon.checks.verify import randomise_norms
from attnsurgeon.errors import CheckFailed, ModelError, RuleError, UsageError
from attnsurgeon.exporting.code import writing
from attnsurgeon.exporting.code.names import free_names
from attnsurgeon.exporting.code.running import Ran, run_all
from attnsurgeon.exporting.code.writing import difference, drafted
from attnsurgeon.exporting.exports import export

NETWORK = "benchmarks/portability/network.py:Network"
NETWORKS = {"attention-gate": "benchmarks/portability/network.py:Segmenter"}  # for skips
SIZE = (3, 32, 24)
INITS = ("identity", "paper")
pytestmark = pytest.mark.slow  # written files run in a process of their own


def operated(spec, attn, where=None, *, init="identity", size=SIZE, **args):
    """An operated network with every weight moved, so that no term of it vanishes."""
    model = load_model(spec, **args)
    try:
        model = insert(model, attn, where, init=init, input_size=size, inplace=True).model
    except RuleError:  # its authors' place is in other networks
        model = insert(model, attn, "residual-branch", init=init, input_size=size).model
    randomise_norms(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def differences(models, folder, size=SIZE):
    """Writes networks, runs all in one process without attnsurgeon, says what differs."""
    files, folders = [], set()
    for name, model in models.items():
        draft = drafted(model, stem=name)
        (folder / f"{name}.py").write_text(draft.text)
        save_file(dict(draft.state), folder / f"{name}.safetensors")
        files.append(folder / f"{name}.py")
        folders |= {*draft.folders}
    x = {"x": torch.randn(2, *size, generator=torch.Generator().manual_seed(0))}
    threads = torch.get_num_threads()
    made = run_all(files, x, folder, path=sorted(folders), threads=threads)
    found = {}
    for (name, model), ran in zip(models.items(), made, strict=True):
        found[name] = ran if isinstance(ran, str) else difference(model, ran, x)
    return {name: why for name, why in found.items() if why}


def clean(files):
    """What ruff has to say of files, under its defaults and under a strict choice."""
    ruff = [sys.executable, "-m", "ruff"]
    strict = ["--isolated", "--select", "E4,E7,E9,F,I,UP,B,C4,SIM"]
    said = ""
    for command in (
        ["check", "--isolated"],
        ["check", *strict],
        ["format", "--isolated", "--check"],
    ):
        done = subprocess.run(
            [*ruff, *command, *files],
            cwd=files[0].parent,  # what lies there comes last among the imports
            capture_output=True,
            text=True,
            check=False,
        )
        said += done.stdout if done.returncode else ""
    return said


@pytest.fixture
def file(tmp_path):
    return tmp_path / "resnet_cbam.py"


def test_the_names_that_a_definition_uses_are_those_that_nothing_in_it_binds():
    source = """
@wrapped(option)
def f(a: Kind, *rest, b=default) -> Made:
    import inside
    x = a + outer + [y for y in ys if y][0]
    def g(z):
        return z + x + second + inside.thing
    return lambda w: w + third(x)
"""
    used = [name.id for name in free_names(ast.parse(source).body[0])]
    expected = {"wrapped", "option", "Kind", "default", "Made", "outer", "ys", "second", "third"}
    assert {*used} == expected


def test_a_class_hides_its_names_from_its_methods_alone():
    source = "class A(Base):\n    x = first\n    y = x\n    def f(self):\n        return x\n"
    used = [name.id for name in free_names(ast.parse(source).body[0])]
    assert used == ["Base", "first", "x"]  # that of the method; that of the class is its own


CUTS = {
    "cbam": ("cbam", "identity"),  # a forward that was written anew
    "sk": ("sk", "paper"),  # in the place of a convolution and its norm
    "dia": ("dia", "identity"),  # one module at all places of a chain
    "csra": ("csra", "identity"),  # taps
}


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """One process for all: a folder of files, and of each what differs or what it raised."""
    folder = tmp_path_factory.mktemp("written")
    models = {name: operated(NETWORK, attn, init=init) for name, (attn, init) in CUTS.items()}
    models |= {"whole": models["cbam"], "changed": models["cbam"]}
    texts = {name: drafted(model, stem=name) for name, model in models.items()}
    texts["whole"] = drafted(models["whole"], stem="whole", inline=True)
    for name, draft in texts.items():
        text = draft.text
        if name == "changed":
            text = text.replace("gain = 2.0", "gain = 1.5")
        (folder / f"{name}.py").write_text(text)
        save_file(dict(draft.state), folder / f"{name}.safetensors")
    (folder / "uses.py").write_text("import attnsurgeon\n")
    shutil.copy(NETWORK.partition(":")[0], folder)  # what it imports has a place of its own
    x = {"x": torch.randn(2, *SIZE)}
    files = [folder / f"{name}.py" for name in [*models, "uses"]]
    own, threads = texts["cbam"].folders, torch.get_num_threads()
    *made, uses = run_all(files, x, folder, path=own, threads=threads)
    found = {
        name: ran if isinstance(ran, str) else difference(model, ran, x)
        for (name, model), ran in zip(models.items(), made, strict=True)
    }
    return folder, texts, {**found, "uses": uses}


@pytest.mark.parametrize("name", CUTS)
def test_a_written_network_is_the_operated_one(together, name):
    folder, _, found = together
    assert found[name] is None
    assert "attnsurgeon" not in (folder / f"{name}.py").read_text()


def test_ruff_has_nothing_to_say(together):
    assert clean([together[0] / f"{name}.py" for name in (*CUTS, "whole")]) == ""


def test_a_difference_is_found(together):
    assert together[2]["changed"].startswith("eval.x.0 is off by")


def test_the_process_has_no_attnsurgeon(together):
    assert together[2]["uses"].startswith("ModuleNotFoundError: import of attnsurgeon")


def test_a_file_of_yours_is_imported_or_written_out(together):
    _, texts, found = together
    assert found["whole"] is None
    assert "class Network" in texts["whole"].text
    assert texts["whole"].folders == ()
    assert "class Network" not in texts["cbam"].text
    assert [folder.name for folder in texts["cbam"].folders] == ["portability"]


def test_what_is_written_reads_as_written_by_hand(together):
    text = together[1]["cbam"].text
    tree = ast.parse(text)
    kinds = {n.name: n for n in tree.body if isinstance(n, ast.ClassDef)}
    assert "s = sigmoid(batchnorm(conv_k(" in ast.get_docstring(kinds["CBAM"])
    assert [base.id for base in kinds["BlockWithCBAM"].bases] == ["Block"]
    assert "from network import Block, Network" in text
    build = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "build")
    assert 'for path, channels in (\n        ("stage1.0", 64),' in ast.get_source_segment(
        text, build
    )
    assert "= None" not in ast.get_source_segment(text, kinds["BlockWithCBAM"])


def test_what_runs_and_is_another_network_is_not_kept(file, monkeypatch):
    monkeypatch.setattr(writing, "run", lambda *given, **how: Ran(("stem.0.weight",), {}))
    with pytest.raises(CheckFailed, match="not this network: the state dicts differ"):
        export(operated(NETWORK, "se"), file)
    assert list(file.parent.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["frozen", "updated"])
def test_how_a_network_is_trained_is_in_no_file(policy, tmp_path):
    net = operated("test_resnet", "eca", "residual-branch")
    freeze_backbone(net, norm_statistics=policy)
    net.train()
    written = export(net, tmp_path / "net.py")
    assert written.relative_diff == 0
    assert not net.bn1.training if policy == "frozen" else net.bn1.training


def test_a_file_there_already_stays(file):
    file.with_suffix(".safetensors").write_text("precious")
    with pytest.raises(UsageError, match=r"resnet_cbam\.safetensors exists"):
        export(operated(NETWORK, "se"), file)
    assert [kept.read_text() for kept in file.parent.iterdir()] == ["precious"]


def test_a_name_that_cannot_be_imported_is_answered_with_one_that_can(tmp_path):
    with pytest.raises(UsageError, match="is no name of Python") as caught:
        export(operated(NETWORK, "se"), tmp_path / "my-net.py")
    assert "my_net.py" in str(caught.value.hint)


def test_a_network_without_attention_or_of_unknown_origin_is_refused(tmp_path):
    with pytest.raises(ModelError, match="no attention in this network"):
        export(load_model(NETWORK), tmp_path / "net.py", input_size=SIZE)

    class Local(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 32, 3, padding=1)

        def forward(self, x):
            return self.conv(x) + self.conv(x)

    model = insert(Local(), "se", ["conv"], input_size=SIZE).model
    with pytest.raises(ModelError, match="how the base of this Local is built"):
        export(model, tmp_path / "net.py")


@pytest.mark.slow
@pytest.mark.parametrize("init", INITS)
def test_every_mechanism_is_written_out(init, tmp_path):
    shutil.copy(NETWORK.partition(":")[0], tmp_path)
    models = {
        f"{name.replace('-', '_')}_": operated(NETWORKS.get(name, NETWORK), name, init=init)
        for name in mechanisms()
    }
    assert differences(models, tmp_path) == {}
    assert clean(sorted(tmp_path.glob("*_.py"))) == ""


@pytest.mark.slow
def test_tokens_rows_and_maps_of_real_networks_are_written_out(tmp_path):
    size = (3, 64, 64)
    tiny = {"img_size": 64, "depth": 2}
    models = {
        "vit_eca": operated("vit_tiny_patch16_224", "eca", size=size, **tiny),
        "deit_cbam": operated("deit_tiny_patch16_224", "cbam", size=size, init="paper", **tiny),
        "vit_aff": operated("vit_tiny_patch16_224", "aff", size=size, **tiny),
        "convnext_coord": operated("convnext_atto", "coord", "residual-branch", size=size),
        "resnet_dca": operated("torchvision:resnet18", "dca", size=size),
        "mobilenet_coord": operated("mobilenetv3_small_050", "coord", size=size, init="paper"),
        "resnet_we": operated("resnet18", "we", size=size),
    }
    assert differences(models, tmp_path, size) == {}
    assert clean(sorted(tmp_path.glob("*.py"))) == ""


MINE = """
import torch
from torch import nn

WIDTH = 4


def half(x):
    return x * 0.5


class Mine(nn.Module):
    def __init__(self, channels, width=WIDTH):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)

    def forward(self, x):
        return torch.sigmoid(half(self.conv(x.mean((2, 3), keepdim=True))))
"""


@pytest.mark.slow
def test_attention_of_yours_is_written_out_too(tmp_path):
    own = tmp_path / "mine.py"
    own.write_text(MINE)
    models = {f"own_{init}": operated(NETWORK, f"{own}:Mine", init=init) for init in INITS}
    assert differences(models, tmp_path) == {}
    assert "def half" in (tmp_path / "own_paper.py").read_text()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pyright") is None, reason="a tool of development")
def test_pyright_has_nothing_to_say(tmp_path):
    for name, spec in {"cbam": "resnet18", "sk": "resnet18", "soca": NETWORK}.items():
        text = drafted(operated(spec, name, size=(3, 64, 48)), stem=name).text
        (tmp_path / f"{name}.py").write_text(text)
    shutil.copy(NETWORK.partition(":")[0], tmp_path)
    files = [f"{name}.py" for name in ("cbam", "sk", "soca")]
    command = ["pyright", "--pythonpath", sys.executable, *files]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
