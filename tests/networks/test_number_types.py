"""A network may compute in any floating-point type; its input follows its weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import attnsurgeon
from attnsurgeon.recording.trace import as_taken


@pytest.mark.slow
@pytest.mark.parametrize(
    "dtype",
    [
        torch.bfloat16,
        *(pytest.param(t, marks=pytest.mark.slow) for t in (torch.float16, torch.float64)),
    ],
)
def test_a_network_of_another_type_is_operated_weighed_verified_and_audited(dtype):
    single = attnsurgeon.insert(attnsurgeon.load_model("test_resnet"), "se", "residual-branch")
    model = attnsurgeon.load_model("test_resnet").to(dtype)
    operation = attnsurgeon.insert(model, "se", "residual-branch")

    assert {p.dtype for p in operation.model.parameters()} == {dtype}
    assert operation.cost.before.macs == single.cost.before.macs
    assert operation.cost.delta.params == single.cost.delta.params
    assert operation.verify().problems == ()
    assert attnsurgeon.audit(operation.model).ok


def test_a_network_that_looks_at_values_is_run_on_numbers_of_its_own_type():
    class Looking(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 5, 3)

        def forward(self, x):
            return self.conv(x) if x.sum() > 0 else x

    assert len(attnsurgeon.find_sites(Looking().double(), input_size=(3, 20, 28))) > 0


def test_whole_numbers_stay_what_they_are():
    model = nn.Linear(3, 5).half()

    assert as_taken(torch.ones(2, 3), model).dtype == torch.float16
    assert as_taken(torch.ones(2, 3, dtype=torch.int64), model).dtype == torch.int64
    assert as_taken(torch.ones(2, 3), nn.ReLU()).dtype == torch.float32
