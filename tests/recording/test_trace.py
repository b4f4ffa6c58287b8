"""The record of one forward: what happened, in order, and a model that was only read."""

import copy
import pickle
import random
import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attnsurgeon.errors import ModelError
from attnsurgeon.recording.record import Call, Event, operation_name
from attnsurgeon.recording.trace import trace
from tests.nets.blocks import InPlace, Net, Plain
from tests.nets.cases import CASES
from tests.nets.wayward import DecidesByData, SilentSwitch, Tries
from tests.nets.whole import Twice

PLAIN_CALL = nn.Module.__call__


def image(*size: int) -> tuple[torch.Tensor, ...]:
    return (torch.empty(2, *(size or (3, 13, 11)), device="meta"),)


def names(call: Call) -> list[str]:
    return [e.name if isinstance(e, Event) else f"{e.path}()" for e in call.events]


def test_a_forward_is_written_down_in_order():
    (block,) = trace(Net(Plain()), image()).calls["blocks.0"]
    assert names(block) == [
        *("blocks.0.conv1()", "blocks.0.bn1()", "relu"),
        *("blocks.0.conv2()", "blocks.0.bn2()", "blocks.0.down()", "add", "relu"),
    ]
    assert [e.ordinal for e in block.events if isinstance(e, Event)] == [0, 0, 1]


def test_values_know_shape_call_and_whether_they_depend_on_the_input():
    traced = trace(Net(Plain()), image())
    (conv,) = traced.calls["blocks.0.conv1"]
    (made,) = conv.outputs
    assert made.meta["shape"] == (2, 7, 13, 11)
    assert made.meta["call"] is conv
    weight = next(n for n in made.all_input_nodes if n.op == "get_attr")
    assert weight.target == "blocks.0.conv1.weight"
    assert (made.meta["data"], weight.meta["data"]) == (True, False)


def test_each_call_of_a_shared_block_has_its_own_record():
    first, second = trace(Twice(), image()).calls["block"]
    assert (first.index, second.index) == (0, 1)
    assert second.inputs == first.outputs
    assert first.end <= second.start


def test_a_change_in_place_makes_a_new_value_over_the_old_one():
    traced = trace(Net(InPlace()), image())
    first, _ = traced.calls["blocks.0.relu"]
    (made,) = first.outputs
    assert made.meta["over"] is first.inputs[0]
    assert first.inputs_after == first.outputs
    (conv,) = traced.calls["blocks.0.conv1"]
    assert conv.inputs_after == conv.inputs
    assert "over" not in conv.outputs[0].meta


def test_what_hands_its_input_through_makes_no_value():
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Dropout(0.5), nn.Identity(), nn.ReLU())
    traced = trace(net, image())
    (dropout,) = traced.calls["1"]
    assert dropout.outputs == dropout.inputs == traced.calls["0"][0].outputs
    assert [e.alias for e in dropout.events if isinstance(e, Event)] == [True]


def test_the_parts_of_one_result_are_values_of_their_own():
    class Halves(nn.Module):
        def forward(self, x):
            _, right = x.split([1, 2], dim=1)
            return right

    root = trace(Halves(), image()).root
    (event,) = root.events
    assert isinstance(event, Event)
    assert [n.meta["shape"] for n in event.nodes] == [(2, 1, 13, 11), (2, 2, 13, 11)]
    assert root.outputs == (event.nodes[1],)


def test_inputs_may_be_dicts_and_lists():
    class Sum(nn.Module):
        def forward(self, given, *, more):
            return given["a"] + given["rest"][0] + more

    net = Sum()
    x = torch.empty(2, 3, 5, device="meta")
    traced = trace(nn.Sequential(), image())
    assert traced.root.outputs == traced.root.inputs

    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.sum = net

        def forward(self, given):
            return self.sum({"a": given["x"], "rest": [given["y"]]}, more=given["x"])

    call = trace(Root(), ({"x": x, "y": x.clone()},)).calls["sum"][0]
    assert [n.meta["shape"] for n in call.inputs] == [(2, 3, 5)] * 3
    assert call.inputs[0] is call.inputs[2]
    assert call.inputs[0] is not call.inputs[1]


def test_a_forward_that_looks_at_values_is_run_on_numbers_and_says_why():
    traced = trace(Net(DecidesByData()), image())
    assert traced.device == "cpu"
    assert traced.why_real is not None
    assert "meta" in traced.why_real
    assert trace(Net(Plain()), image()).why_real is None


def test_an_error_that_only_meta_raises_is_not_taken_for_the_forward():
    traced = trace(Net(Tries()), image())
    assert traced.device == "cpu"
    assert names(traced.calls["blocks.0"][0])[:2] == ["blocks.0.picky()", "blocks.0.conv1()"]


def test_an_error_that_the_forward_catches_leaves_the_order_of_calls_intact():
    class Fails(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(2, 2)

        def forward(self, x):
            return self.inner(x)

    class Catches(nn.Module):
        def __init__(self):
            super().__init__()
            self.fails, self.conv = Fails(), nn.Conv2d(3, 5, 3)

        def forward(self, x):
            try:
                return self.fails(x)
            except RuntimeError:
                return self.conv(x)

    traced = trace(Catches(), image())
    (conv,) = traced.calls["conv"]
    assert conv.parent is traced.root
    assert traced.root.outputs == conv.outputs


def test_tensors_in_plain_attributes_are_constants():
    class Tabled(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = [torch.ones(3, 1, 1)]

        def forward(self, x):
            return x * self.table[0]

    (made,) = trace(Tabled(), image()).root.outputs
    assert [n.meta["data"] for n in made.all_input_nodes] == [True, False]


def test_a_wrong_size_is_a_model_error_that_names_the_size():
    with pytest.raises(ModelError, match=r"cannot be run on an input of \(2, 4, 13, 11\)") as error:
        trace(Net(Plain()), image(4, 13, 11))
    assert error.value.hint is not None
    assert "input_size=(3, 224, 224)" in error.value.hint


def test_a_network_on_meta_that_needs_numbers_is_refused():
    with pytest.raises(ModelError, match="cannot be run on the meta device"):
        trace(Net(DecidesByData()).to("meta"), image())


def test_a_train_method_that_returns_nothing_is_no_obstacle():
    net = SilentSwitch()
    assert trace(net, image(5, 13, 11)).calls["bn2"]
    assert net.training


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_tracing_works_inside_other_modes(mode):
    with mode():
        traced = trace(Net(InPlace()), image())
    assert traced.device == "meta"
    assert "over" in traced.calls["blocks.0.relu"][0].outputs[0].meta


def test_the_patch_is_gone_after_an_error_inside_the_forward():
    class Raises(nn.Module):
        def forward(self, x):
            raise KeyError("mine")

    with pytest.raises(ModelError, match="KeyError: 'mine'"):
        trace(Raises(), image())
    assert nn.Module.__call__ is PLAIN_CALL


def test_modules_of_other_threads_run_as_ever_and_leave_no_trace():
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
        records = [trace(Net(Plain()), image()) for _ in range(5)]
    finally:
        stop.set()
        worker.join()
    assert wrong == []
    assert all(len(r.calls) == len(records[0].calls) == 10 for r in records)


def test_two_threads_that_trace_leave_modules_as_they_were():
    found: list[int] = []

    def work() -> None:
        found.extend(len(trace(Net(Plain()), image()).calls) for _ in range(5))

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert found == [10] * 10
    assert nn.Module.__call__ is PLAIN_CALL


def states() -> tuple:
    """The three generators, as plain values."""
    return random.getstate(), torch.get_rng_state().tolist(), pickle.dumps(np.random.get_state())


def snapshot(net: nn.Module) -> list:
    """Everything a look from outside could find changed."""
    return [
        (
            id(module),
            type(module),
            module.training,
            {name: id(value) for name, value in vars(module).items()},
            {name: list(value) for name, value in vars(module).items() if isinstance(value, dict)},
        )
        for module in net.modules()
    ]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_model_the_dice_and_the_modes_stay_as_they_were(case):
    net = case.build()
    next(net.children()).eval()  # flags that differ from module to module
    before = snapshot(net)
    values = {name: (t.data_ptr(), t.clone()) for name, t in net.state_dict().items()}
    dice = states()

    trace(net, image(*case.size))

    assert snapshot(net) == before
    now = net.state_dict()
    assert all(
        now[name].data_ptr() == pointer and torch.equal(now[name], value)
        for name, (pointer, value) in values.items()
    )
    assert states() == dice
    assert torch.is_grad_enabled()


def test_a_real_run_that_throws_dice_gives_them_back():
    class Noisy(nn.Module):
        def forward(self, x):
            noisy = x + torch.randn_like(x) + random.random() + np.random.rand()
            return noisy if noisy.sum() > -1e9 else x

    dice = states()
    assert trace(Noisy(), image()).device == "cpu"
    assert states() == dice


def test_a_network_that_deepcopy_refuses_is_run_on_numbers_too():
    (case,) = [case for case in CASES if case.name == "old weight_norm"]
    inner = case.build()
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(inner)

    class Looking(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            y = self.inner(x)
            return y if y.sum() > -1e9 else -y

    assert trace(Looking(), image()).device == "cpu"


@pytest.mark.parametrize(
    ("expression", "name"),
    [
        (lambda x: x + 1, "add"),
        (lambda x: 1 + x, "add"),
        (lambda x: x.add_(1), "add"),
        (lambda x: torch.add(x, 1), "add"),
        (lambda x: 2 - x, "sub"),
        (lambda x: 2 / x, "div"),
        (lambda x: x / 2, "div"),
        (lambda x: 2**x, "pow"),
        (lambda x: x**2, "pow"),
        (lambda x: x % 3, "remainder"),
        (lambda x: x @ x, "matmul"),
        (lambda x: x.mT, "mT"),
        (lambda x: x[0], "getitem"),
        (lambda x: torch.concat([x, x]), "cat"),
        (lambda x: F.relu(x, inplace=True), "relu"),
        (lambda x: F.hardtanh_(x), "hardtanh"),
    ],
)
def test_one_operation_has_one_name_however_it_is_spelled(expression, name):
    class Spelled(nn.Module):
        def forward(self, x):
            return expression(x)

    assert names(trace(Spelled(), (torch.empty(3, 3, device="meta"),)).root) == [name]


def test_names_of_functions_and_of_fx_targets_agree():
    assert operation_name("add_") == operation_name(torch.Tensor.__iadd__) == "add"
    assert operation_name(torch.relu_) == operation_name(F.relu) == "relu"


class Anchors(nn.Module):
    """Lays out something by the numbers of a constant, as detectors do by their strides."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.strides = nn.Conv2d(3, 4, 1), torch.tensor([8.0, 16.0])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        return x * torch.cat([x.new_full((x.shape[2] // 2, 1), step) for step in self.strides])


def test_a_constant_that_is_read_does_not_need_a_run_on_values():
    net = Anchors()
    traced = trace(net, (torch.empty(2, 3, 4, 6, device="meta"),))
    assert (traced.device, traced.why_real) == ("meta", None)
    assert net.strides.tolist() == [8, 16]


class ForEachValue(nn.Module):
    """Looks at the positions one by one, as a search for points does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        total = torch.zeros(())
        for value in self.conv(x).flatten():
            total = total + value.relu()
        return total


@pytest.mark.parametrize("most", [40, 10_000])
def test_a_forward_that_goes_through_all_values_is_refused(monkeypatch, most):
    monkeypatch.setattr("attnsurgeon.recording.trace.MOST_OPERATIONS", most)
    if most > 2 * 5 * 5 * 3:
        assert len(trace(ForEachValue(), (torch.zeros(2, 3, 5, 5),)).root.events) > 100
        return
    with pytest.raises(ModelError, match="runs more than 40 operations, most of them in ForEach"):
        trace(ForEachValue(), (torch.zeros(2, 3, 5, 5),))
