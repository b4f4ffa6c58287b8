"""What carries a replaced convolution elsewhere: tracing, compiling, exporting, copying, dtypes."""

import copy
import io
import pickle

import pytest
import torch

from tests.attention.cases import each_init, each_mode, gradients, stir
from tests.attention.convs.cases import SIZES, each
from tests.attention.convs.test_contract import CASES

each_case = each(CASES)


def given(case, init, x):
    """Returns what the mechanism in a network is handed: with the identity, the old output too."""
    return (x,) if init == "paper" else (x, torch.randn_like(x))


@each_case
@each_init
@each_mode
def test_symbolic_tracing_gives_the_same_function_at_any_size(case, init, train):
    module = stir(case.part(init)).train(train)
    traced = torch.fx.symbolic_trace(copy.deepcopy(module))
    for size in (SIZES[case.rank], (1,) * case.rank):
        inputs = given(case, init, case.input(1, size))
        torch.testing.assert_close(traced(*inputs), module(*inputs), rtol=0, atol=0)


@each_case
def test_a_traced_module_still_changes_its_mode(case):
    module, x = stir(case.part()).train(), case.input()
    traced = torch.fx.symbolic_trace(copy.deepcopy(module)).eval()
    torch.testing.assert_close(traced(x), module.eval()(x), rtol=0, atol=0)


@pytest.mark.slow
@each_case
@pytest.mark.parametrize(("init", "train"), [("paper", True), ("identity", False)])
def test_it_compiles_without_a_graph_break(case, init, train):
    torch._dynamo.reset()  # or the next mechanism is taken for a recompilation of the last
    module = stir(case.part(init)).train(train)
    inputs = given(case, init, case.input())
    compiled = torch.compile(copy.deepcopy(module), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(*inputs), module(*inputs))


@pytest.mark.slow
@each_case
@each_init
def test_it_exports_for_any_batch_and_resolution(case, init):
    module = stir(case.part(init)).eval()
    size = tuple(n + 4 for n in SIZES[case.rank])  # a window of sc's is to be no whole axis
    inputs = given(case, init, case.input(2, size))
    free = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    exported = torch.export.export(module, inputs, dynamic_shapes=(free,) * len(inputs)).module()
    size = tuple(n + 2 * (2 + axis in free) for axis, n in enumerate(size))
    others = given(case, init, case.input(3, size))
    torch.testing.assert_close(exported(*others), module(*others))


@each_case
@each_init
def test_copies_are_equal_and_apart(case, init):
    module = stir(case.part(init)).eval()
    inputs = given(case, init, case.input())
    expected = module(*inputs).detach()
    copies = [copy.deepcopy(module), pickle.loads(pickle.dumps(module))]
    assert not torch.equal(stir(module)(*inputs), expected)
    for twin in copies:
        assert torch.equal(twin(*inputs), expected)


@each_case
@each_init
def test_a_state_dict_carries_everything_that_was_learned(case, init):
    trained, fresh = stir(case.part(init)).eval(), case.part(init).eval()
    inputs = given(case, init, case.input())
    file = io.BytesIO()
    torch.save(trained.state_dict(), file)
    file.seek(0)
    fresh.load_state_dict(torch.load(file, weights_only=True), strict=True)
    assert torch.equal(fresh(*inputs), trained(*inputs))


@each_case
@each_init
@each_mode
def test_autocast_makes_what_the_convolution_makes_and_stays_near(case, init, train):
    conv = case.conv()
    module = stir(case.build(init, conv=conv)).train(train)
    for dtype in (torch.float32, torch.bfloat16):
        x = case.input(dtype=dtype)
        reference = module(x.float())
        with torch.autocast("cpu", torch.bfloat16):
            y, grads = gradients(module, x)
            assert y.dtype == conv(x).dtype
        assert all(g.isfinite().all() for g in grads)
        torch.testing.assert_close(y.float(), reference, rtol=0.1, atol=0.1)


@each_case
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_module_of_another_dtype_computes_in_it(case, dtype):
    module, x = stir(case.part()).eval(), case.input(dtype=dtype)
    reference = module(x.float())
    y = module.to(dtype)(x)
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), reference, rtol=0.1, atol=0.1)


@each_case
@each_mode
def test_half_precision_does_not_overflow_on_large_values(case, train):
    module = case.part().half().train(train)
    assert module(1000 * case.input(dtype=torch.float16)).isfinite().all()


@each_case
@each_init
def test_the_meta_device_is_enough_to_plan(case, init):
    with torch.device("meta"):
        module, x = case.part(init), case.input()
        inputs = given(case, init, x)
    y = module(*inputs)
    assert (y.shape, y.device.type) == (x.shape, "meta")
    assert all(t.device.type == "meta" for t in module.state_dict().values())
