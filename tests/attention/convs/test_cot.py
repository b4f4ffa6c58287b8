"""CoT against its equation in plain operations, and its parameters."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from attnsurgeon.attention.registry import create_attention, lookup
from attnsurgeon.errors import MechanismError
from tests.attention.cases import params, stir


def mixed(cot, z, context, windows):
    """Returns the branches, mixed: the context, and its kernels' sums of (N, C, window, ...)."""
    w = cot.span(torch.relu(cot.embed_norm(cot.embed(torch.cat((z, context), dim=1)))))
    w = cot.span_norm(w).unflatten(1, (1, 2, -1))
    windows = windows.unflatten(1, (8, 2))  # channel 2 i + j has kernel j
    found = F.silu(cot.norm((windows * w).sum(3).flatten(1, 2)))
    pooled = (found + context).flatten(2).mean(2)
    a = cot.expand(torch.relu(cot.squeeze_norm(cot.squeeze(pooled))))
    a = a.reshape(2, 16, 2, *[1] * (z.dim() - 2)).softmax(2)
    return found * a[:, :, 0] + context * a[:, :, 1]


@pytest.mark.parametrize("stride", [1, 2])
def test_windows_are_summed_by_kernels_that_the_context_makes(stride):
    conv = nn.Conv2d(16, 16, 3, stride, 1, bias=False)
    cot = stir(create_attention("cot", conv=conv).double().eval())
    x = torch.randn(2, 16, 5, 7, dtype=torch.float64)
    z = F.avg_pool2d(x, 3, 2, 1, count_include_pad=False) if stride == 2 else x
    context = torch.relu(cot.key_norm(F.conv2d(z, cot.key.weight, padding=1, groups=4)))
    windows = F.unfold(cot.value_norm(cot.value(z)), 3, padding=1)
    windows = windows.reshape(2, 16, 9, *z.shape[2:])
    torch.testing.assert_close(cot(x), mixed(cot, z, context, windows))


def test_the_window_of_a_signal_is_a_span():
    cot = create_attention("cot", conv=nn.Conv1d(16, 16, 3, padding=1, bias=False))
    cot = stir(cot.double().eval())
    x = torch.randn(2, 16, 7, dtype=torch.float64)
    context = torch.relu(cot.key_norm(F.conv1d(x, cot.key.weight, padding=1, groups=4)))
    windows = F.pad(cot.value_norm(cot.value(x)), (1, 1)).unfold(2, 3, 1).transpose(2, 3)
    torch.testing.assert_close(cot(x), mixed(cot, x, context, windows))


def test_parameters_of_one_site():
    conv = nn.Conv2d(64, 64, 3, padding=1, bias=False)
    assert lookup("cot").params(conv) == params(create_attention("cot", conv=conv)) == 26_744


def test_channels_that_are_no_multiple_of_eight_are_refused():
    with pytest.raises(MechanismError, match="groups=8 do not divide 12 channels"):
        create_attention("cot", conv=nn.Conv2d(12, 12, 3, padding=1))
