"""What is no network is refused in words by every function that takes one."""

import collections
import inspect

import pytest
from torch import nn

import attnsurgeon as surgeon
from attnsurgeon.given import takes_networks

NETWORKS = {"model", "before", "spec_or_model"}
# Of each function that takes a network the other things it cannot do without.
OTHERS = {
    "export": ("out.onnx",), "gate_statistics": ([],), "gates": (None,), "heatmap": (None,),
    "param_groups": (0.1,), "prune": ([],), "recalibrate_norms": ([],), "save": ("folder",),
    "two_phases": ((1, 1), 0.1), "measure": (nn.Identity(), None),
}  # fmt: skip
FUNCTIONS = {
    name: function
    for name in surgeon.__all__
    if inspect.isfunction(function := getattr(surgeon, name))
    and next(iter(inspect.signature(function).parameters), None) in NETWORKS
}


def test_there_are_such_functions():
    assert {"insert", "plan", "save", "gates", "freeze_backbone", "export"} <= FUNCTIONS.keys()
    assert len(FUNCTIONS) >= 24


@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_refuses_what_is_none(name):
    with pytest.raises(surgeon.SurgeonError) as raised:
        FUNCTIONS[name](collections.OrderedDict(), *OTHERS.get(name, ()))
    assert f"{name} takes a network as " in raised.value.what
    assert "OrderedDict" in raised.value.what
    assert raised.value.exit_code == 2


class Holder:
    model = nn.Identity()


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("resnet18", "attnsurgeon.load_model('resnet18') builds the network of a name"),
        (Holder(), "give the network that it holds: the Holder's .model"),
        ({"epoch": 3, "model": nn.Identity()}, "give the network that it holds: ['model']"),
        (nn.Identity, "make one of it first: Identity()"),
        ({"fc.weight": 1}, "build the network, and load its weights: network.load_state_dict(...)"),
        (None, "give the network itself"),
    ],
)
def test_the_nearest_right_thing_is_said(given, hint):
    with pytest.raises(surgeon.SurgeonError) as raised:
        surgeon.find_sites(given)
    assert raised.value.hint == hint


def test_a_saved_folder_is_read_by_another_function(tmp_path):
    with pytest.raises(surgeon.SurgeonError) as raised:
        surgeon.find_sites(tmp_path)
    assert (
        raised.value.hint
        == f"attnsurgeon.load({str(tmp_path)!r}) reads the network of a saved folder"
    )


def test_what_is_compared_is_named_or_is_a_network():
    with pytest.raises(surgeon.SurgeonError, match="compare takes a network as 'models'"):
        surgeon.compare(["resnet18", {"state_dict": 1}], ["se"])


def test_what_is_one_is_taken_however_it_is_given():
    @takes_networks("first", "second", or_else=(str,))
    def both(first, *, second):
        return first, second

    one = nn.Identity()
    assert both(one, second="resnet18") == (one, "resnet18")
    assert both(second=one, first=one) == (one, one)
    with pytest.raises(surgeon.SurgeonError, match="both takes a network as 'second'"):
        both(one, second=3)
    with pytest.raises(TypeError, match="missing 1 required"):  # the call's own words
        both(one)
