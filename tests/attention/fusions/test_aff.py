"""AFF and iAFF against their equations by plain loops, and against published totals."""

import math

import pytest
import torch

from attnsurgeon.attention.registry import lookup
from attnsurgeon.errors import MechanismError
from tests.attention.cases import make, params, stir
from tests.attention.gates.sites import RESNET50
from tests.attention.loops import linear, means, normalised, relu

RESNET50_LATE = [1024] * 6 + [2048] * 3


def shares(context, total):
    """Returns the sigmoid of the local and the global context of (C, H, W), by loops."""

    def whole(z):
        hidden = relu(normalised(context.global_squeeze_norm, linear(context.global_squeeze, z)))
        return normalised(context.global_expand_norm, linear(context.global_expand, hidden))

    def local(z):
        hidden = relu(normalised(context.squeeze_norm, linear(context.squeeze, z)))
        return normalised(context.expand_norm, linear(context.expand, hidden))

    everywhere, found = whole(means(total)), torch.empty_like(total)
    for h in range(total.shape[1]):
        for w in range(total.shape[2]):
            here = local(total[:, h, w].tolist())
            for c, (near, far) in enumerate(zip(here, everywhere, strict=True)):
                found[c, h, w] = 1 / (1 + math.exp(-near - far))
    return found


def pair(*shape):
    return torch.randn(2, *shape, dtype=torch.float64).unbind()


def test_the_addition_becomes_twice_a_weighed_mean():
    aff = stir(make("aff", 6, reduction=2).double().eval())
    branch, shortcut = pair(2, 6, 5, 3)
    for n, y in enumerate(aff(branch, shortcut)):
        w = shares(aff.context, branch[n] + shortcut[n])
        expected = 2 * branch[n] * w + 2 * shortcut[n] * (1 - w)
        torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)


def test_the_second_pass_looks_at_the_first_with_branches_of_its_own():
    iaff = stir(make("iaff", 6, reduction=2).double().eval())
    branch, shortcut = pair(2, 6, 5, 3)
    for n, y in enumerate(iaff(branch, shortcut)):
        w = shares(iaff.first, branch[n] + shortcut[n])
        w = shares(iaff.second, branch[n] * w + shortcut[n] * (1 - w))
        expected = branch[n] * w + shortcut[n] * (1 - w)
        torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)


def test_the_second_global_branch_is_used_unlike_in_the_port():
    iaff = stir(make("iaff", 8, reduction=2).double().eval())
    branch, shortcut = pair(2, 8, 5, 3)
    before = iaff(branch, shortcut)
    ported = stir(make("iaff", 8, reduction=2).double().eval())
    ported.load_state_dict(iaff.state_dict())
    state = iaff.first.state_dict()
    own = {k: v for k, v in state.items() if k.startswith("global")}
    ported.second.load_state_dict(own, strict=False)
    assert not torch.allclose(ported(branch, shortcut), before, atol=1e-3)


def test_the_identity_doubles_only_the_last_weights():
    paper, identity = make("iaff", 32), make("iaff", 32, init="identity")
    assert (paper.gate.gain, identity.gate.gain) == (1.0, 2.0)
    assert identity.first.expand_norm.weight.any()
    branch, shortcut = torch.randn(2, 3, 32, 5, 7).unbind()
    assert torch.equal(identity(branch, shortcut), branch + shortcut)
    for part in ("expand_norm", "global_expand_norm"):
        torch.nn.init.zeros_(paper.second.get_submodule(part).weight)
    torch.testing.assert_close(paper(branch, shortcut), (branch + shortcut) / 2)


@pytest.mark.parametrize("name", ["aff", "iaff"])
def test_a_volume_is_fused_like_the_image_it_unrolls_to(name):
    flat, deep = stir(make(name, 32).eval()), make(name, 32, rank=3).eval()
    state = {k: v.reshape(deep.state_dict()[k].shape) for k, v in flat.state_dict().items()}
    deep.load_state_dict(state)
    branch, shortcut = torch.randn(2, 2, 32, 3, 7, 5).unbind()
    y = flat(branch.flatten(2, 3), shortcut.flatten(2, 3)).reshape(branch.shape)
    torch.testing.assert_close(deep(branch, shortcut), y)


@pytest.mark.parametrize(("channels", "reduction", "aff"), [(64, 4, 4_576), (256, 16, 18_016)])
def test_parameters_of_one_site(channels, reduction, aff):
    for name, expected in (("aff", aff), ("iaff", 2 * aff)):
        assert lookup(name).params(channels, reduction=reduction) == expected
        assert params(make(name, channels, reduction=reduction)) == expected


@pytest.mark.parametrize(("name", "total"), [("aff", 30_353_960), ("iaff", 35_150_888)])
def test_totals_of_a_resnet50(name, total):
    card = lookup(name)
    assert RESNET50 + sum(card.params(c) for c in RESNET50_LATE) == total
    assert dict(card.args) == {"reduction": 16}


@pytest.mark.parametrize("name", ["aff", "iaff"])
def test_a_reduction_that_leaves_nothing_is_refused(name):
    with pytest.raises(MechanismError, match="the largest that works here is reduction=8"):
        make(name, 8)
