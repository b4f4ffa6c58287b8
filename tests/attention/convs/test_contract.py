"""What every mechanism that replaces a convolution has to do, whatever it computes."""

import copy

import pytest
import torch

from attnsurgeon.errors import MechanismError
from tests.attention.cases import FORMATS, each_init, each_mode, gradients, params, stir
from tests.attention.convs.cases import FORMS, SIZES, cases, each
from tests.attention.test_contract import still_after_two_steps, unsteady

# Small ones, for speed: the defaults need 64 channels.
CASES = cases(
    "conv",
    sk={"": {"groups": 8, "reduction": 4}},
    psa={"": {"kernels": (3, 5), "groups": (1, 4), "reduction": 2}},
    sc={"": {}, "split": {"split": True}},
)
each_case = each(CASES)


def refusals(case):
    """Returns the forms of convolutions that cannot be replaced, with a word of the reason."""
    groups = {"groups": "4 groups"} if case.card.name == "psa" else {}
    return {"reflect": "pads with 'reflect'", **groups}


def replaceable(case):
    """Returns convolutions of every form that can be replaced."""
    return [case.conv(**form) for name, form in FORMS.items() if name not in refusals(case)]


@each_case
def test_what_cannot_be_replaced_is_refused_with_a_hint(case):
    for form, what in refusals(case).items():
        with pytest.raises(MechanismError, match=what) as caught:
            case.build(conv=case.conv(**FORMS[form]))
        assert caught.value.hint


@each_case
@each_mode
def test_every_other_convolution_is_replaced_size_for_size(case, train):
    for conv in replaceable(case):
        module, x = case.build(conv=conv).train(train), case.input(channels=conv.in_channels)
        y, grads = gradients(module, x)
        assert (y.shape, y.dtype) == (conv(x).shape, x.dtype), conv
        assert y.isfinite().all(), conv
        assert all(g.isfinite().all() for g in grads), conv
        assert params(module) == case.params(conv), conv


@each_case
@each_mode
@pytest.mark.parametrize("batch", [1, 2])
def test_alone_the_identity_is_the_convolution_to_the_bit(case, train, batch):
    for conv in replaceable(case):
        module = case.build("identity", conv=conv).train(train)
        x = 3 * case.input(batch, channels=conv.in_channels)
        assert torch.equal(module(x), conv(x)), conv
        assert torch.equal(module(x), conv(x)), conv  # the first call may have moved statistics
        assert params(module) == case.params(conv) + params(conv) + 1, conv


@each_case
@each_mode
@pytest.mark.parametrize("batch", [1, 2])
def test_the_smallest_maps_and_batches_stay_finite(case, train, batch):
    for size in ((1,) * case.rank, (1, 6, 3)[-case.rank :]):
        y, grads = gradients(case.build().train(train), case.input(batch, size))
        assert y.isfinite().all()
        assert all(g.isfinite().all() for g in grads)


@each_case
@each_mode
def test_a_map_without_any_variation_stays_finite(case, train):
    for fill in (0.0, 3.0, 1e4):
        module = case.build("identity").train(train)
        y, grads = gradients(module, torch.full_like(case.input(), fill))
        assert y.isfinite().all()
        assert all(g.isfinite().all() for g in grads)


@each_case
@pytest.mark.parametrize("channels", [16, 48])
def test_the_declared_number_of_parameters_is_the_true_one(case, channels):
    conv = case.conv(in_channels=channels, out_channels=channels)
    assert case.params(conv) == params(case.part(conv=conv))
    assert params(case.part("identity", conv=conv)) == case.params(conv) + 1


@each_case
@each_mode
def test_in_a_network_the_identity_returns_what_was_computed_there(case, train):
    module, x = case.part("identity").train(train), case.input()
    old = torch.randn_like(x)
    assert torch.equal(module(x, old), old)


@each_case
def test_identity_is_exact_for_other_layouts_and_dtypes(case):
    conv = case.conv()
    last = case.input().to(memory_format=FORMATS[case.rank])
    assert torch.equal(case.build("identity", conv=conv)(last), conv(last))
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        module, x = case.part("identity").to(dtype), case.input(dtype=dtype)
        old = torch.randn_like(x)
        assert torch.equal(module(x, old), old)


@each_case
def test_the_paper_start_is_not_the_convolution(case):
    conv, x = case.conv(), case.input()
    assert not torch.allclose(case.build(conv=conv)(x), conv(x), atol=1e-3)


@each_case
def test_an_identity_start_can_learn_something_else(case):
    module, x = case.part("identity"), case.input()
    old = torch.randn_like(x)
    assert not torch.allclose(stir(module)(x, old), old, atol=1e-3)


@each_case
@each_init
@each_mode
def test_every_parameter_moves_within_two_steps(case, init, train):
    module = case.build(init).double().train(train)
    still = still_after_two_steps(module, case.input(4, dtype=torch.float64))
    assert still == {*(case.card.unmoved if train else ()), *case.card.inert}


@each_case
@each_init
def test_the_input_is_neither_changed_nor_returned(case, init):
    module, x = case.build(init), case.input()
    kept, version = x.clone(), x._version
    y = module(x)
    assert torch.equal(x, kept)
    assert x._version == version
    assert y.untyped_storage().data_ptr() != x.untyped_storage().data_ptr()


@each_case
@each_init
def test_nothing_of_the_replaced_convolution_is_kept(case, init):
    conv = case.conv()
    part, before = case.part(init, conv=conv), copy.deepcopy(conv.state_dict())
    stir(part)
    assert conv not in list(part.modules())
    assert torch.equal(conv.weight, before["weight"])


@each_case
def test_channels_last_gives_the_same_numbers_and_stays_channels_last(case):
    module, x = stir(case.build().double().eval()), case.input(dtype=torch.float64)
    expected, wanted = gradients(module, x)
    last = x.to(memory_format=FORMATS[case.rank])
    y, grads = gradients(module, last)
    before = case.conv().double()(last)  # on a CPU, in three dimensions, it does not
    stays = before.is_contiguous(memory_format=FORMATS[case.rank])
    assert y.is_contiguous(memory_format=FORMATS[case.rank]) or not stays
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(grads, wanted, rtol=1e-11, atol=1e-11)


@each_case
def test_an_input_that_is_a_strided_view_gives_the_same_numbers(case):
    module, wide = stir(case.build().double().eval()), case.input(dtype=torch.float64)
    view = torch.cat((wide, wide.flip(-1)), dim=-1)[..., 1::2]
    assert not view.is_contiguous()
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
def test_gradients_are_those_of_finite_differences(case):
    module = stir(case.build().double().eval())
    x = case.input(1, (2, 3) if case.rank == 2 else (2, 1, 3), dtype=torch.float64)
    assert torch.autograd.gradcheck(module, (x.requires_grad_(),), fast_mode=True)


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
