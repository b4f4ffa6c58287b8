"""Hooks of the user's do on copies what they do, and nothing of it reaches the user's objects."""

import copy
import functools
import io
import pickle

import pytest
import torch
from torch import nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)

import attnsurgeon
from attnsurgeon.checks.verify import verify
from attnsurgeon.recording.global_hooks import without_global_hooks
from attnsurgeon.recording.twin import full_twin, handed_over, meta_twin
from tests.nets.small import SIZE, small

COLLECTED = []
COUNT = 0


def counts_in_its_file(module, args, output):
    global COUNT
    COUNT += 1
    keep_for_later(output)


def keep_for_later(value):
    COLLECTED.append(value)


class Collector:
    def __init__(self):
        self.seen = []

    def look(self, module, args, output):
        self.seen.append(output)

    def __call__(self, module, args):
        self.seen.append(args)


def collecting(net):
    """A network with a hook of every form; the functions that tell what each has seen."""
    seen, calls, learned, method, before, part = [], [0], [], Collector(), Collector(), []

    def counting(module, args, output):
        calls[0] += 1

    net.stem.register_forward_hook(lambda module, args, output: seen.append(output))
    net.stem.register_forward_hook(counting)
    net.stem.register_forward_hook(counts_in_its_file)
    net.blocks[0].register_forward_hook(method.look)
    net.blocks[0].register_forward_pre_hook(before)
    net.blocks[1].register_forward_hook(functools.partial(lambda to, *call: to.append(call), part))
    net.fc.register_full_backward_hook(lambda module, *gradients: learned.append(gradients))
    return lambda: [
        *map(len, (seen, learned, method.seen, before.seen, part, COLLECTED)),
        calls[0],
        COUNT,
    ]


@pytest.mark.parametrize("attn", ["eca", "we", "atac", "dia", "csra"])
def test_no_hook_of_the_users_notices_an_operation(attn):
    net = small()
    seen = collecting(net)
    before = seen()
    sites = attnsurgeon.find_sites(net, input_size=SIZE)
    operation = attnsurgeon.insert(net, attn, input_size=SIZE)
    assert operation.verify().ok
    assert operation.cost.delta.params
    assert attnsurgeon.audit(operation.model, input_size=SIZE).ok
    attnsurgeon.estimate(net, attn, input_size=SIZE)
    assert len(sites)
    assert seen() == before
    net(torch.rand(1, *SIZE)).sum().backward()
    assert all(now > was for now, was in zip(seen(), before, strict=True))


def test_the_plan_and_the_price_are_those_without_hooks():
    net, hooked = small(), small()
    collecting(hooked)
    for attn in ("eca", "we", "atac", "dia", "csra"):
        plain = attnsurgeon.insert(net, attn, input_size=SIZE)
        made = attnsurgeon.insert(hooked, attn, input_size=SIZE)
        assert made.plan.record() == plain.plan.record()
        assert made.cost == plain.cost


def test_the_operated_network_has_the_hooks_themselves():
    net, seen = small(), []
    net.stem.register_forward_hook(lambda module, args, output: seen.append(output))
    model = attnsurgeon.insert(net, "eca", input_size=SIZE).model
    model(torch.rand(1, *SIZE))
    assert len(seen) == 1
    assert handed_over(net).stem._forward_hooks == net.stem._forward_hooks


def test_hooks_that_change_values_are_recorded_and_verified():
    net, scale = small(), torch.tensor([0.5])
    net.blocks[0].register_forward_hook(lambda module, args, output: output[:, :, ::2] * scale)
    sites = attnsurgeon.find_sites(net, input_size=SIZE)
    (after,) = (site for site in sites if site.path == "blocks.1.conv1")
    assert after.shape[2:] == (8, 16)
    operation = attnsurgeon.insert(net, "eca", {"site": "norm"}, input_size=SIZE)
    assert operation.verify().ok
    x = torch.rand(2, *SIZE)
    assert torch.equal(operation.model(x), net(x))


def test_a_hook_that_holds_a_module_of_the_network_holds_that_of_the_copy():
    net = small()
    net.stem.register_forward_hook(lambda module, args, output: net.blocks[0].norm1(output))
    with torch.no_grad():
        for make in (full_twin, meta_twin, lambda model: full_twin(full_twin(model))):
            twin = make(net)
            x = torch.rand(2, *SIZE, device=twin.fc.weight.device)
            expected = net(x) if not x.is_meta else None
            twin.blocks[0].norm1.weight.zero_()
            moved = twin(x)
            assert expected is None or not torch.equal(moved, expected)
            assert bool(net.blocks[0].norm1.weight.all())


def test_one_hook_on_many_modules_stays_one():
    net, seen = small(), []

    def look(module, args, output):
        seen.append(output)

    for block in net.blocks:
        block.register_forward_hook(look)
    first, second = (next(iter(b._forward_hooks.values())) for b in full_twin(net).blocks)
    assert first is second


def test_what_cannot_be_copied_is_handed_on():
    net, file = small(), io.StringIO()
    stream = io.TextIOWrapper(io.BytesIO())
    net.stem.register_forward_hook(lambda module, *call: (file.write("a"), stream.write("b"))[:0])
    full_twin(net).stem(torch.rand(1, *SIZE))
    assert file.getvalue() == ""


def test_a_twin_is_copied_and_pickled_with_its_hooks():
    net = small()
    net.stem.register_forward_hook(counts_in_its_file)
    before = COUNT, len(COLLECTED)
    twin = full_twin(net)
    x = torch.rand(1, *SIZE)
    copies = [copy.deepcopy(twin), pickle.loads(pickle.dumps(twin))]
    assert all(torch.equal(other(x), twin(x)) for other in copies)
    assert (COUNT, len(COLLECTED)) == before
    net(x)
    assert (COUNT, len(COLLECTED)) == (before[0] + 1, before[1] + 1)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_old_weight_norm_computes_its_weight_on_the_copy():
    net = small()
    net.stem = nn.utils.weight_norm(net.stem)
    x = torch.rand(1, *SIZE)
    twin = full_twin(net)
    assert torch.equal(twin(x), net(x))
    twin.stem.weight_g.data.mul_(2)
    assert not torch.equal(twin(x), net(x))


def test_hooks_on_all_modules_of_the_process_are_silent_and_stay_hung():
    calls = []
    handles = [
        register_module_forward_hook(lambda module, args, output: calls.append(output)),
        register_module_forward_pre_hook(lambda module, args: calls.append(args)),
    ]
    try:
        net = small()
        operation = attnsurgeon.insert(net, "eca", input_size=SIZE)
        assert verify(operation.model, operation.plan).ok
        with without_global_hooks(), without_global_hooks():
            net(torch.rand(1, *SIZE))
        assert calls == []
        net(torch.rand(1, *SIZE))
        assert calls
    finally:
        for handle in handles:
            handle.remove()
    calls.clear()
    net(torch.rand(1, *SIZE))
    assert calls == []
