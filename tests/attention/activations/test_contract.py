"""What every mechanism has to do that takes the place of an activation."""

from dataclasses import dataclass

import torch

from attnsurgeon.attention.registry import create_part
from tests.attention.cases import Part, of_kind
from tests.attention.contract import contract


@dataclass(frozen=True)
class Activation(Part):
    """An activation beside the one whose place it takes."""

    def before(self, x):
        return x.relu()


CASES = [Activation(card, rank) for card in of_kind("activation") for rank in card.ranks]
globals().update(contract())


def test_in_a_network_it_starts_as_the_activation_that_is_there(case):
    part = create_part(case.card.name, case.channels, rank=case.rank, init="identity")
    x = 3 * case.input()
    for old in (torch.nn.functional.gelu(x), x.relu().bfloat16(), x.clamp(0, 6).double()):
        y = part(x, old)
        assert y.dtype == old.dtype
        assert torch.equal(y, old)
    torch.nn.init.constant_(part.get_parameter("g"), 0.5)
    assert not torch.allclose(part(x, x.relu()), x.relu(), atol=1e-2)


def test_alone_it_starts_as_a_relu(case):
    x = 3 * case.input()
    assert torch.equal(case.build("identity")(x), x.relu())
    assert not torch.equal(case.build("identity")(x), x.clamp(0, 6))


def test_as_its_authors_start_it_the_part_takes_the_value_alone(case):
    part = create_part(case.card.name, case.channels, rank=case.rank)
    assert part.eval()(case.input()).shape == case.input().shape
