"""Results by shape alone: those of torch's own kernels, in shape, type and layout in memory."""

import operator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from attnsurgeon.recording.shape_only import shape_only


def maps() -> dict[str, Tensor]:
    made = torch.empty(2, 16, 6, 5)
    return {
        "plain": made[:, :8].contiguous(),
        "part": made[:, :8],
        "last": made.permute(0, 2, 3, 1)[..., :8].permute(0, 3, 1, 2).contiguous(),
        "channels last": made.to(memory_format=torch.channels_last)[:, :8].contiguous(
            memory_format=torch.channels_last
        ),
        "tokens": torch.empty(2, 7, 5, 8),
        "permuted": torch.empty(2, 8, 7, 5).permute(0, 2, 3, 1),
        "half": torch.empty(2, 8, 3, 3, dtype=torch.float16),
    }


def vector(size: int = 8) -> Tensor:
    return torch.ones(size)


CALLS = {
    "relu": lambda x: (F.relu, (x,), {}),
    "gelu": lambda x: (F.gelu, (x,), {"approximate": "tanh"}),
    "leaky": lambda x: (F.leaky_relu, (x, 0.2), {}),
    "sigmoid": lambda x: (torch.sigmoid, (x,), {}),
    "hardswish": lambda x: (F.hardswish, (x,), {}),
    "plus": lambda x: (torch.add, (x, 1), {"alpha": 2}),
    "sum": lambda x: (operator.add, (x, x), {}),
    "scaled": lambda x: (Tensor.mul, (x, torch.ones(x.shape[-1], dtype=x.dtype)), {}),
    "by channel": lambda x: (
        operator.mul,
        (x, torch.ones(1, x.shape[1], 1, 1, dtype=x.dtype)),
        {},
    ),
    "layer norm": lambda x: (F.layer_norm, (x, x.shape[-1:]), {}),
    "group norm": lambda x: (F.group_norm, (x, 1), {}),
    "batch norm": lambda x: (F.batch_norm, (x, vector(x.shape[1]), vector(x.shape[1])), {}),
    "standardised weight": lambda x: (F.batch_norm, (x, None, None), {"training": True}),
    "linear": lambda x: (F.linear, (x, torch.ones(3, x.shape[-1], dtype=x.dtype)), {}),
    "attention": lambda x: (F.scaled_dot_product_attention, (x, x, x), {}),
}


@pytest.mark.parametrize("layout", list(maps()))
@pytest.mark.parametrize("name", list(CALLS))
def test_it_has_the_shape_type_and_layout_of_the_kernel(name, layout):
    function, args, kwargs = CALLS[name](maps()[layout])
    on_meta = tuple(
        torch.empty_strided(a.shape, a.stride(), dtype=a.dtype, device="meta")
        if isinstance(a, Tensor)
        else a
        for a in args
    )
    made = shape_only(function, on_meta, kwargs)
    if made is None:
        return  # the function itself is called; that it is not always is the next test
    expected = function(*args, **kwargs)
    assert (made.shape, made.dtype, made.device.type) == (expected.shape, expected.dtype, "meta")
    if name != "attention":  # its kernels differ among themselves; it is torch's on meta
        assert made.stride() == expected.stride()


@pytest.mark.parametrize("name", list(CALLS))
def test_a_plain_map_is_answered(name):
    function, args, kwargs = CALLS[name](maps()["plain"])
    given = tuple(a.to("meta") if isinstance(a, Tensor) else a for a in args)
    assert shape_only(function, given, kwargs) is not None


LSTMS = [
    {},
    {"bidirectional": True},
    {"batch_first": True},
    {"num_layers": 2, "bidirectional": True, "batch_first": True, "bias": False},
    {"proj_size": 3, "num_layers": 2},
]


def run_lstm(x: Tensor, options: dict[str, Any], device: str) -> tuple[list[Tensor], list[Any]]:
    """What an LSTM returns, and what the rules make of its call."""
    answers: list[Any] = []

    class Ask(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func is torch.lstm:
                answers.append(shape_only(func, args, kwargs or {}))
            return func(*args, **(kwargs or {}))

    with torch.no_grad(), Ask():
        output, (hidden, cell) = nn.LSTM(8, 5, **options).to(device).eval()(x.to(device))
    return [output, hidden, cell], answers


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("options", LSTMS, ids=str)
def test_an_lstm_has_the_shapes_and_layouts_of_the_kernel(options):
    expected, _ = run_lstm(torch.randn(4, 7, 8), options, "cpu")
    _, (made,) = run_lstm(torch.randn(4, 7, 8), options, "meta")
    assert [(t.shape, t.stride()) for t in made] == [(t.shape, t.stride()) for t in expected]


def test_an_lstm_on_one_sequence_without_a_batch_or_of_another_width_is_answered_by_torch():
    lstm = nn.LSTM(8, 5, device="meta")
    weights, state = lstm._flat_weights, (torch.empty(1, 7, 5, device="meta"),) * 2
    rest = (True, 1, 0.0, False, False, False)
    assert shape_only(torch.lstm, (torch.empty(4, 7, 8, device="meta"), state, weights, *rest), {})
    for shape in ((7, 8), (4, 7, 9), (4, 6, 8)):
        x = torch.empty(shape, device="meta")
        assert shape_only(torch.lstm, (x, state, weights, *rest), {}) is None


@pytest.mark.parametrize(
    ("function", "args", "kwargs"),
    [
        (F.relu, (torch.empty(2, 3),), {}),  # not on meta
        (F.relu, (torch.empty(2, 3, device="meta"), True), {}),  # in place
        (F.relu, (torch.empty(2, 3, device="meta"),), {"inplace": True}),
        (torch.add, (torch.empty(2, 3, device="meta"),), {}),
        (torch.add, (torch.empty(2, 3, device="meta"), torch.empty(4, 2, 3, device="meta")), {}),
        (torch.add, (torch.empty(2, 3, device="meta"), torch.empty(2, device="meta")), {}),
        (torch.add, (torch.empty(2, 3, device="meta"), 1j), {}),
        (torch.add, (torch.empty(2, 3, device="meta", dtype=torch.int64), 0.5), {}),
        (torch.div, (torch.empty(2, 3, device="meta"), 2), {"rounding_mode": "floor"}),
        (F.linear, (torch.empty(2, 3, device="meta"), torch.empty(5, 4, device="meta")), {}),
        (F.layer_norm, (torch.empty(2, 3, device="meta"), (4,)), {}),
        (F.batch_norm, (torch.empty(2, 3, device="meta"), None, None), {}),
        (F.batch_norm, (torch.empty(1, 3, device="meta"), None, None), {"training": True}),
        (
            F.batch_norm,  # the running statistics change
            (torch.empty(2, 3, 4, device="meta"), *2 * [torch.empty(3, device="meta")]),
            {"training": True},
        ),
        (F.group_norm, (torch.empty(2, 3, 4, device="meta"), 2), {}),
        (torch.matmul, (torch.empty(2, 3, device="meta"),), {}),
    ],
)
def test_what_is_not_simple_is_left_to_the_function(function, args, kwargs):
    assert shape_only(function, args, kwargs) is None


def test_autocast_changes_types_and_is_left_to_the_function():
    x, w = torch.empty(2, 3, device="meta"), torch.empty(5, 3, device="meta")
    with torch.autocast("cpu", torch.bfloat16):
        assert shape_only(F.linear, (x, w), {}) is None
    assert shape_only(F.linear, (x, w), {}) is not None
