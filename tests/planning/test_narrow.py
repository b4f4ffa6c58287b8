"""Few channels: gates that start as identity can always learn; what may be dead is said."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import attnsurgeon
from attnsurgeon.attention.registry import create_attention, mechanisms
from attnsurgeon.errors import SurgeonError
from attnsurgeon.operate import carry_out
from tests.saved.written.network import fixed

SIZE = (3, 32, 24)
WIDTHS = (8, 16, 24, 32, 64)
STARTS = 12  # 50 were tried once: none fails
SQUEEZES = [name for name, card in mechanisms().items() if card.bottleneck]
# Arguments without which there is no ReLU, or that few channels take.
ARGS = {"psa": {"groups": (1, 1, 2, 2)}, "ge": {"gather": "theta-plus"}, "eca": {"hidden": 2}}
# Of each map of BA2M the maximum counts, so that one or the other waits for its turn.
STEPS = {"ba2m": 8}


class Hold(nn.Module):
    """One convolution, and behind it what is inserted."""

    def __init__(self, width: int, rectified: bool) -> None:
        super().__init__()
        self.first, self.width = nn.Conv2d(3, width, 1), width
        self.inner = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU())
        self.norm, self.rectified = nn.BatchNorm2d(width), rectified
        self.out = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        z = self.norm(self.out(self.inner(y)))
        return y + (z.relu() if self.rectified else z)


class Skip(nn.Module):
    """An encoder and a decoder, and what is handed across, where a gate looks at both."""

    def __init__(self, width: int, rectified: bool) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width)
        deeper = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.low = nn.Sequential(nn.MaxPool2d(2), deeper, nn.ReLU())
        self.up, self.rectified = nn.Upsample(scale_factor=2), rectified
        self.out = nn.Conv2d(3 * width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.first(x))
        y = y.relu() if self.rectified else y
        return self.out(torch.cat((y, self.up(self.low(y))), dim=1))


def without_gradient(net: nn.Module, steps: int, seed: int) -> set[str]:
    """The new parameters that had no gradient at any of the steps."""
    generator = torch.Generator().manual_seed(seed)
    new = {name: p for name, p in net.named_parameters() if ".attn" in f".{name}"}
    assert new
    optimiser = torch.optim.SGD(new.values(), lr=0.01)
    idle = set(new)
    for _ in range(steps):
        y = net(torch.randn(8, 3, 8, 8, generator=generator))
        target = torch.randn(y.shape, generator=generator)
        optimiser.zero_grad()
        (10 * y * target).mean().backward()
        idle -= {name for name, p in new.items() if p.grad is not None and p.grad.any()}
        optimiser.step()
    return idle


def starts(name: str, width: int, rectified: bool, count: int) -> Iterator[tuple[int, nn.Module]]:
    """Yields a number and an operated network, every time with another random start."""
    net = (Skip if name == "attention-gate" else Hold)(width, rectified)
    where = {
        "attention-gate": "skip",
        "we": {"name": "out"},
        "dyconv": {"name": "out"},
        "psa": {"name": "out"},
        "cmpe-se": {"site": "residual-add"},
    }
    at = where.get(name, {"site": "residual-branch"})
    plan = attnsurgeon.plan(net, name, at, attn_args=ARGS.get(name), input_size=(3, 8, 8))
    for seed in range(count):
        torch.manual_seed(seed)
        yield seed, carry_out(copy.deepcopy(net), plan).model.train()


def cannot_learn(name: str, idle: set[str]) -> set[str]:
    """Those of a set of parameters for which the card gives no reason."""
    card = mechanisms()[name]
    known = (*card.unmoved, *card.inert)
    alone = ("of_hidden.0.weight",) if name == "dia" else ()  # nothing is handed to one site
    left = {n for n in idle if not n.endswith((*known, *alone))}
    if name == "scse" and not any(n.endswith(("conv.weight", "conv.bias")) for n in left):
        return set()  # of its two gates the larger is taken, at first the one of positions
    return left


@pytest.mark.parametrize("rectified", [False, True], ids=["normalised", "rectified"])
@pytest.mark.parametrize(
    ("name", "width", "count"),
    [
        pytest.param(name, width, count, marks=() if count == 3 else pytest.mark.slow)
        for name in SQUEEZES
        for width, count in ((16, 3), *((width, STARTS) for width in WIDTHS))
        if name != "fca" or width % 16 == 0  # which is for multiples of 16 channels
    ],
)
def test_every_parameter_of_a_start_as_identity_learns(name, width, count, rectified):
    for seed, net in starts(name, width, rectified, count):
        idle = without_gradient(net, STEPS.get(name, 2), seed)
        assert cannot_learn(name, idle) == set(), seed


def test_the_same_check_finds_the_units_that_are_dead_without_pairs(monkeypatch):
    monkeypatch.setattr("attnsurgeon.attention.registry.pair", lambda module, layers: None)
    assert any(without_gradient(net, 2, seed) for seed, net in starts("se", 16, True, 30))


def test_every_card_names_layers_that_its_mechanism_has():
    for name in SQUEEZES:
        card = mechanisms()[name]
        conv = nn.Conv2d(64, 64, 3, padding=1)
        source = {"conv": conv} if card.kind in ("conv", "weight") else {"channels": 64}
        form = ARGS.get(name, {}) | ({"size": (8, 8)} if name == "ge" else {})
        module = create_attention(name, **source, **form)
        paths = [path for path, _ in module.named_modules()]
        assert any(path.endswith(card.bottleneck) for path in paths), name


@pytest.mark.parametrize("name", ["se", "cbam", "fca", "spa", "scse"])
def test_of_two_units_one_is_alive_for_every_input(name):
    gate = create_attention(name, 64, init="identity")
    first = gate.get_submodule("fc1")
    z = torch.randn(1000, first.weight.shape[1])
    alive = first(z) > 0
    assert torch.equal(alive[:, 0::2], ~alive[:, 1::2])
    paper = create_attention(name, 64).get_submodule("fc1")(z) > 0
    assert not torch.equal(paper[:, 0::2], ~paper[:, 1::2])


def hidden(plan) -> list[tuple[int, str]]:
    return [(cut.attn_args.get("reduction", 16), cut.place.note) for cut in plan]


def test_the_plan_states_a_reduction_that_it_changed_and_only_where_it_did():
    plan = attnsurgeon.plan(fixed(), "se", "residual-branch", input_size=SIZE)
    assert {cut.channels for cut in plan} == {16, 24}
    assert set(hidden(plan)) == {
        (8, "2 hidden units instead of 1: reduction=8 here"),
        (8, "3 hidden units instead of 1: reduction=8 here"),
    }
    wide = attnsurgeon.plan(Hold(32, True), "se", "residual-branch", input_size=(3, 8, 8))
    assert hidden(wide) == [(16, "")]


def test_an_argument_that_a_mechanism_without_a_reduction_does_not_take_is_said():
    with pytest.raises(SurgeonError, match="circular"):
        attnsurgeon.plan(
            Hold(16, True), "eca", "residual-branch",
            attn_args={"circular": True}, input_size=(3, 8, 8),
        )  # fmt: skip


def test_what_the_user_gives_and_the_authors_start_stay_and_are_warned_of():
    for more in ({"attn_args": {"reduction": 16}}, {"init": "paper"}):
        plan = attnsurgeon.plan(fixed(), "se", "residual-branch", input_size=SIZE, **more)
        said = "its 1 hidden unit behind a ReLU may be dead for every input"
        assert set(hidden(plan)) == {(16, said)}


def test_a_changed_reduction_is_saved_and_comes_back(tmp_path):
    operation = attnsurgeon.insert(fixed(), "se", "residual-branch", input_size=SIZE)
    operation.save(tmp_path / "out")
    again = attnsurgeon.load(tmp_path / "out", model=fixed())
    assert list(again.state_dict()) == list(operation.model.state_dict())
    x = torch.randn(2, *SIZE)
    with torch.no_grad():
        assert torch.equal(again.eval()(x), operation.model.eval()(x))
