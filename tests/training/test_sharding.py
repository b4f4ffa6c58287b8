"""A network that is spread over processes: what can be done with it, what says how, and back.

One process is enough for that, and takes no time to start: it holds the only part.
"""

import copy

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

import attnsurgeon
from attnsurgeon.errors import UsageError
from attnsurgeon.splicing.history import inserted
from tests.cli.tiny import Net
from tests.surgery import ready

SIZE = (3, 40, 24)


@pytest.fixture(scope="module")
def mesh():
    store = getattr(dist, "HashStore")()  # noqa: B009 -- torch exports it without saying so
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def operated(attn="se", where="residual-branch", **how):
    torch.manual_seed(0)
    net = attnsurgeon.insert(ready(Net()), attn, where, input_size=SIZE, **how).model
    for _, module in inserted(net):
        for parameter in module.parameters():
            with torch.no_grad():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return net


def blocks(net):
    return [*net.blocks, net.late]


def gathered(net):
    whole = attnsurgeon.gathered(net)
    assert whole is not None  # this is the first process
    return whole


def image():
    return torch.randn(2, *SIZE, generator=torch.Generator().manual_seed(1))


ASKED = {
    "save": lambda net, path: attnsurgeon.save(net, path),
    "audit": lambda net, path: attnsurgeon.audit(net),
    "status": lambda net, path: attnsurgeon.status(net),
    "status-at-rest": lambda net, path: attnsurgeon.status(net, run=False),
    "remove": lambda net, path: attnsurgeon.remove(net),
    "remove-some": lambda net, path: attnsurgeon.remove(net, "late.norm"),
    "insert": lambda net, path: attnsurgeon.insert(net, "eca", input_size=SIZE),
    "verify": lambda net, path: attnsurgeon.insert(net, "eca", "stage", input_size=SIZE).verify(),
}


@pytest.mark.parametrize("asked", ASKED)
def test_what_needs_the_whole_says_how_it_is_had(asked, mesh, tmp_path):
    net = attnsurgeon.shard(operated(), mesh=mesh)
    with pytest.raises(UsageError, match="spread over processes") as error:
        ASKED[asked](net, tmp_path / "net")
    assert "attnsurgeon.gathered(model)" in str(error.value.hint)
    assert isinstance(net, FSDPModule)  # remove would have made it another class
    assert not (tmp_path / "net").exists()


@pytest.mark.parametrize("asked", ASKED)
def test_the_gathered_network_does_all_of_it(asked, mesh, tmp_path):
    whole = gathered(attnsurgeon.shard(operated(), mesh=mesh))
    ASKED[asked](whole, tmp_path / "net")


@pytest.mark.parametrize("attn", ["se", "dia", "dca", "aff"])
def test_gathered_is_what_it_would_be_without_sharding(attn, mesh):
    net = operated(attn, "residual-add" if attn == "aff" else "residual-branch")
    before = copy.deepcopy(net)
    attnsurgeon.shard(net, blocks(net), mesh=mesh)
    assert torch.equal(net(image()), before(image()))  # and leaves some of it gathered
    whole = gathered(net)
    assert isinstance(net, FSDPModule)
    assert isinstance(net.blocks[0], FSDPModule)
    assert torch.equal(whole(image()), before(image()))
    assert [*whole.state_dict()] == [*before.state_dict()]
    for mine, theirs in zip(whole.modules(), before.modules(), strict=True):
        assert type(mine) is type(theirs)
        assert vars(mine).keys() == vars(theirs).keys()
        assert len(mine._forward_hooks) == len(theirs._forward_hooks)
        assert len(mine._forward_pre_hooks) == len(theirs._forward_pre_hooks)
    for mine, theirs in zip(whole.parameters(), before.parameters(), strict=True):
        assert type(mine) is nn.Parameter
        assert torch.equal(mine, theirs)
    copy.deepcopy(whole)


def test_a_hook_of_the_users_is_gathered_and_torchs_are_not(mesh):
    net = operated()
    net.late.register_forward_hook(doubled)
    expected = copy.deepcopy(net)(image())
    whole = gathered(attnsurgeon.shard(net, blocks(net), mesh=mesh))
    assert torch.equal(whole(image()), expected)
    assert [*whole.late._forward_hooks.values()] == [doubled]


def doubled(module, args, output):
    return output * 2


def test_frozen_parameters_and_modes_are_gathered(mesh):
    net = operated()
    attnsurgeon.freeze_backbone(net)
    net.train()
    learning = [name for name, p in net.named_parameters() if p.requires_grad]
    modes = [module.training for module in net.modules()]
    whole = gathered(attnsurgeon.shard(net, blocks(net), mesh=mesh))
    assert [name for name, p in whole.named_parameters() if p.requires_grad] == learning
    assert [module.training for module in whole.modules()] == modes
    assert len(learning) == 12
    assert len(set(modes)) == 2


def test_a_gathered_network_is_saved_and_loaded(mesh, tmp_path):
    whole = gathered(attnsurgeon.shard(operated("dia"), mesh=mesh))
    attnsurgeon.save(whole, tmp_path / "net")
    back = attnsurgeon.load(tmp_path / "net", model=Net())
    assert torch.equal(back.eval()(image()), whole(image()))


def test_shared_attention_is_a_part_of_its_own(mesh):
    net = operated("dia")
    attnsurgeon.shard(net, blocks(net), mesh=mesh)
    links = [module for _, module in inserted(net)]
    assert isinstance(links[0].attention, FSDPModule)
    assert links[0].attention is links[1].attention
    net(image()).sum().backward()
    assert all(type(p.grad) is type(p) for p in net.parameters())  # none was left out of it


def test_without_that_torch_cannot_shard_the_blocks(mesh):
    """If it can one day, `shard` is no longer needed for it."""
    net = operated("dia")
    fully_shard(net.blocks[0], mesh=mesh)
    with pytest.raises((TypeError, ValueError, RuntimeError, AssertionError)):
        fully_shard(net.blocks[1], mesh=mesh)


def test_attention_of_each_block_is_no_part_of_its_own(mesh):
    net = operated("dca")
    attnsurgeon.shard(net, blocks(net), mesh=mesh)
    sharded = [path for path, module in net.named_modules() if isinstance(module, FSDPModule)]
    assert sharded == ["", "blocks.0", "blocks.1", "late"]


def test_blocks_may_come_in_any_order(mesh):
    net = operated()
    expected = copy.deepcopy(net)(image())
    attnsurgeon.shard(net, [net.blocks, net.blocks[1], net.blocks[0]], mesh=mesh)
    assert torch.equal(net(image()), expected)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(5, 5), nn.Linear(5, 5)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.b(self.a(x))


def test_a_parameter_of_two_modules_in_two_blocks_is_refused(mesh):
    net = Tied()
    with pytest.raises(UsageError, match=r"b\.weight is also a parameter of another block"):
        attnsurgeon.shard(net, [net.a, net.b], mesh=mesh)
    assert not isinstance(net.a, FSDPModule)
    attnsurgeon.shard(net, mesh=mesh)


def test_what_is_no_block_is_refused(mesh):
    net = operated()
    with pytest.raises(UsageError, match="a Linear is no module of the network"):
        attnsurgeon.shard(net, [nn.Linear(2, 2)], mesh=mesh)
    with pytest.raises(UsageError, match="is the network itself"):
        attnsurgeon.shard(net, [net], mesh=mesh)
    attnsurgeon.shard(net, mesh=mesh)
    with pytest.raises(UsageError, match="spread over processes"):
        attnsurgeon.shard(net, mesh=mesh)


def test_what_is_not_spread_is_not_gathered(mesh):
    with pytest.raises(UsageError, match="this Net is not spread over processes"):
        attnsurgeon.gathered(operated())


def test_without_processes_there_is_nothing_to_spread_over(monkeypatch):
    monkeypatch.setattr(dist, "is_initialized", lambda: False)
    net = operated()
    with pytest.raises(UsageError, match="no processes") as error:
        attnsurgeon.shard(net)
    assert "torchrun" in str(error.value.hint)
    assert not isinstance(net, FSDPModule)


def test_what_no_forward_reaches_asks_for_no_gradient():
    """DistributedDataParallel waits for every gradient that is asked for."""
    net = operated("dca", init="paper").train()
    net(image()).sum().backward()
    idle = [name for name, p in net.named_parameters() if p.grad is None]
    assert idle
    assert idle == [name for name, p in net.named_parameters() if not p.requires_grad]
    assert all(".idle." in name for name in idle)
