"""Classes, factories and functions of a user as attention: what is built, and what is refused."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

from attnsurgeon.attention.own.card import own_card
from attnsurgeon.attention.registry import admit, build_part, lookup
from attnsurgeon.errors import MechanismError
from tests.attention.own import mechanisms as own

X = torch.randn(3, 32, 7, 5, generator=torch.Generator().manual_seed(0))


def part(thing, init="paper", channels=32, **args) -> nn.Module:
    return build_part(own_card("mine", thing), channels, 2, init, args).eval()


@pytest.mark.parametrize("thing", [own.Gate, own.Vector, own.Mask, own.by_mean])
def test_what_returns_a_gate_is_multiplied_with_the_map(thing):
    made = part(thing)
    gate = made.get_submodule("inner")(X)
    assert gate.shape != X.shape
    assert torch.equal(made(X), X * gate.reshape(*gate.shape, *(1,) * (4 - gate.dim())))
    assert not torch.equal(made(X), X)


def test_what_returns_a_map_is_left_as_it_is():
    made = part(own.Map)
    assert torch.equal(made(X), made.get_submodule("inner")(X))


@pytest.mark.parametrize("thing", [own.Gate, own.Vector, own.Mask, own.Map, own.by_mean])
@pytest.mark.parametrize("train", [True, False])
def test_the_start_as_identity_is_exact_and_its_weight_brings_the_mechanism_in(thing, train):
    made = part(thing, "identity").train(train)
    assert torch.equal(made(X), X)
    with torch.no_grad():
        made.get_parameter("g").fill_(1.0)
    wanted = made.get_submodule("inner")(X)
    wanted = wanted if wanted.shape == X.shape else X * wanted.reshape(*wanted.shape, *(1,) * (
        4 - wanted.dim()))  # fmt: skip
    torch.testing.assert_close(made(X), wanted)


def test_two_maps_are_the_branch_and_the_shortcut():
    card = own_card("mine", own.Fuse)
    assert (card.kind, card.placement, card.inputs({})) == (
        "fusion",
        "residual-add",
        ("branch", "shortcut"),
    )
    other = X.flip(0)
    assert torch.equal(part(own.Fuse, "identity")(X, other), X + other)
    made = part(own.Fuse)
    assert torch.equal(made(X, other), made.get_submodule("inner")(X, other))


def test_the_keys_are_the_same_under_both_starts():
    paper, identity = (set(part(own.Gate, init).state_dict()) for init in ("paper", "identity"))
    assert paper == {f"inner.{n}" for n in own.Gate(32).state_dict()}
    assert identity == {*paper, "g"}


def test_channels_are_found_and_other_arguments_given():
    assert part(own.Gate, ratio=8).get_submodule("inner.down").weight.shape == (4, 32, 1, 1)
    assert part(own.make, channels=48).get_submodule("inner.conv").weight.shape == (48, 1, 5, 5)
    assert part(own.Gate, in_planes="$C").get_submodule("inner.up").weight.shape == (32, 8, 1, 1)


def test_a_function_takes_what_it_has_a_default_for():
    assert torch.equal(part(own.by_mean, scale=3.0)(X), X * own.by_mean(X, 3.0))
    assert dict(own_card("mine", own.by_mean).args) == {"scale": 1.0}
    with pytest.raises(MechanismError, match="there is no argument 'x'"):
        part(own.by_mean, x=3.0)


def test_a_constructor_that_looks_at_values_is_run_on_the_cpu_and_put_on_meta():
    with torch.device("meta"):
        made = part(own.LooksAtItsOwn)
        with pytest.raises(MechanismError, match="with channels=32: ValueError"):
            part(own.Raises)
    assert {p.device.type for p in made.parameters()} == {"meta"}


def test_the_sides_and_the_stage_are_those_of_the_site():
    tied, staged = own_card("tied", own.Tied), own_card("staged", own.Staged)
    assert tied.args_at((7, 5), {}, stage=2) == {"height": 7, "width": 5}
    assert not tied.resolution_free
    assert own_card("free", own.Gate).resolution_free
    assert staged.args_at((7, 5), {}, stage=2) == {"stage": 2}
    assert staged.args_at((7, 5), {"stage": 9}, stage=2) == {"stage": 9}
    with pytest.raises(MechanismError, match="stage is \\$stage, and that is not known here"):
        staged.args_at((7, 5), {}, stage=None)


def test_an_argument_that_is_not_known_at_a_site_keeps_its_default():
    def make(channels: int, stage: int | None = None) -> nn.Module:
        return own.Map(channels)

    assert own_card("mine", make).args_at((7, 5), {}, stage=None) == {}


def test_parameters_are_counted():
    assert own_card("mine", own.Gate).params(32, ratio=4) == 2 * 32 * 8 + 8 + 32
    assert own_card("mine", own.by_mean).params(32) == 0


def test_what_was_made_of_it_can_be_traced_and_compiled():
    for thing in (own.Gate, own.Vector, own.Mask, own.Map):
        made = part(thing, "identity")
        with torch.no_grad():
            made.get_parameter("g").fill_(0.5)
        assert torch.equal(torch.fx.symbolic_trace(made)(X), made(X))


def test_the_dtype_of_the_map_goes_on():
    with torch.autocast("cpu", torch.bfloat16):
        assert part(own.Map)(X).dtype == torch.float32
        assert part(own.Map, "identity")(X).dtype == torch.float32


@pytest.mark.parametrize(
    ("thing", "said"),
    [
        (own.NeedsHeads, "mine needs 'heads', and what that is does not follow from its name"),
        (own.Raises, "mine cannot be built with channels=32: ValueError: .* \\(line .* of mech"),
        (own.makes_a_number, "mine returned a value of type int, not an nn.Module"),
        (own.Lazy, "has layers whose sizes are not known before the first forward"),
    ],
)
def test_what_cannot_be_built_is_refused_with_the_reason(thing, said):
    with pytest.raises(MechanismError, match=said):
        part(thing)


@pytest.mark.parametrize(
    ("thing", "said"),
    [
        (own.built, "is a module already built"),
        (own.NUMBER, "is of type int, not attention that can be built"),
        (own.NoModule, "is a class, but not one of nn.Module"),
        (own.NoForward, "has no forward"),
        (own.Three, "the forward of mine takes q, k, v"),
        (own.Masked, "the forward of mine takes x, mask"),
    ],
)
def test_what_is_no_attention_is_refused_before_it_is_built(thing, said):
    with pytest.raises(MechanismError, match=said):
        own_card("mine", thing)


@pytest.mark.parametrize(
    ("args", "said", "hint"),
    [
        ({"ratoi": 8}, "mine: there is no argument 'ratoi'", "did you mean 'ratio'?"),
        ({"ratio": "$c"}, r"mine: ratio='\$c' stands for nothing", "known: $C"),
    ],
)
def test_an_argument_that_there_is_none_of_is_refused_with_the_nearest(args, said, hint):
    for check in (own_card("mine", own.Gate).check_args, lambda args: part(own.Gate, **args)):
        with pytest.raises(MechanismError, match=said) as caught:
            check(args)
        assert hint in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("thing", "said"),
    [
        (own.Halves, r"mine makes \(2, 32, 4, 4\) of \(2, 32, 8, 8\)"),
        (own.Tuple, "mine returns a tuple of 2, not a tensor"),
        (own.Nothing, "mine returns nothing, not a tensor"),
        (own.InPlace, "mine changes its input in place"),
        (own.NotAlone, "mine cannot run on 1 x 32 x 8 x 8: .*, though at batch 2 it runs"),
        (own.Volume, "mine cannot run on 2 x 32 x 8 x 8: RuntimeError: Given groups=1"),
    ],
)
def test_what_cannot_run_at_a_site_is_refused_with_the_reason(thing, said):
    card = own_card("mine", thing)
    with pytest.raises(MechanismError, match=said):
        card.try_on(functools.partial(build_part, card, 32, 2, "identity", {}), (32, 8, 8))


@pytest.mark.parametrize("thing", [own.Gate, own.Map, own.Tied, own.LooksAtValues])
def test_what_can_is_not(thing):
    card = own_card("mine", thing)
    args = card.args_at((8, 8), {}, stage=1)
    card.try_on(functools.partial(build_part, card, 32, 2, "identity", args), (32, 8, 8))


def test_half_a_map_of_two_sides_is_no_gate():
    """At 2 x 2 it makes (N, C, 1, 1), which looks like one."""
    card = own_card("mine", own.Halves)
    build = functools.partial(build_part, card, 32, 2, "paper", {})
    assert build()(torch.zeros(1, 32, 2, 2)).shape == (1, 32, 2, 2)
    with pytest.raises(MechanismError, match=r"makes \(2, 32, 2, 2\) of \(2, 32, 4, 4\)"):
        card.try_on(build, (32, 2, 2))


def test_own_mechanisms_are_no_part_of_the_catalogue():
    card = admit(own_card("mine.py:Gate", own.Gate))
    assert lookup("mine.py:Gate") is card
    with pytest.raises(MechanismError, match="nobody has named in this process"):
        lookup("other.py:Gate")
    from attnsurgeon import mechanisms

    assert "mine.py:Gate" not in mechanisms()
