"""An audit names attention that is no longer what was put in, and leaves what is alone."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn

import attnsurgeon
from attnsurgeon.attention.registry import mechanisms
from attnsurgeon.splicing.makeup import Makeup
from tests.cli.tiny import net
from tests.looking.operated import ELSEWHERE
from tests.nets.families.segmenters import TransposedUNet
from tests.nets.stages import Stages

SIZE = (3, 40, 24)
LATE = "late.attn"


def operated(attn: str = "cbam", **more: Any) -> nn.Module:
    return attnsurgeon.insert(net(), attn, "residual-branch", input_size=SIZE, **more).model


def audit(model: nn.Module):
    return attnsurgeon.audit(model, input_size=SIZE)


def put(model: nn.Module, path: str, module: nn.Module) -> None:
    host, _, name = path.rpartition(".")
    setattr(model.get_submodule(host), name, module)


def test_an_identity_in_the_place_of_attention_is_dead_and_named():
    model = operated()
    assert audit(model).ok
    put(model, LATE, nn.Identity())
    found = audit(model)
    assert not found.ok
    assert found.dead == (LATE,)  # the Identity runs; what was put in does not
    assert found.calls[LATE] == 0
    what = "a torch.nn.modules.linear.Identity stands in the place of the cbam"
    assert found.altered == {LATE: what}


@pytest.mark.parametrize("attn", ["eca", "cbam"])
def test_another_attention_in_its_place_is_named_even_of_the_same_kind(attn):
    model = operated("cbam")
    put(model, LATE, attnsurgeon.create_attention(attn, 48))
    found = audit(model)
    assert found.dead == (LATE,)
    assert "stands in the place of the cbam" in found.altered[LATE]


def within(change: str, model: nn.Module) -> str:
    """Changes something inside the last attention; returns what has to be said of it."""
    part: Any = model.get_submodule(LATE)
    if change == "class":
        part.__class__ = nn.Sequential
        return "it is a torch.nn.modules.container.Sequential, and was a"
    if change == "a part goes":
        part.fc1 = nn.Identity()
        return "fc1.weight is gone"
    if change == "a part is added":
        part.extra = nn.Linear(2, 3)
        return "extra.weight is new; extra.bias is new"
    if change == "shape":
        part.fc1.weight = nn.Parameter(torch.zeros(5, 48))
        return "fc1.weight has the shape (5, 48), and had (3, 48)"
    raise AssertionError(change)


@pytest.mark.parametrize("change", ["class", "a part goes", "a part is added", "shape"])
def test_attention_that_is_altered_inside_is_named(change):
    model = operated()
    said = within(change, model)
    altered = {}
    for path, module in model.named_modules():
        if path == LATE:
            altered[path] = module.__dict__["_attnsurgeon"].makeup.differences(Makeup.of(module))
    assert said in "; ".join(altered[LATE])


def test_an_audit_says_so_though_it_runs():
    model = operated()
    part: Any = model.get_submodule(LATE)
    part.register_buffer("extra", torch.zeros(2))
    found = audit(model)
    assert (found.ok, found.dead) == (False, ())
    assert found.altered == {LATE: "extra is new"}


def test_an_argument_that_shows_in_no_shape_is_compared_too():
    model = operated("simam", init="paper", attn_args={"e_lambda": 1e-4})
    part: Any = model.get_submodule(LATE)
    part.e_lambda = 1e-2
    assert audit(model).altered == {LATE: "e_lambda has the value 0.01, and had 0.0001"}


# ------------------------------------------------------------------ what is no alteration


def trained(model: nn.Module) -> nn.Module:
    x = torch.randn(4, *SIZE)
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    model.train()(x).square().mean().backward()
    optimiser.step()
    return model


def momentum(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 0.01
    return model


def twice(model: nn.Module) -> nn.Module:
    return attnsurgeon.insert(model, "eca", {"site": "conv"}, input_size=SIZE).model


@pytest.mark.parametrize(
    "change",
    [
        trained,
        momentum,
        twice,
        copy.deepcopy,
        lambda model: pickle.loads(pickle.dumps(model)),
        lambda model: model.eval().half().float().train(),
        lambda model: model.to("meta"),
        nn.SyncBatchNorm.convert_sync_batchnorm,
    ],
    ids=["trained", "momentum", "twice", "deepcopy", "pickle", "modes", "meta", "sync"],
)
@pytest.mark.parametrize(
    "attn", ["cbam", *(pytest.param(name, marks=pytest.mark.slow) for name in ("bam", "simam"))]
)
def test_training_copying_and_converting_alter_nothing(change, attn):
    model = change(operated(attn))
    assert audit(model).altered == {}
    assert audit(model).ok


def test_an_attention_inside_a_wrapper_still_runs():
    class Wrapped(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(x)

    model = operated()
    put(model, LATE, Wrapped(model.get_submodule(LATE)))
    found = audit(model)
    assert found.ok
    assert found.calls[f"{LATE}.inner"] == 1
    assert len(found.calls) == 3


@pytest.mark.slow
@pytest.mark.parametrize("name", mechanisms())
@pytest.mark.parametrize("init", ["identity", "paper"])
def test_no_mechanism_alters_itself_while_it_runs(name, init):
    args = {"variant": "B"} if name == "spa" else {}
    size = (3, 32, 24)
    net = TransposedUNet() if name == "attention-gate" else Stages()  # it is for skips
    model = attnsurgeon.insert(
        net, name, ELSEWHERE.get(name), attn_args=args, init=init, input_size=size
    ).model
    for x in (torch.randn(4, *size), torch.randn(2, *size)):
        model.train()(x).sum().backward()
        model.eval()(x)
    found = attnsurgeon.audit(copy.deepcopy(model).half().float(), input_size=size)
    assert found.ok, found.altered
    assert found.calls
