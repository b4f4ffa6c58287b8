"""The graph of one forward: the record's, or a reason why there is none."""

import copy
import random
import threading

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from attnsurgeon.alignment import Untraceable
from attnsurgeon.record import Call
from attnsurgeon.shallow import ShallowGraph, shallow_graph
from attnsurgeon.trace import trace
from tests.nets.blocks import (
    Assigning,
    Dropped,
    FunctionalDropout,
    ListOfChunks,
    MaybeShortcut,
    Net,
    NoiseInTraining,
    Plain,
    ScaledAndDropped,
    Variadic,
)
from tests.nets.wayward import (
    Collects,
    DecidesBySize,
    DeviceOfParameters,
    FullPrecision,
    OwnFunction,
    Remembers,
    Replaced,
    SkipsAtRandom,
    TellsTypes,
    Tries,
    Ungraded,
)
from tests.nets.whole import Containers, KeywordOnly, Resized, Twice


def calls_of(net: nn.Module, path: str = "blocks.0", size=(3, 13, 11)) -> list[Call]:
    return trace(net, (torch.empty(2, *size, device="meta"),)).calls[path]


def graph_of(net: nn.Module, path: str = "blocks.0", **kwargs) -> ShallowGraph:
    return shallow_graph(calls_of(net, path, **kwargs))


def steps(graph: torch.fx.Graph) -> list[str]:
    return [
        getattr(n.target, "__name__", str(n.target))
        for n in graph.nodes
        if n.op not in ("placeholder", "output")
    ]


def test_children_are_leaves_and_keys_count_by_name():
    graph = graph_of(Net(Plain()))
    assert steps(graph.evaluate) == [
        *("conv1", "bn1", "relu", "conv2", "bn2", "down", "add", "relu"),
    ]
    keys = [n.meta["key"] for n in graph.evaluate.nodes if "key" in n.meta]
    assert keys[:3] == [("module", "conv1", 0), ("module", "bn1", 0), ("function", "relu", 0)]
    assert keys[-1] == ("function", "relu", 1)
    assert graph.train is None
    assert not graph.structured


def test_each_mode_has_its_graph_where_they_differ():
    graph = graph_of(Net(FunctionalDropout()))
    assert graph.train is not None
    dropout = next(n for n in graph.train.nodes if n.name.startswith("dropout"))
    assert dropout.kwargs["training"] is True
    assert steps(graph.train) == steps(graph.evaluate)


def test_a_key_means_the_same_line_of_code_in_both_modes():
    graph = graph_of(Net(NoiseInTraining()))
    assert graph.train is not None
    adds = [n for n in graph.train.nodes if n.name.startswith("add")]
    assert [n.meta.get("key") for n in adds] == [None, ("function", "add", 0)]
    assert graph.holds(("function", "add", 0))


def test_an_operation_of_one_mode_only_is_held_by_none():
    class EvalOnly(Plain):
        def forward(self, x):
            out = super().forward(x)
            return out if self.training else out * 2

    graph = graph_of(Net(EvalOnly()))
    assert not graph.holds(("function", "mul", 0))
    assert graph.holds(("function", "add", 0))


def test_results_that_are_thrown_away_are_used_in_the_graph():
    graph = graph_of(Net(Dropped()))
    nodes = list(graph.evaluate.nodes)
    assert steps(graph.evaluate) == ["conv1", "bn1", "relu", "conv2", "bn2", "add_", "relu_"]
    assert all(n.users for n in nodes if n.op != "output")
    assert graph.shadowed == {
        ("module", "relu", 0), ("function", "add", 0), ("function", "relu", 0)
    }  # fmt: skip


def test_item_assignment_is_an_operation_on_its_target():
    graph = graph_of(Net(Assigning()))
    setitem = next(n for n in graph.evaluate.nodes if n.name.startswith("setitem"))
    assert [user.name for user in setitem.users] == ["add"]


def test_in_place_operators_stay_in_place():
    class Adds(Plain):
        def forward(self, x):
            out = kept = self.conv1(x)
            out += 1
            out *= 2
            return self.conv2(kept)  # the same tensor

    graph = graph_of(Net(Adds()))
    assert steps(graph.evaluate) == ["conv1", "iadd", "imul", "conv2"]
    (last,) = [n for n in graph.evaluate.nodes if n.target == "conv2"]
    assert [n.name for n in last.all_input_nodes] == ["imul"]


def test_numbers_are_not_changed_in_place():
    class Counts(Plain):
        def forward(self, x):
            height = kept = x.shape[2]
            height += 1
            return self.conv2(self.conv1(x)) * height / kept

    graph = graph_of(Net(Counts()))
    assert "add" in steps(graph.evaluate)
    assert "iadd" not in steps(graph.evaluate)


def test_a_list_of_chunks_is_followed():
    graph = graph_of(Net(ListOfChunks()))
    assert steps(graph.evaluate) == ["cv1", "chunk", *["getitem"] * 2, "m.0", "m.1", "cat", "cv2"]


@pytest.mark.parametrize("net", [lambda: Net(Variadic()), lambda: Net(MaybeShortcut())])
def test_variadic_and_optional_arguments_are_flattened(net):
    graph = graph_of(net())
    assert graph.structured
    assert [n.target for n in graph.evaluate.nodes if n.op == "placeholder"] == ["x0"]


def test_dicts_and_lists_of_tensors_are_followed():
    graph = graph_of(Containers(), "block")
    assert steps(graph.evaluate)[:4] == ["getitem", "getitem", "getitem", "mul"]


def test_a_size_given_as_int_is_no_constant():
    graph = graph_of(Resized(), "block")
    assert graph.structured
    assert [n.target for n in graph.evaluate.nodes if n.op == "placeholder"] == ["x0", "x1"]


def test_attributes_that_the_forward_reads_are_known():
    class Strong(Plain):
        def __init__(self):
            super().__init__()
            self.strength, self.unused, self.pads = 0.5, 3, (1, 1)

        def forward(self, x):
            return F.pad(super().forward(x) * self.strength, self.pads)

    assert graph_of(Net(Strong())).reads == (("pads", (1, 1)), ("strength", 0.5))
    assert graph_of(Net(ScaledAndDropped())).reads == ()


class Methods(Plain):
    def forward(self, x):
        return self.finish(self._start(x))

    def _start(self, x):
        return F.relu(self.bn1(self.conv1(x)))

    def finish(self, x):
        return F.relu(self.bn2(self.conv2(x)))


def test_operations_know_the_method_they_stand_in():
    methods = graph_of(Net(Methods())).methods
    assert methods["function", "relu", 0] == "_start"
    assert methods["function", "relu", 1] == "finish"
    assert graph_of(Net(Plain())).methods["function", "relu", 0] == "forward"


class ChecksRank(Plain):
    def forward(self, x):
        if x.dim() != 4:
            raise ValueError
        return super().forward(x)


class Iterates(Plain):
    def forward(self, x):
        return super().forward(torch.stack([one for one in x]))  # noqa: C416


class AsksLength(Plain):
    def forward(self, x):
        return super().forward(x) / len(x)


class MakesConstant(Plain):
    def forward(self, x):
        return super().forward(x + torch.tensor(1.0))


class NamesDevice(Plain):
    def forward(self, x):
        return super().forward(x + torch.zeros_like(x, device=torch.device("cpu")))


class AsksAttribute(Plain):
    """hasattr of a proxy is always true, and of a tensor it is not."""

    def forward(self, x):
        return super().forward(x * (2.0 if hasattr(x, "decompose") else 0.5))


class SwapsInputs(Plain):
    """The operations have the same names, and other values go in."""

    def forward(self, x):
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        first, second = (out, x) if isinstance(x, Tensor) else (x, out)
        return first.relu() + second.sigmoid()


class ReturnsOther(Plain):
    def forward(self, x):
        out, other = super().forward(x), x.sigmoid()
        return out if isinstance(x, Tensor) else other


class ChecksIn(Plain):
    """A checkpoint around the block's own code."""

    def forward(self, x):
        return checkpoint(super().forward, x, use_reentrant=False)


class OwnSetup(torch.autograd.Function):
    """An autograd function whose forward has no ctx."""

    @staticmethod
    def forward(x):  # type: ignore[override]
        return x * 2

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, grad):  # type: ignore[override]
        return grad * 2


class NewFunction(Plain):
    def forward(self, x):
        return super().forward(OwnSetup.apply(x))


class PythonDice(Plain):
    def forward(self, x):
        return super().forward(x * (1 + random.random()))


class TorchDice(Plain):
    """LayerDrop: in training a tensor that no input has touched decides."""

    def forward(self, x):
        if self.training and torch.rand([]) < 0.5:
            return x
        return super().forward(x)


class Replacing(Plain):
    """Puts a new buffer in the place of the old one."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(5))

    def forward(self, x):
        self.mean = x.mean((0, 2, 3))
        return super().forward(x)


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (DecidesBySize, "decides by a value"),
        (ChecksRank, "decides by a value"),
        (Iterates, "iterates over the values"),
        (AsksLength, "asks for the length"),
        (MakesConstant, "constant tensor"),
        (NamesDevice, "names a device"),
        (TellsTypes, "gives mul other constants"),
        (AsksAttribute, "gives mul other constants"),
        (SwapsInputs, "gives relu#2 other values"),
        (ReturnsOther, "returns other values"),
        (OwnFunction, "autograd function"),
        (NewFunction, "autograd function"),
        (ChecksIn, "under a checkpoint"),
        (Ungraded, "switches gradients or autocast"),
        (FullPrecision, "switches gradients or autocast"),
        (Remembers, r"leaves something behind on the module \(last\)"),
        (Collects, r"leaves something behind on the module \(maps\)"),
        (Replacing, "mean|buffer"),
        (PythonDice, "throws dice"),
        (TorchDice, "throws dice"),
        (SkipsAtRandom, "throws dice"),
        (DeviceOfParameters, "looks at its own parameters"),
        (Replaced, "replaced on the object itself"),
    ],
)
def test_what_a_graph_cannot_hold_is_refused_with_the_reason(block, reason):
    calls = calls_of(Net(block()))
    with pytest.raises(Untraceable, match=reason):
        shallow_graph(calls)


def test_calls_that_take_different_ways_are_refused():
    class TwoWays(Plain):
        def forward(self, x, again=False):
            out = super().forward(x)
            return out.sigmoid() if again else out

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = TwoWays()

        def forward(self, x):
            return self.block(self.block(x), True)

    calls = calls_of(Both(), "block", size=(5, 13, 11))
    with pytest.raises(Untraceable, match="different ways"):
        shallow_graph(calls)
    assert len(shallow_graph(calls_of(Twice(), "block")).evaluate.nodes) == 10


def test_code_that_python_cannot_write_is_flattened_instead():
    class Signed(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = KeywordOnly()

        def forward(self, x):
            return self.block(x, sign=-1.0)

    assert graph_of(Signed(), "block", size=(5, 13, 11)).structured


def test_the_place_of_a_foreign_error_is_named():
    calls = calls_of(Net(Tries()), "blocks.0.picky")
    with pytest.raises(Untraceable, match=r"\(wayward\.py:\d+\)"):
        shallow_graph(calls)


@pytest.mark.parametrize("block", [Plain, FunctionalDropout, Remembers, Collects, SkipsAtRandom])
def test_a_trace_leaves_nothing_on_the_twin_and_throws_no_dice(block):
    (call,) = calls_of(Net(block()))
    modules = list(call.module.modules())
    before = [(type(m), m.training, dict(vars(m)), copy.copy(m._buffers)) for m in modules]
    lists = [[list(v) for v in vars(m).values() if isinstance(v, list)] for m in modules]
    dice = random.getstate(), torch.get_rng_state().tolist()
    try:
        shallow_graph([call])
    except Untraceable:
        assert block in (Remembers, Collects, SkipsAtRandom)
    after = [(type(m), m.training, dict(vars(m)), copy.copy(m._buffers)) for m in modules]
    assert [a[:2] for a in after] == [b[:2] for b in before]
    for (*_, old, old_buffers), (*_, new, new_buffers) in zip(before, after, strict=True):
        assert list(old) == list(new)
        assert all(old[name] is new[name] for name in old)
        assert list(old_buffers) == list(new_buffers)
    assert [[list(v) for v in vars(m).values() if isinstance(v, list)] for m in modules] == lists
    assert (random.getstate(), torch.get_rng_state().tolist()) == dice


def test_modules_of_other_threads_pass_while_a_forward_is_traced():
    busy, stop, wrong = Net(Plain()).eval(), threading.Event(), []
    x = torch.randn(1, 3, 5, 7)
    with torch.no_grad():
        expected = busy(x)

    def work() -> None:
        while not stop.is_set():
            try:
                with torch.no_grad():
                    wrong.extend([] if torch.equal(busy(x), expected) else ["moved"])
            except Exception as error:
                wrong.append(repr(error))

    worker = threading.Thread(target=work)
    worker.start()
    try:
        graphs = [graph_of(Net(Plain())) for _ in range(5)]
    finally:
        stop.set()
        worker.join()
    assert wrong == []
    assert all(len(g.evaluate.nodes) == len(graphs[0].evaluate.nodes) == 10 for g in graphs)


def test_the_graph_computes_what_the_module_does():
    torch.manual_seed(0)
    net = Net(ListOfChunks()).eval()
    graph = graph_of(net)
    block = net.blocks[0]
    x = torch.randn(2, 5, 7, 3)
    assert torch.equal(torch.fx.GraphModule(block, graph.evaluate)(x), block(x))
