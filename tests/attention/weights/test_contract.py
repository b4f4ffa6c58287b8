"""What every attention on the weight of a convolution has to do, whatever it computes."""

import copy
from dataclasses import dataclass

import torch
from torch import nn

from tests.attention.cases import each_init, each_mode, gradients, params, stir
from tests.attention.contract import contract, convolutions
from tests.attention.convs.cases import InConv, forms

FORMS = {
    # One hidden unit, as 16 channels would have, may be dead.
    "we": {
        "lwe": {"reduction": 2},
        "mwe": {"form": "mwe"},
        "both": {"form": "both", "reduction": 2},
    },
    "aw": {
        "": {"reduction": 4},
        "pairs": {"reduction": 4, "shared": 2},
        "bare": {"reduction": 4, "residual": False},
    },
}


OTHERS = ("odconv", "dyconv", "condconv")  # these bring kernels of their own


@dataclass(frozen=True)
class Excitation(InConv):
    """An attention on the weight of a convolution, whose parameters are there beside its own."""

    def params(self, channels=None):
        conv = self.conv(channels)
        return params(conv) + self.count(conv)

    def extra(self, channels=None):
        return int(self.given().get("form") in ("mwe", "both"))

    def convs(self):
        oblong = {"kernel_size": (1, 3, 5)[-self.rank :], "padding": (0, 1, 2)[-self.rank :]}
        # Four images of such a stem, grouped, are convolved in another order than ungrouped.
        stem = {"in_channels": 4, "out_channels": 32, "stride": 2}
        return [*super().convs(), self.conv(**oblong), self.conv(**stem)]

    @property
    def spatial(self):
        return True  # the convolution is, whatever its weight comes from

    def free_axes(self):
        # The images are groups of one convolution, and groups are no tensor.
        return (2, 3) if self.card.per_sample else super().free_axes()

    def moved(self, module):
        stir(module.excitation)
        return module


CASES = [Excitation(*case) for case in forms("weight", **FORMS)]
globals().update(contract(convolutions))


def given(case, conv, batch=2, **kwargs):
    """Returns what the part is handed in a network."""
    weight = conv.weight.detach()
    x = case.input(batch, channels=conv.in_channels, dtype=weight.dtype, **kwargs)
    return (weight, x) if case.card.per_sample else (weight,)


@each_init
def test_every_weight_is_excited_in_its_own_shape(case, init):
    for conv in case.convs():
        part, inputs = stir(case.part(init, conv=conv)), given(case, conv)
        excited = part(*inputs)
        if init == "identity" and case.card.per_sample:
            assert torch.equal(excited[0], inputs[0]), conv
            excited = excited[1]
        images = (2,) if case.card.per_sample else ()
        assert excited.shape == (*images, *conv.weight.shape), conv
        assert excited.isfinite().all(), conv
        assert params(part) == case.count(conv) + (init == "identity" and case.extra()), conv


@each_mode
def test_in_a_network_the_identity_returns_the_weight_itself(case, train):
    conv = case.conv()
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        part = case.part("identity").to(dtype).train(train)
        inputs = given(case, conv.to(dtype))
        excited = part(*inputs)
        if case.card.per_sample:
            excited, change = excited
            assert not change.any()
        assert torch.equal(excited, inputs[0])


@each_init
def test_a_weight_of_zeros_stays_finite(case, init):
    conv = case.conv()
    nn.init.zeros_(conv.weight)
    y, grads = gradients(case.build(init, conv=conv), case.input())
    assert not y.any() or (init == "paper" and case.card.name in OTHERS)
    assert all(g.isfinite().all() for g in grads)


@each_init
def test_weight_and_input_are_not_changed(case, init):
    conv = case.conv()
    part, inputs = case.part(init, conv=conv), given(case, conv)
    kept, versions = [value.clone() for value in inputs], [value._version for value in inputs]
    part(*inputs)
    assert all(torch.equal(value, before) for value, before in zip(inputs, kept, strict=True))
    assert [value._version for value in inputs] == versions


@each_init
def test_gradients_of_the_weight_are_those_of_finite_differences(case, init):
    conv = case.conv(in_channels=16, out_channels=2).double()
    part = stir(case.part(init, conv=conv).double().eval())
    inputs = [v.requires_grad_() for v in given(case, conv, 1, size=(2, 3, 2)[-case.rank :])]
    assert torch.autograd.gradcheck(part, inputs, fast_mode=True)


def test_a_traced_module_still_computes_with_its_weight(case):
    module, x = stir(case.build()).train(), case.input()
    traced = torch.fx.symbolic_trace(copy.deepcopy(module)).eval()
    module.eval()
    with torch.no_grad():
        module.conv.weight.mul_(-1.5)
        traced.get_parameter("conv.weight").mul_(-1.5)
    torch.testing.assert_close(traced(x), module(x), rtol=0, atol=0)


@each_init
def test_under_autocast_the_identity_is_the_convolution_to_the_bit(case, init):
    conv, x = case.conv(), case.input(4)
    module = case.build(init, conv=conv)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(module(x), conv(x)) == (init == "identity")


def test_the_names_of_the_inputs_are_those_of_the_forward():
    for case in CASES:
        expected = ("weight", "value") if case.card.per_sample else ("weight",)
        assert case.card.inputs(case.given()) == expected
        assert len(given(case, case.conv())) == len(expected)
