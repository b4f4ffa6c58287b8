"""What carries every mechanism elsewhere: tracing, compiling, exporting, copying, other dtypes."""

import copy
import io
import pickle

import pytest
import torch

from tests.attention.cases import (
    SIZES,
    each_init,
    each_mode,
    gradients,
    params,
    stir,
)


def to_export(case):
    """Returns the free axes, as torch.export wants them, an input, and one of other sizes there."""
    free = tuple(axis for axis in case.free_axes() if axis < case.rank + 2)
    size = tuple(n + case.export_margin for n in SIZES[case.rank])
    batch, _, *larger = (n + 2 * (axis in free) for axis, n in enumerate((2, case.channels, *size)))
    axes = dict.fromkeys(free, torch.export.Dim.DYNAMIC)
    return axes, case.input(2, size), case.input(batch, tuple(larger))


def in_onnx_runtime(module, x, free, file):
    """Exports a module to ONNX and returns what runs it there; skips where that is missing."""
    for name in ("onnx", "onnxscript"):
        pytest.importorskip(name)
    onnxruntime = pytest.importorskip("onnxruntime")
    torch.onnx.export(
        module,
        (x,),
        file,
        dynamo=True,
        dynamic_shapes=(free,),
        external_data=False,
        verbose=False,
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0])


@each_init
@each_mode
def test_symbolic_tracing_gives_the_same_function_at_any_size(case, init, train):
    module = stir(case.build(init)).train(train)
    traced = torch.fx.symbolic_trace(copy.deepcopy(module))
    for size in (SIZES[case.rank], (1,) * case.rank):
        x = case.input(1, size)
        torch.testing.assert_close(traced(x), module(x), rtol=0, atol=0)


def test_a_traced_module_still_changes_its_mode(case):
    module, x = stir(case.build()).train(), case.input()
    traced = torch.fx.symbolic_trace(copy.deepcopy(module)).eval()
    torch.testing.assert_close(traced(x), module.eval()(x), rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize(("init", "train"), [("paper", True), ("identity", False)])
def test_it_compiles_without_a_graph_break(case, init, train):
    torch._dynamo.reset()  # or the next mechanism is taken for a recompilation of the last
    module, x = stir(case.build(init)).train(train), case.input()
    compiled = torch.compile(copy.deepcopy(module), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), module(x))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@each_init
def test_a_file_of_torchscript_gives_the_same_for_another_batch(case, init):
    module, x, other = stir(case.build(init)).eval(), case.input(2), case.input(3)
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(module, x, check_trace=False), file)  # gradients are on
    file.seek(0)
    loaded = torch.jit.load(file)
    for value in (x, other):
        torch.testing.assert_close(loaded(value), module(value))


@pytest.mark.slow
@each_init
def test_it_exports_for_any_batch_and_resolution(case, init):
    module, (free, some, other) = stir(case.build(init)).eval(), to_export(case)
    exported = torch.export.export(module, (some,), dynamic_shapes=(free,)).module()
    torch.testing.assert_close(exported(other), module(other))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@each_init
def test_an_onnx_runtime_gives_the_same_for_any_batch_and_resolution(case, init, tmp_path):
    module, (free, some, other) = stir(case.build(init)).eval(), to_export(case)
    run = in_onnx_runtime(module, some, free, tmp_path / "attention.onnx")
    for x in (torch.randn_like(some), other, torch.zeros_like(some)):
        torch.testing.assert_close(run(x), module(x), rtol=0, atol=1e-4)


def in_the_classic_runtime(module, x, free, opset):
    """The same by the classic exporter, which traces."""
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    file, out = io.BytesIO(), module(x).dim()
    names = {axis: f"axis{axis}" for axis in free}
    torch.onnx.export(
        module,
        (x,),
        file,
        dynamo=False,
        opset_version=opset,
        input_names=["x"],
        output_names=["y"],
        dynamic_axes={"x": names, "y": {axis: name for axis, name in names.items() if axis < out}},
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4  # it warns of what it folds away
    session = onnxruntime.InferenceSession(
        file.getvalue(), options, providers=["CPUExecutionProvider"]
    )
    return lambda x: torch.from_numpy(session.run(None, {"x": x.numpy()})[0])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@each_init
@pytest.mark.parametrize("opset", [12, 17])
def test_the_classic_exporter_gives_the_same_for_any_batch_and_resolution(case, init, opset):
    module, (free, some, other) = stir(case.build(init)).eval(), to_export(case)
    run = in_the_classic_runtime(module, some, free, opset)
    for x in (torch.randn_like(some), other, torch.zeros_like(some)):
        torch.testing.assert_close(run(x), module(x), rtol=0, atol=1e-4)


@each_init
def test_copies_are_equal_and_apart(case, init):
    module, x = case.steady(stir(case.build(init))), case.input()
    expected = module(x).detach()
    copies = [copy.deepcopy(module), pickle.loads(pickle.dumps(module))]
    before = copy.deepcopy(module.state_dict())
    moved = case.moved(module)
    alone = all(map(torch.equal, before.values(), moved.state_dict().values()))
    assert not alone or not params(module) or (case.card.name, init) == ("we", "paper")
    if not alone:  # what is excited by its own size has nothing to move but its convolution
        assert not torch.equal(moved(x), expected)
    for twin in copies:
        assert torch.equal(twin(x), expected)


@each_init
def test_a_state_dict_carries_everything_that_was_learned(case, init):
    trained, fresh = (case.steady(m) for m in (stir(case.build(init)), case.build(init)))
    x = case.input()
    file = io.BytesIO()
    torch.save(trained.state_dict(), file)
    file.seek(0)
    fresh.load_state_dict(torch.load(file, weights_only=True), strict=True)
    assert torch.equal(fresh(x), trained(x))


@each_init
@each_mode
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_makes_the_dtype_that_was_there_and_stays_near(case, init, train, dtype):
    # Of two images alone, statistics over the batch are all but a sign, which rounding may turn.
    module, x = stir(case.build(init)).train(train), case.input(8, dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16):
        y, grads = gradients(module, x)
        wanted = case.before(x).dtype  # for a gate the input's, for a convolution that of autocast
    assert y.dtype == wanted
    assert all(g.isfinite().all() for g in grads)
    reference = module(x.float())
    scale = max(1.0, reference.std().item())  # what rounds are the terms of a sum, not the sum
    torch.testing.assert_close(y.float(), reference, rtol=0.1, atol=0.1 * scale)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_module_of_another_dtype_computes_in_it(case, dtype):
    module, x = stir(case.build()).eval(), case.input(dtype=dtype)
    reference = module(x.float())
    y = module.to(dtype)(x)
    assert y.dtype == dtype
    atol = 0.1 * max(1.0, reference.std().item())  # of numbers of the size of one, a tenth
    torch.testing.assert_close(y.float(), reference, rtol=0.1, atol=atol)


@pytest.mark.slow
@each_mode
def test_parameters_alone_may_be_in_half_precision(case, train):
    """As the mixed precision of `fully_shard` has them: buffers stay in the type they have."""
    module, x = stir(case.build("identity")).train(train), case.input(8)
    reference = copy.deepcopy(module)(x)
    held = [b for name, b in module.named_buffers() if name.startswith("old.")]  # the network's
    for tensor in (*module.parameters(), *held):
        tensor.data = tensor.data.bfloat16()
    y, grads = gradients(module, x.bfloat16())
    assert y.dtype == torch.bfloat16
    assert all(g.isfinite().all() for g in grads)
    scale = max(1.0, reference.std().item())
    torch.testing.assert_close(y.float(), reference, rtol=0.2, atol=0.2 * scale)


@each_mode
def test_half_precision_does_not_overflow_on_large_values(case, train):
    module = case.build().half().train(train)
    y = module(
        case.large(train) * case.input(dtype=torch.float16)
    )  # squared or summed, far above 65504
    assert y.isfinite().all()


@each_init
def test_the_meta_device_is_enough_to_plan(case, init):
    with torch.device("meta"):
        module, x = case.build(init), case.input()
    y = module(x)
    assert (y.shape, y.device.type) == (case.before(x).shape, "meta")
    assert all(t.device.type == "meta" for t in module.state_dict().values())
