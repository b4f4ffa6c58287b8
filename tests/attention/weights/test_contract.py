"""What every attention on the weight of a convolution has to do, whatever it computes."""

import copy

import pytest
import torch
from torch import nn

from tests.attention.cases import FORMATS, each_init, each_mode, gradients, params, stir
from tests.attention.convs.cases import FORMS, SIZES, cases, each
from tests.attention.test_contract import still_after_two_steps, unsteady

CASES = cases(
    "weight",
    # One hidden unit, as 16 channels would have, may be dead.
    we={
        "lwe": {"reduction": 2},
        "mwe": {"form": "mwe"},
        "both": {"form": "both", "reduction": 2},
    },
    aw={
        "": {"reduction": 4},
        "pairs": {"reduction": 4, "shared": 2},
        "bare": {"reduction": 4, "residual": False},
    },
)
each_case = each(CASES)


def convs(case):
    """Returns convolutions of every form: the weights of all of them can be excited."""
    oblong = {"kernel_size": (1, 3, 5)[-case.rank :], "padding": (0, 1, 2)[-case.rank :]}
    # Four images of such a stem, grouped, are convolved in another order than ungrouped.
    stem = {"in_channels": 4, "out_channels": 32, "stride": 2}
    return [case.conv(**form) for form in (*FORMS.values(), oblong, stem)]


def given(case, conv, batch=2, **kwargs):
    """Returns what the part is handed in a network."""
    weight = conv.weight.detach()
    x = case.input(batch, channels=conv.in_channels, dtype=weight.dtype, **kwargs)
    return (weight, x) if case.card.per_sample else (weight,)


def blended(case):
    """How many parameters the identity start adds."""
    return int(case.args.get("form") in ("mwe", "both"))


@each_case
@each_init
def test_every_weight_is_excited_in_its_own_shape(case, init):
    for conv in convs(case):
        part, inputs = stir(case.part(init, conv=conv)), given(case, conv)
        excited = part(*inputs)
        if init == "identity" and case.card.per_sample:
            assert torch.equal(excited[0], inputs[0]), conv
            excited = excited[1]
        images = (2,) if case.card.per_sample else ()
        assert excited.shape == (*images, *conv.weight.shape), conv
        assert excited.isfinite().all(), conv
        assert params(part) == case.params(conv) + (init == "identity" and blended(case)), conv


@each_case
@each_mode
@pytest.mark.parametrize("batch", [1, 4])
def test_alone_the_identity_is_the_convolution_to_the_bit(case, train, batch):
    for conv in convs(case):
        module = case.build("identity", conv=conv).train(train)
        x = 3 * case.input(batch, channels=conv.in_channels)
        assert torch.equal(module(x), conv(x)), conv
        assert torch.equal(module(x), conv(x)), conv  # the first call may have moved statistics


@each_case
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


@each_case
@each_init
@each_mode
def test_outputs_and_gradients_are_finite_on_the_smallest_maps(case, init, train):
    for batch, size in ((1, (1,) * case.rank), (2, (1, 6, 3)[-case.rank :])):
        module, x = case.build(init).train(train), case.input(batch, size)
        for value in (x, torch.zeros_like(x), torch.full_like(x, 1e4)):
            y, grads = gradients(module, value)
            assert y.shape == module.conv(x).shape
            assert y.isfinite().all()
            assert all(g.isfinite().all() for g in grads)


@each_case
@each_init
def test_a_weight_of_zeros_stays_finite(case, init):
    conv = case.conv()
    nn.init.zeros_(conv.weight)
    y, grads = gradients(case.build(init, conv=conv), case.input())
    assert not y.any()
    assert all(g.isfinite().all() for g in grads)


@each_case
@pytest.mark.parametrize("channels", [16, 48])
def test_the_declared_number_of_parameters_is_the_true_one(case, channels):
    conv = case.conv(in_channels=channels, out_channels=channels)
    assert case.params(conv) == params(case.part(conv=conv))
    assert params(case.build(conv=conv)) == params(conv) + case.params(conv)


@each_case
def test_the_paper_start_is_not_the_convolution(case):
    conv, x = case.conv(), case.input()
    assert not torch.allclose(case.build(conv=conv)(x), conv(x), atol=1e-3)


@each_case
def test_an_identity_start_can_learn_something_else(case):
    conv, x = case.conv(), case.input()
    module = case.build("identity", conv=conv)
    stir(module.excitation)
    assert not torch.allclose(module(x), conv(x), atol=1e-3)


@each_case
@each_init
@each_mode
def test_every_parameter_and_the_weight_move_within_two_steps(case, init, train):
    module = case.build(init).double().train(train)
    still = still_after_two_steps(module, case.input(4, dtype=torch.float64))
    assert still == {*(case.card.unmoved if train else ()), *case.card.inert}


@each_case
@each_init
def test_weight_and_input_are_not_changed(case, init):
    conv = case.conv()
    part, inputs = case.part(init, conv=conv), given(case, conv)
    kept, versions = [value.clone() for value in inputs], [value._version for value in inputs]
    part(*inputs)
    assert all(torch.equal(value, before) for value, before in zip(inputs, kept, strict=True))
    assert [value._version for value in inputs] == versions


@each_case
@each_init
def test_nothing_of_the_convolution_is_kept_by_the_part(case, init):
    conv = case.conv()
    part = case.part(init, conv=conv)
    assert conv not in list(part.modules())
    assert all(p is not conv.weight for p in part.parameters())


@each_case
def test_channels_last_gives_the_same_numbers_and_stays_channels_last(case):
    module, x = stir(case.build().double().eval()), case.input(dtype=torch.float64)
    last = x.to(memory_format=FORMATS[case.rank])
    expected, wanted = gradients(module, x)
    y, grads = gradients(module, last)
    stays = module.conv(last).is_contiguous(memory_format=FORMATS[case.rank])
    assert y.is_contiguous(memory_format=FORMATS[case.rank]) or not stays
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(grads, wanted, rtol=1e-11, atol=1e-11)


@each_case
def test_an_input_that_is_a_strided_view_gives_the_same_numbers(case):
    module, wide = stir(case.build().double().eval()), case.input(dtype=torch.float64)
    view = torch.cat((wide, wide.flip(-1)), dim=-1)[..., 1::2]
    torch.testing.assert_close(module(view), module(view.contiguous()), rtol=0, atol=1e-12)


@each_case
def test_each_image_of_a_batch_is_treated_alone_in_eval(case):
    module, x = stir(case.build().double().eval()), case.input(3, dtype=torch.float64)
    alone = torch.cat([module(image) for image in x.split(1)])
    torch.testing.assert_close(module(x), alone, rtol=0, atol=1e-12)


@each_case
def test_eval_changes_no_buffer(case):
    module = case.build().eval()
    before = copy.deepcopy(module.state_dict())
    module(case.input())
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]), name


@each_case
def test_one_instance_serves_two_resolutions(case):
    module, size = case.build().eval(), tuple(n + 4 for n in SIZES[case.rank])
    module(case.input())
    assert module(case.input(2, size)).shape[2:] == size
    assert case.card.resolution_free


@each_case
@each_init
def test_gradients_are_those_of_finite_differences(case, init):
    conv = case.conv(in_channels=16, out_channels=2).double()
    part = stir(case.part(init, conv=conv).double().eval())
    inputs = [v.requires_grad_() for v in given(case, conv, 1, size=(2, 3, 2)[-case.rank :])]
    assert torch.autograd.gradcheck(part, inputs, fast_mode=True)


@each_case
@each_init
def test_no_operation_has_an_unsteady_backward(case, init):
    assert unsteady(case.build(init).train(), case.input()) == []


@each_case
@each_init
def test_two_runs_agree_to_the_bit(case, init):
    module, x = stir(case.build(init)), case.input()
    first, second = (gradients(copy.deepcopy(module), x) for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_the_names_of_the_inputs_are_those_of_the_forward():
    for case in CASES:
        expected = ("weight", "value") if case.card.per_sample else ("weight",)
        assert case.card.inputs(case.args) == expected
        assert len(given(case, case.conv())) == len(expected)
