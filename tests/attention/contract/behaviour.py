"""What every mechanism has to compute: shapes, numbers, gradients, the two starts."""

import copy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.attention.cases import (
    IDENTITY_BY_ITS_AUTHORS,
    SIZES,
    channels_last,
    each_init,
    each_mode,
    gradients,
    is_channels_last,
    params,
    stir,
)


def sizes(rank):
    """Returns the usual size, a single position, and one of an even and an odd side."""
    return (SIZES[rank], (1,) * rank, (1, 6, 3)[-rank:])


@each_init
@each_mode
@pytest.mark.parametrize("batch", [1, 2])
def test_shape_and_dtype_pass_through_and_all_is_finite(case, init, train, batch):
    for size in sizes(case.rank):
        module, x = case.build(init).train(train), case.input(batch, size)
        y, grads = gradients(module, x)
        before = case.before(x)
        assert (y.shape, y.dtype) == (before.shape, before.dtype)
        assert y.isfinite().all()
        assert all(g.isfinite().all() for g in grads)


@each_init
@each_mode
@pytest.mark.parametrize("fill", [0.0, 3.0, 1e4])
def test_a_map_without_any_variation_stays_finite(case, init, train, fill):
    for batch, size in zip((2, 1, 2), sizes(case.rank), strict=True):
        module, x = case.build(init).train(train), case.input(batch, size)
        y, grads = gradients(module, torch.full_like(x, fill))
        assert y.isfinite().all()
        assert all(g.isfinite().all() for g in grads)


def test_the_declared_number_of_parameters_is_the_true_one(case, channels):
    assert case.params(channels) == params(case.build(channels=channels))


def test_the_identity_start_costs_what_the_case_says_and_no_more(case, channels):
    start = case.build("identity", channels=channels)
    assert params(start) == case.params(channels) + case.extra(channels)


@each_mode
@pytest.mark.parametrize("batch", [1, 2])
def test_identity_is_exact_to_the_bit(case, train, batch):
    for size in (SIZES[case.rank], (1,) * case.rank):
        module, x = case.build("identity").train(train), 3 * case.input(batch, size)
        assert torch.equal(module(x), case.before(x))
        assert torch.equal(module(x), case.before(x))  # the first call may have moved statistics


def test_identity_is_exact_for_other_layouts_and_dtypes(case):
    x = case.input()
    last = channels_last(x)
    assert torch.equal(case.build("identity")(last), case.before(last))
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        module, y = case.build("identity").to(dtype), case.before(x.to(dtype))
        assert torch.equal(module(x.to(dtype)), y)


def test_the_paper_start_is_no_identity_but_where_it_is_the_authors(case):
    x = case.input()
    alike = torch.allclose(case.build("paper")(x), case.before(x), atol=1e-3)
    assert alike == (case.card.name in IDENTITY_BY_ITS_AUTHORS)


def test_an_identity_start_can_learn_something_else(case):
    module, x = case.build("identity"), case.input()
    assert not torch.allclose(case.moved(module)(x), case.before(x), atol=1e-3)


def still_after_two_steps(module, x):
    """Returns the names of the parameters that two steps of gradient descent leave in place."""
    if not params(module):
        return set()
    start = {name: p.detach().clone() for name, p in module.named_parameters()}
    target = torch.randn_like(module(x))
    descent = torch.optim.SGD(module.parameters(), lr=1.0)
    for _ in range(2):
        descent.zero_grad()
        (module(x) - target).square().mean().backward()
        descent.step()
    moved = {n: (p - start[n]).abs().max().item() for n, p in module.named_parameters()}
    return {
        name.replace("inner.", "") for name, by in moved.items() if by < 1e-12
    }  # rounding: 1e-17


@each_init
def test_every_parameter_but_the_inert_moves_within_two_steps(case, init):
    module = case.steady(case.build(init).double())
    still = still_after_two_steps(module, case.input(4, dtype=torch.float64))
    assert still == set(case.card.inert)


@each_init
def test_while_training_all_parameters_move_but_those_the_card_names(case, init):
    module = case.build(init).double().train()
    still = still_after_two_steps(module, case.input(4, dtype=torch.float64))
    # A form of a mechanism need not have all that its card speaks of.
    there = {name.replace("inner.", "") for name, _ in module.named_parameters()}
    assert still == {*case.card.unmoved, *case.card.inert} & there


@each_init
def test_the_input_is_neither_changed_nor_returned(case, init):
    module, x = case.build(init), case.input()
    kept, version = x.clone(), x._version
    y = module(x)
    assert torch.equal(x, kept)
    assert x._version == version
    assert y.untyped_storage().data_ptr() != x.untyped_storage().data_ptr()


def test_channels_last_gives_the_same_numbers_and_stays_channels_last(case):
    module, x = stir(case.build().double().eval()), case.input(dtype=torch.float64)
    last = channels_last(x)
    expected, wanted = gradients(module, x)
    y, grads = gradients(module, last)
    if case.keeps_layout(last):
        assert is_channels_last(y)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(grads, wanted, rtol=1e-12, atol=case.noise)


def test_an_input_that_is_a_strided_view_gives_the_same_numbers(case):
    module, wide = stir(case.build().double().eval()), case.input(dtype=torch.float64)
    wide = torch.cat((wide, wide.flip(-1)), dim=-1)
    view = wide[..., 1::2]
    assert not view.is_contiguous()
    torch.testing.assert_close(module(view), module(view.contiguous()), rtol=0, atol=1e-12)


def test_each_image_of_a_batch_is_treated_alone_in_eval(case):
    module, x = stir(case.build().double().eval()), case.input(3, dtype=torch.float64)
    alone = torch.cat([module(image) for image in x.split(1)])
    torch.testing.assert_close(module(x), alone, rtol=0, atol=1e-12)


def test_eval_changes_no_buffer(case):
    module = case.build().eval()
    before = copy.deepcopy(module.state_dict())
    module(case.input())
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_only_a_mechanism_that_looks_at_positions_notices_their_order(case):
    module, x = case.steady(stir(case.build().double())), case.input(dtype=torch.float64)
    order = torch.randperm(x[0, 0].numel())

    def shuffled(z):
        return z.flatten(2)[..., order].reshape(z.shape)

    alike = torch.allclose(module(shuffled(x)), shuffled(module(x)), rtol=0, atol=1e-10)
    assert alike == (not case.spatial)


def test_one_instance_serves_two_resolutions_where_the_card_says_so(case):
    if not case.card.resolution_free:
        pytest.skip("the card says it is built for one resolution")
    module, size = case.build().eval(), tuple(n + 4 for n in SIZES[case.rank])
    module(case.input())
    x = case.input(2, size)
    assert module(x).shape == case.before(x).shape


def test_gradients_are_those_of_finite_differences(case):
    module = stir(case.build().double().eval())
    x = case.input(1, {1: (3,), 2: (2, 3), 3: (2, 1, 3)}[case.rank], dtype=torch.float64)
    assert torch.autograd.gradcheck(module, (x.requires_grad_(),), fast_mode=True)


class Recorder(TorchDispatchMode):
    """Writes down the name of every operation, also of the backward."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


# Operations whose CUDA backward adds in an order that changes from run to run.
UNSTEADY = ("adaptive", "max_pool", "scatter_add", "index_add", "upsample", "grid_sampler", "put_")


def unsteady(module, x):
    with Recorder() as recorder:
        gradients(module, x)
    return sorted(n for n in recorder.names if any(word in n for word in UNSTEADY))


@each_init
def test_no_operation_has_an_unsteady_backward(case, init):
    assert unsteady(case.build(init).train(), case.input()) == []


@each_init
def test_two_runs_agree_to_the_bit(case, init):
    module, x = stir(case.build(init)), case.input()
    first, second = (gradients(copy.deepcopy(module), x) for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
