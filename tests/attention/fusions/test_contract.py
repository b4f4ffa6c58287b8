"""What every mechanism has to do that takes the place of a residual addition."""

from dataclasses import dataclass

import pytest
import torch

from attnsurgeon.attention.registry import create_part
from tests.attention.cases import SIZES, Pair, each_mode, of_kind
from tests.attention.contract import contract

# The hidden layers of a few channels need a few units, or all of them may be dead.
ARGS = {"aff": (("reduction", 4),), "iaff": (("reduction", 4),)}
# Further forms of a mechanism, for images only.
FORMS = {"cmpe-se": [(("squeeze", s),) for s in ("pair-2x1", "folded-3x3")]}


@dataclass(frozen=True)
class Fusion(Pair):
    """A fusion beside the addition whose place it takes."""

    def before(self, x):
        branch, shortcut = self.halves(x)
        return branch + shortcut


CARDS = of_kind("fusion")
CASES = [Fusion(card, rank, ARGS.get(card.name, ())) for card in CARDS for rank in card.ranks]
CASES += [Fusion(card, 2, args) for card in CARDS for args in FORMS.get(card.name, [])]
globals().update(contract())

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def part(case):
    """Returns the fusion as a network gets it."""
    args = dict(case.args)
    return create_part(case.card.name, case.channels, rank=case.rank, init="identity", **args)


def magnitudes(case, dtype):
    """Returns two inputs with values from the least that the dtype can hold to large ones."""
    info = torch.finfo(dtype)
    pair = torch.randn(2, 4, case.channels, *SIZES[case.rank], dtype=torch.float64).clamp(-4, 4)
    for i, size in enumerate((info.tiny / 16, info.tiny, 1, min(info.max / 32, 1e15))):
        pair[:, i] *= size
    pair[1] *= torch.randint(0, 2, pair[1].shape) * 2.0 ** torch.randint(-8, 1, pair[1].shape)
    return pair.to(dtype)


@each_mode
@pytest.mark.parametrize("dtype", DTYPES)
def test_at_the_identity_start_every_sum_is_that_of_the_addition(case, train, dtype):
    fusion = part(case).to(dtype).train(train)
    branch, shortcut = magnitudes(case, dtype)
    total = branch + shortcut
    assert total.isfinite().all()
    for last in (False, True):
        if last:
            branch = branch.movedim(1, -1).contiguous().movedim(-1, 1)
        assert torch.equal(fusion(branch, shortcut), total)


@pytest.mark.parametrize(("first", "second"), [(0, 2), (2, 0), (0, 3)])
def test_dtypes_that_differ_are_promoted_as_in_an_addition(case, first, second):
    branch, shortcut = case.input().chunk(2, dim=1)
    branch, shortcut = branch.to(DTYPES[first]), shortcut.to(DTYPES[second])
    with torch.autocast("cpu", torch.bfloat16):
        fused = part(case)(branch, shortcut)
    assert fused.dtype == (branch + shortcut).dtype
    assert torch.equal(fused, branch + shortcut)


def test_branch_and_shortcut_do_not_stand_for_each_other(case):
    fusion = case.build().inner.eval()
    branch, shortcut = case.halves(case.input())
    assert not torch.allclose(fusion(branch, shortcut), fusion(shortcut, branch), atol=1e-3)
