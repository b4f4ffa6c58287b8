"""What carries an excited convolution elsewhere: tracing, compiling, exporting, copying, dtypes."""

import copy
import io
import pickle

import pytest
import torch

from tests.attention.cases import each_init, each_mode, gradients, stir
from tests.attention.convs.cases import SIZES, each
from tests.attention.weights.test_contract import CASES

each_case = each(CASES)


@each_case
@each_init
@each_mode
def test_symbolic_tracing_gives_the_same_function_at_any_size(case, init, train):
    module = stir(case.build(init)).train(train)
    traced = torch.fx.symbolic_trace(copy.deepcopy(module))
    for size in (SIZES[case.rank], (1,) * case.rank):
        x = case.input(1, size)
        torch.testing.assert_close(traced(x), module(x), rtol=0, atol=0)


@each_case
def test_a_traced_module_still_changes_its_mode_and_its_weight(case):
    module, x = stir(case.build()).train(), case.input()
    traced = torch.fx.symbolic_trace(copy.deepcopy(module)).eval()
    torch.testing.assert_close(traced(x), module.eval()(x), rtol=0, atol=0)
    with torch.no_grad():
        module.conv.weight.mul_(-1.5)
        traced.get_parameter("conv.weight").mul_(-1.5)
    torch.testing.assert_close(traced(x), module(x), rtol=0, atol=0)


@pytest.mark.slow
@each_case
@pytest.mark.parametrize(("init", "train"), [("paper", True), ("identity", False)])
def test_it_compiles_without_a_graph_break(case, init, train):
    torch._dynamo.reset()  # or the next mechanism is taken for a recompilation of the last
    module, x = stir(case.build(init)).train(train), case.input()
    compiled = torch.compile(copy.deepcopy(module), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), module(x))


@pytest.mark.slow
@each_case
@each_init
def test_it_exports_for_any_resolution_and_where_the_weight_is_one_for_any_batch(case, init):
    module = stir(case.build(init)).eval()
    batch, size = 2, tuple(n + 4 for n in SIZES[case.rank])  # larger than the kernel
    free = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    if case.card.per_sample:  # the images are groups of one convolution, and groups are no tensor
        del free[0]
    exported = torch.export.export(module, (case.input(batch, size),), dynamic_shapes=(free,))
    batch, *size = (n + 2 * (axis in free) for axis, n in enumerate((batch, 0, *size)) if axis != 1)
    x = case.input(batch, tuple(size))
    torch.testing.assert_close(exported.module()(x), module(x))


@each_case
@each_init
def test_copies_are_equal_and_apart(case, init):
    module, x = stir(case.build(init)).eval(), case.input()
    expected = module(x).detach()
    copies = [copy.deepcopy(module), pickle.loads(pickle.dumps(module))]
    assert not torch.equal(stir(module)(x), expected)
    for twin in copies:
        assert torch.equal(twin(x), expected)


@each_case
@each_init
def test_a_state_dict_carries_everything_that_was_learned(case, init):
    trained, fresh, x = stir(case.build(init)).eval(), case.build(init).eval(), case.input()
    file = io.BytesIO()
    torch.save(trained.state_dict(), file)
    file.seek(0)
    fresh.load_state_dict(torch.load(file, weights_only=True), strict=True)
    assert torch.equal(fresh(x), trained(x))


@each_case
@each_init
@each_mode
def test_autocast_makes_what_the_convolution_makes_and_stays_near(case, init, train):
    module = stir(case.build(init)).train(train)
    for dtype in (torch.float32, torch.bfloat16):
        x = case.input(dtype=dtype)
        reference = module(x.float())
        with torch.autocast("cpu", torch.bfloat16):
            y, grads = gradients(module, x)
            assert y.dtype == module.conv(x).dtype
        assert all(g.isfinite().all() for g in grads)
        torch.testing.assert_close(y.float(), reference, rtol=0.1, atol=0.1)


@each_case
@each_init
def test_under_autocast_the_identity_is_the_convolution_to_the_bit(case, init):
    conv, x = case.conv(), case.input(4)
    module = case.build(init, conv=conv)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(module(x), conv(x)) == (init == "identity")


@each_case
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_module_of_another_dtype_computes_in_it(case, dtype):
    module, x = stir(case.build()).eval(), case.input(dtype=dtype)
    reference = module(x.float())
    y = module.to(dtype)(x)
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), reference, rtol=0.1, atol=0.1)


@each_case
@each_mode
def test_half_precision_does_not_overflow_on_large_values(case, train):
    module = case.build().half().train(train)
    assert module(1000 * case.input(dtype=torch.float16)).isfinite().all()


@each_case
@each_init
def test_the_meta_device_is_enough_to_plan(case, init):
    with torch.device("meta"):
        module, x = case.build(init), case.input()
    y = module(x)
    assert (y.shape, y.device.type) == (x.shape, "meta")
    assert all(t.device.type == "meta" for t in module.state_dict().values())
