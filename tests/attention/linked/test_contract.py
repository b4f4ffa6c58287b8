"""What every mechanism has to do whose sites hand something on to each other."""

import copy
import pickle

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from attnsurgeon.attention.linked.chain import Chain, Link
from tests.attention.cases import each_init, each_mode, gradients, of_kind, stir
from tests.attention.contract import contract
from tests.attention.linked.cases import PLACES, Places

# Further forms of a mechanism, for images only.
FORMS = {"dca": [(("inner", "cbam"),), (("inner", "ge"),)]}
CARDS = of_kind("linked")
CASES = [Places(card, rank) for card in CARDS for rank in card.ranks]
CASES += [Places(card, 2, args) for card in CARDS for args in FORMS.get(card.name, [])]
# These are here in words for several places.
MOVES = (
    "test_every_parameter_but_the_inert_moves_within_two_steps",
    "test_while_training_all_parameters_move_but_those_the_card_names",
)
globals().update(contract(without=MOVES))


def test_the_card_says_how_far_a_chain_reaches(case):
    assert case.card.scope in ("stage", "network")


def still(module, x):
    """Returns the names of the parameters that two steps leave in place, as they are at a place.

    Adam's steps do not shrink with the gradients: three gates of a quarter leave little of one.
    """
    start = {name: p.detach().clone() for name, p in module.named_parameters()}
    target = torch.randn_like(module(x))
    descent = torch.optim.Adam(module.parameters(), lr=0.01)
    for _ in range(2):
        descent.zero_grad()
        (module(x) - target).square().mean().backward()
        descent.step()
    moved = {n: (p - start[n]).abs().max().item() for n, p in module.named_parameters()}
    return {name.replace(".inner.", ".") for name, by in moved.items() if by < 1e-7}


@each_init
@each_mode
def test_every_parameter_moves_but_those_the_card_names(case, init, train):
    module = case.build(init).double().train(train)
    names = {n.split("attention.", 1)[1] for n in still(module, case.input(4, dtype=torch.float64))}
    assert names <= {*case.card.inert, *(case.card.unmoved if train else ())}


def test_parameters_that_the_card_calls_inert_do_not_move(case):
    module = case.build().double()
    names = {name.replace(".inner.", ".") for name, _ in module.named_parameters()}
    there = {n for n in names if n.split("attention.", 1)[1] in case.card.inert}
    assert still(module, case.input(4, dtype=torch.float64)) == there


@each_init
def test_what_a_place_gives_depends_on_the_places_before_it(case, init):
    module, x = stir(case.build(init).double().eval()), case.input(dtype=torch.float64)
    linked = module(x)
    alone = x
    for link in module:
        alone = link.attention.step(alone, None)[0]
    assert not torch.allclose(linked, alone, rtol=0, atol=1e-6)
    torch.testing.assert_close(module(x), linked, rtol=0, atol=0)


def test_the_first_place_takes_nothing_over_from_another_forward(case):
    module, x = stir(case.build().double().eval()), case.input(dtype=torch.float64)
    expected = module[0](x)
    module(2 * x)
    torch.testing.assert_close(module[0](x), expected, rtol=0, atol=0)


def test_the_map_may_change_its_size_between_places(case):
    module = stir(case.build().eval())
    x = case.input(1, (9, 13, 6)[: case.rank])
    halved = x[(..., *[slice(None, None, 2)] * case.rank)]
    odd = halved[..., :-1]
    for seen in (x, halved, odd):
        assert module[0](x).shape == x.shape
        assert module[1](seen).shape == seen.shape
        assert module[2](x).isfinite().all()


@each_init
@pytest.mark.parametrize("places", [1, 2, 3])
def test_checkpointing_gives_the_gradients_of_no_checkpointing(case, init, places):
    module, x = stir(case.build(init).double()), case.input(dtype=torch.float64)

    def in_segments(x):
        for first in range(0, PLACES, places):
            x = checkpoint(module[first : first + places], x, use_reentrant=False)
        return x

    in_segments.parameters = module.parameters  # pyright: ignore[reportFunctionMemberAccess]
    start = copy.deepcopy(module.state_dict())
    expected = gradients(module, x)
    module.load_state_dict(start)  # a norm's running statistics have moved
    actual = gradients(in_segments, x)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_after_a_forward_that_broke_off_are_equal_and_start_anew(case, copied):
    module, x = stir(case.build().double().eval()), case.input(dtype=torch.float64)
    expected = module(x)
    module[:2](x)
    twin = copied(module)
    assert len({id(link.chain) for link in twin}) == 1
    assert len({id(link.attention) for link in twin}) == (1 if case.card.tied else PLACES)
    fresh = twin[2].attention.step(x, None)[0]
    torch.testing.assert_close(twin[2](x), fresh, rtol=0, atol=0)
    torch.testing.assert_close(twin(x), expected, rtol=0, atol=0)


def test_alone_it_is_the_next_place_with_every_call(case):
    x = case.input(dtype=torch.float64)
    alone = stir(case.part(1).double().eval())
    chain = Chain()
    links = [Link(alone, chain, place) for place in range(2)]
    expected = [link(x) for link in links]
    for _ in range(2):
        torch.testing.assert_close([alone(x) for _ in range(2)], expected, rtol=0, atol=0)
        alone.reset()
    assert not torch.allclose(expected[0], expected[1])
