"""What every mechanism has to do that makes the scores of the classes."""

import pytest
import torch

from attnsurgeon.attention.registry import create_attention
from attnsurgeon.errors import MechanismError
from tests.attention.cases import SIZES, of_kind, stir
from tests.attention.contract import contract
from tests.attention.heads.cases import CLASSES, Head

# Further forms of a mechanism, for images only.
FORMS = {"csra": [(("heads", 4), ("lam", 0.5))], "interflow": [(("mode", "hard"),)]}
CARDS = of_kind("head")
CASES = [Head(card, rank) for card in CARDS for rank in card.ranks]
CASES += [Head(card, 2, args) for card in CARDS for args in FORMS.get(card.name, [])]
# This is here in words for scores, which have no positions.
ORDER = "test_only_a_mechanism_that_looks_at_positions_notices_their_order"
globals().update(contract(without=[ORDER]))


def test_a_larger_copy_of_the_map_has_the_same_scores(case):
    module, size = stir(case.build().double().eval()), tuple(3 * n for n in SIZES[case.rank])
    x = case.input(dtype=torch.float64)
    larger = x
    for axis in range(2, x.dim()):  # each position three times: the same map, larger
        larger = larger.repeat_interleave(3, dim=axis)
    assert larger.shape[2:] == size
    assert case.card.resolution_free
    torch.testing.assert_close(module(larger), module(x), rtol=0, atol=1e-12)


def test_the_order_of_positions_does_not_matter(case):
    module, x = stir(case.build().double().eval()), case.input(dtype=torch.float64)
    order = torch.randperm(x[0, 0].numel())
    shuffled = x.flatten(2)[..., order].reshape(x.shape)
    shuffled[:, :CLASSES] = x[:, :CLASSES]  # the network's own scores
    torch.testing.assert_close(module(shuffled), module(x), rtol=0, atol=1e-12)
    assert not case.card.spatial


def test_the_scores_depend_on_the_maps(case):
    module, x = stir(case.build().eval()), case.input()
    other = x.clone()
    other[:, CLASSES:] += 1
    assert not torch.allclose(module(other), module(x), atol=1e-3)


def test_alone_the_number_of_classes_has_to_be_given(case):
    with pytest.raises(MechanismError, match=f"{case.card.name}: classes is missing"):
        create_attention(case.card.name, 32)
