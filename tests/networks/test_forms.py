"""What modules hand on besides plain tensors keeps its type, in both modes."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import attnsurgeon
from attnsurgeon.forwards.modes import changes_form, mode_questions
from attnsurgeon.recording.trace import trace
from tests.nets.blocks import C, Net, Plain
from tests.surgery import outputs, ready, same

SIZE = (3, 13, 11)


class Pair(NamedTuple):
    map: Tensor
    size: int


@dataclass
class Record:
    map: Tensor
    note: str = "map"


class Answer(OrderedDict):
    """A dict of a kind that nobody else knows."""


class Returning(Plain):
    """Ends with a value that is put into something."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, x):
        out = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + x)
        if self.kind in (dict, OrderedDict, Answer):
            return self.kind(map=out)
        return self.kind([out]) if self.kind in (list, tuple) else self.kind(out, 3)


@pytest.mark.parametrize("kind", [dict, OrderedDict, list, tuple, Pair, Record])
def test_what_a_rewritten_forward_returns_has_the_type_it_had(kind):
    net, x = ready(Returning(kind)), torch.randn(2, C, 13, 11)
    operation = attnsurgeon.insert(net, "eca", {"site": "residual-branch"}, input_size=(C, 13, 11))
    assert [cut.place.technique for cut in operation.plan] == ["retype"]
    expected, found = net(x), operation.model(x)
    assert type(found) is type(expected) is kind
    assert same(outputs(operation.model, x), outputs(net, x))


def test_a_dict_of_an_unknown_kind_is_not_made_plain():
    net = ready(Returning(Answer))
    plan = attnsurgeon.plan(net, "eca", {"site": "residual-branch"}, input_size=(C, 13, 11))
    assert [cut.place.technique for cut in plan] == ["output-hook"]
    with pytest.raises(attnsurgeon.SurgeonError, match="makes a Answer, a dict of its own kind"):
        attnsurgeon.plan(net, "eca", {"site": "residual-block"}, input_size=(C, 13, 11))


class Auxiliary(Plain):
    """Returns a second value, but only while it learns."""

    def forward(self, x):
        out = super().forward(x)
        return (out, out.mean()) if self.training else out


class Careful(Plain):
    """Takes from such a child what it needs."""

    def __init__(self):
        super().__init__()
        self.child = Auxiliary()

    def forward(self, x):
        out = self.child(x)
        if isinstance(out, tuple):
            out = out[0] + 0 * out[1]
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(out))))) + out)


def test_a_child_that_returns_more_in_training_is_not_taken_for_what_it_is_in_eval_mode():
    net, x = ready(Net(Careful())), torch.randn(2, *SIZE)
    operation = attnsurgeon.insert(net, "eca", {"site": "residual-branch"}, input_size=SIZE)
    ways = {cut.site.path: cut.place.technique for cut in operation.plan}
    assert ways == {"blocks.0.child.bn2": "retype", "blocks.0.bn2": "output-hook"}
    for train in (False, True):
        assert same(outputs(operation.model, x, train=train), outputs(net, x, train=train))


def test_only_children_that_return_another_form_are_named():
    def changing(block):
        traced = trace(Net(block), (torch.empty(2, *SIZE),))
        return changes_form(traced.calls["blocks"][0])

    assert changing(Careful()) == "blocks.0.child"
    assert changing(Plain()) is None
    assert changing(Auxiliary()) == "blocks.0"


class Asking(Plain):
    """Looks at the mode of some module, by some name."""

    def __init__(self, ask):
        super().__init__()
        self.child, self.ask = nn.Dropout(0.5), ask

    def forward(self, x):
        out = super().forward(x)
        return out * 2 if self.ask(self) else out


class Told(Asking):
    """Keeps the mode under another name."""

    def train(self, mode=True):
        self.learns = mode
        return super().train(mode)


QUESTIONS = {
    "its own": (Asking, lambda m: m.training),
    "by text": (Asking, lambda m: getattr(m, "train" + "ing", False)),
    "of a child": (Asking, lambda m: not m.child.training),
    "of all": (Asking, lambda m: any(inner.training for inner in m.modules())),
    "by another name": (Told, lambda m: m.learns),
}


@pytest.mark.parametrize("question", list(QUESTIONS))
def test_a_forward_that_asks_for_the_mode_is_known_in_both(question):
    kind, ask = QUESTIONS[question]
    net, x = ready(Net(kind(ask))), torch.randn(2, *SIZE)
    operation = attnsurgeon.insert(net, "eca", {"site": "residual-branch"}, input_size=SIZE)
    assert [cut.place.technique for cut in operation.plan] == ["retype"]
    expected = [outputs(net, x, train=train) for train in (False, True)]
    assert not same(*expected)
    for train in (False, True):
        assert same(outputs(operation.model, x, train=train), expected[train])


@pytest.mark.parametrize("question", list(QUESTIONS))
def test_who_asks_for_the_mode_is_noticed_and_nothing_stays_behind(question):
    kind, ask = QUESTIONS[question]
    module = kind(ask).eval()
    with mode_questions(module) as asked:
        module(torch.randn(2, C, 5, 5))
        module.child.training = True
    assert asked
    assert module.child.training is True
    assert module.training is False
    assert not any("training" in vars(type(inner)) for inner in module.modules())


class Sealed(type):
    """Classes that take no attributes by the ordinary way."""

    def __setattr__(cls, name, value):
        raise AttributeError(name)


class Closed(nn.Identity, metaclass=Sealed):
    pass


def test_a_class_that_guards_its_attributes_is_watched_all_the_same():
    module = nn.Sequential(Closed(), nn.ReLU())
    with mode_questions(module) as asked:
        assert asked == []
        assert module[0].training is True
    assert asked == [module[0]]
    assert "training" not in vars(Closed)


def test_nothing_stays_behind_where_a_trace_fails():
    module = Plain()
    with pytest.raises(ZeroDivisionError), mode_questions(module):
        assert module.training / 0
    assert "training" not in vars(Plain)


def test_who_does_not_ask_is_not_noticed():
    module = nn.Sequential(nn.Conv2d(3, C, 3), nn.Sequential(nn.ReLU()))
    with mode_questions(module) as asked:
        module(torch.randn(2, 3, 5, 5))
    assert asked == []


class Scaling(Plain):
    """Is told a number behind a variadic signature."""

    def forward(self, *args):
        x, scale = args
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) * scale + x)


class TwoScales(nn.Module):
    def __init__(self, second):
        super().__init__()
        self.stem, self.block, self.second = nn.Conv2d(3, C, 3), Scaling(), second

    def forward(self, x):
        return self.block(self.block(self.stem(x), 2.0), self.second)


@pytest.mark.parametrize(("second", "way"), [(2.0, "retype"), (0.5, "output-hook")])
def test_a_shared_module_is_rewritten_only_where_all_its_calls_are_given_the_same_constants(
    second, way
):
    net, x = ready(TwoScales(second)), torch.randn(2, *SIZE)
    operation = attnsurgeon.insert(net, "eca", {"site": "residual-branch"}, input_size=SIZE)
    assert [cut.place.technique for cut in operation.plan] == [way]
    assert same(outputs(operation.model, x), outputs(net, x))
