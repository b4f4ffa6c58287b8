"""Which functions with a backward of their own are called as such, and when not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from attnsurgeon.attention.gradients import applied

X = torch.tensor([1.0, -2.0, 3.0])


class Doubled(torch.autograd.Function):
    """2 x, whose gradient is 7: no plain operation has that."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 7 * grad


class WithContext(torch.autograd.Function):
    """The same, whose forward takes a context."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 7 * grad


def test_where_a_gradient_is_wanted_it_is_that_of_the_function():
    x = X.clone().requires_grad_()
    y = applied(Doubled, x)
    assert y.tolist() == [2, -4, 6]
    assert torch.autograd.grad(y.sum(), x)[0].tolist() == [7, 7, 7]
    assert torch.func.grad(lambda v: applied(Doubled, v).sum())(X).tolist() == [7, 7, 7]


@pytest.mark.parametrize("given", ["no input learns", "gradients are off", "inference"])
def test_where_none_is_wanted_it_is_not_called_as_a_function(given, monkeypatch):
    x = X.clone().requires_grad_(given != "no input learns")
    monkeypatch.setattr(Doubled, "apply", None)
    mode = {"gradients are off": torch.no_grad, "inference": torch.inference_mode}
    with mode.get(given, torch.enable_grad)():
        assert applied(Doubled, x).tolist() == [2, -4, 6]
    with pytest.raises(TypeError):  # this test can fail
        applied(Doubled, X.clone().requires_grad_())


def test_a_function_with_a_context_is_computed_plainly_by_what_is_given():
    x = X.clone().requires_grad_()
    y = applied(WithContext, x, plain=lambda v: 3 * v)
    assert torch.autograd.grad(y.sum(), x)[0].tolist() == [7, 7, 7]
    assert applied(WithContext, X, plain=lambda v: 3 * v).tolist() == [3, -6, 9]


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_a_trace_of_torchscript_has_plain_operations_also_where_gradients_are_on():
    def kinds(function: Any) -> set[str]:
        traced: Any = torch.jit.trace(function, X.clone().requires_grad_(), check_trace=False)
        return {node.kind() for node in traced.graph.nodes()}

    assert "aten::mul" in kinds(lambda x: applied(Doubled, x))
    assert "prim::PythonOp" not in kinds(lambda x: applied(Doubled, x))
    assert "prim::PythonOp" in kinds(lambda x: Doubled.apply(x))
