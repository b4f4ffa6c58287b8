"""Files and modules of the user become networks, or one message with the line that failed."""

from __future__ import annotations

import os
import pickle
import sys
import textwrap
import types
from typing import Any

import pytest
import torch
from torch import nn

import attnsurgeon
from attnsurgeon.errors import ModelError
from attnsurgeon.models import build_on_meta, load_model, source_of
from tests.cli.command import attnsurgeon as run_command


def load(spec: str, **arguments: Any) -> Any:
    """Load a user's network, whose attributes no type checker knows."""
    return load_model(spec, **arguments)


NETS = """
    from torch import nn

    CONFIG = {"width": 3}

    class Net(nn.Module):
        def __init__(self, width=5, *, depth=2):
            super().__init__()
            self.conv = nn.Conv2d(2, width, 3)

    def make(pretrained=True, **arguments):
        net = Net(**arguments)
        net.asked = pretrained
        return net

    def fails(width=3):
        table = {}
        return table["heads"]

    def needs(width):
        return Net(width)

    def inner():
        return needs()

    def count():
        return 3

    def leaves():
        raise SystemExit("bye")

    built = Net(width=7)
"""
# Refuse what they were not made for, as pretrainedmodels and facenet_pytorch do.
CHOOSY = """
    from nets import Net

    class Runs(Net):
        def forward(self, x):
            return self.conv(x)

    def strict():
        return Net()

    def told(pretrained=True):
        net = Runs()
        net.asked = pretrained
        return net

    def by_name(num_classes=3, pretrained=None):
        net = Runs()
        net.asked = pretrained
        if pretrained is not None:
            {"imagenet": {}}[pretrained]
        return net
"""


@pytest.fixture
def nets(tmp_path, monkeypatch):
    """A working folder with nets.py in it."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "nets.py", NETS)
    write(tmp_path / "choosy.py", CHOOSY)
    yield tmp_path
    # Imported as a module by name too; the next test has another nets.py.
    monkeypatch.delitem(sys.modules, "nets", raising=False)


def weights_of(model: nn.Module) -> str:
    source = source_of(model)
    assert source is not None
    return source.weights


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))


@pytest.mark.parametrize("where", ["nets.py", "./nets.py", "nets"])
@pytest.mark.parametrize(("what", "width"), [("Net", 3), ("make", 3), ("built", 7)])
def test_a_function_a_class_and_a_built_network_are_all_factories(nets, where, what, width):
    arguments = {} if what == "built" else {"width": 3}
    model = load(f"{where}:{what}", **arguments)
    assert model.conv.weight.shape == (width, 2, 3, 3)
    assert weights_of(model) == "as built"


def test_an_absolute_path_and_one_from_home_are_found(nets, monkeypatch):
    monkeypatch.setenv("HOME", str(nets))
    assert load(f"{nets / 'nets.py'}:Net").conv.out_channels == 5
    assert load("~/nets.py:Net").conv.out_channels == 5


def test_a_built_network_is_copied_so_that_surgery_does_not_reach_the_users(nets):
    first, second = load("nets:built"), load("nets:built")
    assert first is not second
    with torch.no_grad():
        first.conv.weight.fill_(0)
    assert second.conv.weight.abs().sum() > 0
    with pytest.raises(ModelError, match="already built, so it takes no arguments"):
        load("nets:built", width=3)


@pytest.mark.parametrize("asked", [True, False, None, "vggface2"])
def test_a_factory_is_told_what_the_user_says_of_pretrained(nets, asked):
    model = load("nets.py:make", pretrained=asked)
    assert model.asked is asked
    assert weights_of(model) == ("pretrained" if asked else "as built")


def test_a_factory_is_told_nothing_that_the_user_did_not_say(nets):
    assert load("nets.py:make").asked is True  # its own default
    for factory in ("strict", "by_name"):
        model = load(f"choosy.py:{factory}")
        assert weights_of(model) == "as built"
        built = build_on_meta(f"choosy.py:{factory}")
        assert built.conv.weight.is_meta
    assert load("choosy.py:by_name", pretrained=None).asked is None
    with pytest.raises(ModelError, match="KeyError: False"):  # as pretrainedmodels refuses it
        load("choosy.py:by_name", pretrained=False)
    with pytest.raises(ModelError, match="takes no argument 'width'"):
        load("choosy.py:strict", width=5)


def test_pretrained_false_of_what_has_no_such_argument_asks_for_nothing(nets):
    for what in ("nets.py:Net", "choosy.py:strict", "nets.py:built"):
        assert isinstance(load(what, pretrained=False), nn.Module)
    with pytest.raises(ModelError, match="no argument 'pretrained'"):
        load("nets.py:Net", pretrained="imagenet")


def test_a_folder_builds_its_base_as_the_user_did(nets):
    model = load("choosy.py:by_name", pretrained=None)
    attnsurgeon.insert(model, "eca", "conv3x3", input_size=(2, 12, 12)).save("out")
    assert attnsurgeon.load("out", trust=True).asked is None
    model = load("choosy.py:told", pretrained=True)
    attnsurgeon.insert(model, "eca", "conv3x3", input_size=(2, 12, 12)).save("told")
    assert attnsurgeon.load("told", trust=True).asked is False  # its weights are in the folder


def test_a_name_of_weights_is_for_factories_of_ones_own():
    with pytest.raises(ModelError, match=r"pretrained='a1_in1k' names weights.*\n.*resnet50\.a1"):
        load("resnet18", pretrained="a1_in1k")
    for nothing in (None, False):
        assert weights_of(load("test_resnet", pretrained=nothing)) == "random"


def test_the_command_hands_on_what_is_said_of_pretrained(nets):
    words = ("--attn", "eca", "--where", "conv3x3", "--input-size", "2,12,12")
    plan = run_command("plan", "choosy.py:by_name", "--model-arg", "pretrained=null", *words)
    assert plan.code == 0, plan.err
    refused = run_command("plan", "choosy.py:by_name", "--model-arg", "pretrained=true", *words)
    assert (refused.code, "--pretrained" in refused.err) == (2, True)
    both = ("--pretrained", "--model-arg", "pretrained=null")
    refused = run_command("insert", "nets.py:make", *both, *words)
    assert (refused.code, "contradict" in refused.err) == (2, True)


def test_pretrained_weights_of_a_factory_without_the_argument_are_refused(nets):
    with pytest.raises(ModelError, match=r"nets\.py:Net has no argument 'pretrained'"):
        load("nets.py:Net", pretrained=True)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nets.py:Nett", r"nets\.py has no 'Nett'\n.*did you mean 'Net'"),
        ("nets:Nett", r"nets has no 'Nett'\n.*did you mean 'Net'"),
        ("netz.py:Net", r"no file netz\.py\n.*did you mean 'nets\.py'"),
        ("away/nets.py:Net", r"no file away/nets\.py\n.*no folder away either"),
        ("./nets:Net", r"did you mean '\./nets\.py'"),
        ("nets.py", r"write nets\.py:leaves; it defines Net, make, fails"),
        ("nets.py:", r"write nets\.py:leaves; it defines Net, make, fails"),
        ("nets.py:CONFIG", "of type dict, not a factory"),
        ("nets.py:count", "returned a value of type int, not an nn.Module"),
        ("nets.py:fails", r"KeyError: 'heads' \(nets\.py:18\)"),
        ("nets.py:leaves", r"SystemExit: bye \(nets\.py:30\)"),
        ("nets.py:needs", r"needs width\n.*load_model\(\.\.\., width=\.\.\.\)"),
        # The user's own bug: no model argument would help.
        ("nets.py:inner", r"TypeError: needs\(\) missing .* \(nets\.py:24\)$"),
    ],
)
def test_what_cannot_be_found_or_built_is_said_in_one_message(nets, spec, message):
    with pytest.raises(ModelError, match=message) as caught:
        load(spec)
    assert caught.value.exit_code == 3


def test_an_argument_the_factory_does_not_take_is_named_with_the_nearest(nets):
    with pytest.raises(ModelError, match=r"takes no argument 'widht'.*\n.*did you mean 'width'"):
        load("nets.py:Net", widht=3)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import torch\n\ndef make(:\n", r"SyntaxError: .*\(bad\.py:3\)"),
        ("width = 3\nwidth.grow()\n", r"AttributeError: .*\(bad\.py:2\)"),
        ("import sys\nsys.exit(2)\n", r"SystemExit: 2 \(bad\.py:2\)"),
        ("from . import nets\n", r"'package\.module:factory'"),
        ("import attnsurgeon_absent\n", "install attnsurgeon_absent"),
    ],
)
def test_a_file_that_fails_while_imported_is_quoted_with_its_line(nets, source, message):
    write(nets / "bad.py", source)
    with pytest.raises(ModelError, match=message):
        load("bad.py:make")
    assert not [name for name in sys.modules if name.startswith("attnsurgeon_file_bad")]


def test_a_module_whose_own_import_fails_is_not_called_missing(nets):
    write(nets / "outer_net.py", "import attnsurgeon_absent\n")
    with pytest.raises(ModelError, match="outer_net cannot be imported: ModuleNotFoundError"):
        load("outer_net:make")


def test_a_file_may_import_its_neighbours_early_and_late(nets, monkeypatch):
    write(nets / "deep" / "early_neighbour.py", "WIDTH = 3\n")
    write(nets / "deep" / "late_neighbour.py", "DEPTH = 2\n")
    write(
        nets / "deep" / "net.py",
        """
        from early_neighbour import WIDTH
        from torch import nn

        def make():
            from late_neighbour import DEPTH
            return nn.Conv2d(DEPTH, WIDTH, 1)
        """,
    )
    before = list(sys.path)
    assert load("deep/net.py:make").weight.shape == (3, 2, 1, 1)
    assert sys.path == before
    for name in ("early_neighbour", "late_neighbour"):
        monkeypatch.delitem(sys.modules, name)


def test_networks_of_one_file_share_their_class_and_can_be_pickled(nets):
    first, second = load("nets.py:Net"), load(str(nets / "nets.py") + ":Net")
    assert type(first) is type(second)
    again = pickle.loads(pickle.dumps(first))
    assert type(again) is type(first)
    assert torch.equal(again.conv.weight, first.conv.weight)


def test_a_changed_file_is_executed_again_even_within_one_second(nets):
    file = nets / "nets.py"
    assert load("nets.py:Net").conv.out_channels == 5
    status = file.stat()
    file.write_text(file.read_text().replace("width=5", "width=8"))
    # The same size and, to the second, the same time.
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert load("nets.py:Net").conv.out_channels == 8


def test_a_file_the_program_has_imported_itself_is_not_executed_twice(nets, monkeypatch):
    script = types.ModuleType("__running__")
    script.__file__ = str(nets / "nets.py")
    script.Net = lambda: nn.Conv2d(1, 11, 1)  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "__running__", script)
    assert load("nets.py:Net").out_channels == 11


def test_two_files_of_one_name_are_two_modules(nets):
    write(nets / "other" / "nets.py", NETS.replace("width=5", "width=9"))
    assert load("nets.py:Net").conv.out_channels == 5
    assert load("other/nets.py:Net").conv.out_channels == 9
    assert load("nets.py:Net").conv.out_channels == 5
