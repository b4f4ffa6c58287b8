"""What every gate has to do that also looks at a second value: what its residual block started
from, or for a skip what it meets in the decoder.
"""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from attnsurgeon.attention.registry import create_part, lookup
from tests.attention.cases import SIZES, Pair, each_init, each_mode, of_kind
from tests.attention.contract import contract

SOURCE = 24  # channels of the block's input where they are others than those of its output
# name -> (rank, arguments); the reductions leave a hidden layer enough units not to be all dead
FORMS = {
    "spa": [
        (2, {"reduction": 4, "variant": "B"}),
        (3, {"reduction": 4, "variant": "B", "source_channels": SOURCE, "pools": (1, 2)}),
        (1, {"reduction": 4, "variant": "B", "source_channels": SOURCE}),
        (2, {"reduction": 4, "variant": "C", "source_channels": SOURCE}),
    ],
    "ran": [
        (2, {"depth": 0, "source_channels": SOURCE}),
        (2, {"depth": 2}),
        (3, {"depth": 1}),
        (1, {"depth": 1}),
    ],
    "attention-gate": [
        (2, {}),
        (2, {"signal": "raised", "signal_channels": SOURCE}),
        (3, {"signal_channels": SOURCE, "transform": False}),
        (3, {"signal": "raised"}),
        (1, {"stride": 3, "reduction": 1}),
        (1, {"signal": "raised"}),
    ],
}
SECOND = {"source", "coarser", "raised"}


@dataclass(frozen=True)
class Sighted(Pair):
    """A gate beside the value that it leaves as it was."""

    export_margin: ClassVar[int] = 2  # an axis of one window is taken to be of one for ever

    def before(self, x):
        return self.halves(x)[0]

    def extra(self, channels=None):
        return 0 if self.raised else super().extra(channels)

    @property
    def raised(self):
        """Whether the second value has to be of the size of the first, and each position of the
        one is looked at with that of the other alone.
        """
        return dict(self.args).get("signal") == "raised"

    @property
    def spatial(self):
        return super().spatial and not self.raised


CASES = [
    Sighted(
        *(lookup(name), rank, tuple(args.items())),
        second=args.get("source_channels") or args.get("signal_channels"),
    )
    for name, forms in FORMS.items()
    for rank, args in forms
]
globals().update(contract())


def test_no_gate_that_takes_the_source_is_outside_the_contract():
    sighted = {card.name for card in of_kind("gate") if card.takes is not None}
    assert sighted == set(FORMS)
    for case in CASES:
        first, second = case.card.inputs(dict(case.args))
        assert first == "value"
        assert second in SECOND


@each_init
@each_mode
@pytest.mark.parametrize("batch", [1, 2])
def test_the_second_value_may_be_of_any_size_where_it_was_not_raised(case, init, train, batch):
    if case.raised:
        x, signal = case.halves(case.input(batch))
        with pytest.raises(RuntimeError, match="size"):
            case.build(init).inner.train(train)(x, torch.cat([signal, signal], 2))
        return
    gate = case.build(init).inner.train(train)
    for size in (SIZES[case.rank], (1,) * case.rank):
        x = torch.randn(batch, case.channels, *size)
        for theirs in (tuple(2 * n - 1 for n in size), (4,) * case.rank):
            y = gate(x, torch.randn(batch, case.second or case.channels, *theirs))
            assert y.shape == x.shape
            assert y.isfinite().all()
            assert torch.equal(y, x) == (init == "identity")


def test_what_the_gate_does_depends_on_the_source(case):
    gate = case.build().inner.eval()
    x, source = case.halves(case.input())
    assert not torch.allclose(gate(x, source), gate(x, 2 * source + 1), atol=1e-3)


def test_the_value_is_scaled_and_the_gate_is_the_same_for_every_value(case):
    if case.card.name == "attention-gate":
        pytest.skip("its gate looks at the value, too")
    gate = case.build().inner.double().eval()
    x, source = case.halves(case.input(dtype=torch.float64))
    torch.testing.assert_close(gate(3 * x, source), 3 * gate(x, source), rtol=0, atol=1e-12)


def test_in_a_network_it_is_the_same_module(case):
    args = dict(case.args)
    part = create_part(case.card.name, case.channels, rank=case.rank, init="identity", **args)
    x, source = case.halves(case.input())
    assert torch.equal(part(x, source), x)
