"""Attention that is off computes nothing: bit-equal to the network that never had it."""

from __future__ import annotations

import copy
import pickle
import re
import threading

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import attnsurgeon
from attnsurgeon.errors import UsageError
from attnsurgeon.splicing.history import inserted
from tests.networks.test_kinds import build
from tests.surgery import active

SIZE = (3, 32, 24)
# A mechanism of each kind, each of them with the network's own value handed over in its own way.
KINDS = ["se", "aff", "csra"]
KINDS += [
    pytest.param(name, marks=pytest.mark.slow)
    for name in ("ge", "dia", "we", "atac", "sk", "interflow", "ba2m")
]


def operated(attn: str, where: object = None, **how: object) -> tuple[nn.Module, nn.Module]:
    """A network and the same with attention that acts, both in training mode where it matters."""
    base = build("stages")
    made = attnsurgeon.insert(base, attn, where, input_size=SIZE, **how).model
    mode = attn == "ba2m"  # which only acts in training
    return base.train(mode), active(made).train(mode)


def image() -> torch.Tensor:
    return torch.randn(3, *SIZE, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("attn", KINDS)
def test_what_is_off_leaves_the_network_as_it_was_before(attn):
    base, net = operated(attn)
    x, keys = image(), list(net.state_dict())
    with torch.no_grad():
        whole = net(x)
        assert not torch.equal(whole, base(x))  # or there would be nothing to switch
        with attnsurgeon.disabled(net) as off:
            assert torch.equal(net(x), base(x))
            assert list(net.state_dict()) == keys
        assert set(off) == {path for path, _ in inserted(net)}
        if attn != "ba2m":  # whose base has moved its running statistics
            assert torch.equal(net(x), whole)
    assert not any("forward" in vars(module) for module in net.modules())


def test_a_pattern_a_path_and_sites_switch_what_they_name():
    _, net = operated("se", "residual-branch")
    two = attnsurgeon.find_sites(net, input_size=SIZE).where(name="stage2.*")
    cut = {site.path: site for site in two}
    for sites, off in [
        ("stage2.*", ("stage2.0.attn", "stage2.1.attn")),
        ("stage2", ("stage2.0.attn", "stage2.1.attn")),
        ("stage1.1", ("stage1.1.attn",)),
        ("stage1.1.bn3", ("stage1.1.attn",)),
        (["stage1.0.attn", "re:2.1"], ("stage1.0.attn", "stage2.1.attn")),
        (two, ("stage2.0.attn", "stage2.1.attn")),
        (cut["stage2.0.attn"], ("stage2.0.attn",)),
    ]:
        with attnsurgeon.disabled(net, sites) as named:
            assert named == off


def test_one_site_off_is_the_network_without_that_site():
    base, net = operated("se", "residual-branch")
    rest = copy.deepcopy(net)
    rest.stage2[0].attn = nn.Identity()
    with torch.no_grad(), attnsurgeon.disabled(net, "stage2.0.attn"):
        assert torch.equal(net(image()), rest(image()))
        assert not torch.equal(net(image()), base(image()))


def test_blocks_may_stand_in_one_another():
    base, net = operated("se", "residual-branch")
    x = image()
    with torch.no_grad():
        whole = net(x)
        with attnsurgeon.disabled(net, "stage1.*"):
            with attnsurgeon.disabled(net):
                assert torch.equal(net(x), base(x))
            partly = net(x)
            assert not torch.equal(partly, base(x))
            assert not torch.equal(partly, whole)
        assert torch.equal(net(x), whole)


def test_an_error_in_the_block_switches_all_on_again():
    _, net = operated("se", "residual-branch")
    with torch.no_grad():
        whole = net(image())
        with pytest.raises(ZeroDivisionError), attnsurgeon.disabled(net):
            _ = 1 / 0
        assert torch.equal(net(image()), whole)


def test_other_threads_run_the_network_whole():
    base, net = operated("se", "residual-branch")
    x, seen = image(), {}
    with torch.no_grad():
        whole = net(x)

        def run() -> None:
            with torch.no_grad():
                seen["other"] = net(x)
                with attnsurgeon.disabled(net, "stage1.*"):
                    seen["partly"] = net(x)

        with attnsurgeon.disabled(net):
            other = threading.Thread(target=run)
            other.start()
            other.join()
            assert torch.equal(net(x), base(x))
    assert torch.equal(seen["other"], whole)
    assert not any(torch.equal(seen["partly"], made) for made in (whole, base(x)))


def test_a_copy_made_in_the_block_is_off_in_it_and_on_after_it():
    base, net = operated("se", "residual-branch")
    x = image()
    with torch.no_grad():
        whole = net(x)
        with attnsurgeon.disabled(net):
            twins = [copy.deepcopy(net), pickle.loads(pickle.dumps(net))]
            assert all(torch.equal(twin(x), base(x)) for twin in twins)
            with attnsurgeon.disabled(twins[0], "stage1.*"):
                assert torch.equal(twins[0](x), base(x))
            assert torch.equal(twins[0](x), base(x))
        assert all(torch.equal(twin(x), whole) for twin in twins)
        with attnsurgeon.disabled(twins[0]):
            assert torch.equal(twins[0](x), base(x))
            assert torch.equal(twins[1](x), whole)


@pytest.mark.slow
def test_compiled_code_is_made_anew_for_the_block():
    base, net = operated("se", "residual-branch")
    compiled = torch.compile(net, backend="eager")
    x = image()
    with torch.no_grad():
        whole = compiled(x)
        with attnsurgeon.disabled(net):
            assert torch.equal(compiled(x), base(x))
        assert torch.equal(compiled(x), whole)
        with attnsurgeon.disabled(compiled, "stage1.*"):
            partly = compiled(x)
            assert torch.equal(partly, net(x))
        assert not torch.equal(partly, whole)
    torch._dynamo.reset()


def test_gradients_flow_past_what_is_off():
    base, net = operated("se", "residual-branch")
    with attnsurgeon.disabled(net):
        net(image()).square().sum().backward()
    base(image()).square().sum().backward()
    for name, parameter in base.named_parameters():
        assert torch.equal(net.get_parameter(name).grad, parameter.grad)
    assert all(p.grad is None for _, part in inserted(net) for p in part.parameters())


def test_checkpointing_runs_the_same_again_or_is_refused():
    base, net = operated("se", "residual-branch")

    def loss(model: nn.Module) -> torch.Tensor:
        x = image().requires_grad_()
        return checkpoint(model, x, use_reentrant=False).square().sum()

    with attnsurgeon.disabled(net):
        loss(net).backward()
        waiting, failed = loss(net), []

        def elsewhere() -> None:  # as the threads of a device's backward do
            try:
                waiting.backward()
            except RuntimeError as error:
                failed.append(str(error))

        other = threading.Thread(target=elsewhere)
        other.start()
        other.join()
    loss(base).backward()
    for name, parameter in base.named_parameters():
        assert torch.equal(net.get_parameter(name).grad, parameter.grad)
    assert "activation checkpointing" in failed[0]


@pytest.mark.parametrize(
    ("attn", "how", "says"),
    [
        ("sk", {"init": "paper"}, "stage1.0.conv2 was replaced"),
        ("csra", {"init": "paper"}, "fc was replaced"),
        ("atac", {"init": "paper"}, "what it replaced is no longer computed"),
        ("aw", {}, "a weight for every image"),
    ],
)
def test_what_is_gone_for_good_is_refused_by_name(attn, how, says):
    _, net = operated(attn, **how)
    with pytest.raises(UsageError, match=f"{attn} at .* cannot be switched off: .*{says}"):
        attnsurgeon.disabled(net).__enter__()


def test_a_part_of_a_chain_is_refused():
    _, net = operated("dia")
    with pytest.raises(UsageError, match=r"dia at stage1\.1\.bn3 is of the same chain"):
        attnsurgeon.disabled(net, "stage1.0.*").__enter__()


@pytest.mark.parametrize(
    ("sites", "hint"),
    [("stage1.0.atn", "stage1.0.attn"), ("nothing.*", r"it stands at stage1.0.bn3, .* and 1 more")],
)
def test_a_name_of_nothing_is_answered_with_the_nearest(sites, hint):
    _, net = operated("se", "residual-branch")
    with pytest.raises(UsageError, match="no inserted attention is called") as raised:
        attnsurgeon.disabled(net, sites).__enter__()
    assert re.search(hint, raised.value.hint)


def test_a_network_without_attention_and_one_that_lost_it_are_refused():
    base, net = operated("se", "residual-branch")
    with pytest.raises(UsageError, match="has no attention in it"):
        attnsurgeon.disabled(base).__enter__()
    net.stage1[0].attn = nn.Identity()
    with pytest.raises(UsageError, match=r"where the attention stage1\.0\.attn was, there is a"):
        attnsurgeon.disabled(net).__enter__()
    with pytest.raises(UsageError, match="DataParallel"):
        attnsurgeon.disabled(nn.DataParallel(net)).__enter__()
