"""Small networks of odd shapes: cut and bit-equal, or refused with the reason; never wrong."""

import copy
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import attnsurgeon
from attnsurgeon.checks.verify import randomise_norms
from attnsurgeon.splicing.history import inserted
from attnsurgeon.splicing.removing import undo
from tests.nets.whole import Detector

C = 16
SIZE = (3, 20, 28)


class Block(nn.Module):
    """The plain one: conv, norm, ReLU, conv, norm, add, ReLU."""

    def __init__(self, c=C):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(c, c, 3, padding=1), nn.BatchNorm2d(c)
        self.conv2, self.bn2 = nn.Conv2d(c, c, 3, padding=1), nn.BatchNorm2d(c)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += x
        return self.relu(y)


class Optional(Block):
    """A shortcut that may be left out, as in DLA."""

    def forward(self, x, shortcut=None):
        shortcut = x if shortcut is None else shortcut
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + shortcut)


class Split(Block):
    """Iterates over a chunked tensor, as in C2f."""

    def forward(self, x):
        parts = list(self.bn1(self.conv1(x)).chunk(2, 1))
        parts[0] = F.silu(parts[0])
        return x + self.bn2(self.conv2(torch.cat(parts, 1)))


class Dropping(Block):
    """Functional dropout: another graph in training mode."""

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.dropout(self.bn2(self.conv2(y)), 0.3, self.training)
        return x + y


class Deciding(Block):
    """Looks at a value; a cut inside would bake the decision."""

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if x.shape[2] > 8 and bool(y.mean() > 1e9):
            y = y * 2
        return x + y


class Variadic(Block):
    """Takes whatever it is given."""

    def forward(self, *args, **kwargs):
        (x,) = args
        return x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))


class Taken(Block):
    """Has a child of the name that surgery would like."""

    def __init__(self):
        super().__init__()
        self.attn = nn.Conv2d(C, C, 1)

    def forward(self, x):
        return x + self.bn2(self.conv2(F.relu(self.attn(x))))


class Fusing(Block):
    """Rebuilds itself: nothing inside may be cut."""

    def forward(self, x):
        return x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))

    def fuse(self):
        self.bn2 = nn.Identity()


class Walking(nn.ModuleDict):
    """A container whose forward walks over its children, as a DenseNet block does."""

    def __init__(self):
        super().__init__({"a": Block(), "b": Block()})

    def forward(self, x):
        for block in self.values():
            x = block(x)
        return x


class Tokens(nn.Module):
    """Channels last: a ConvNeXt-like block that permutes."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(C, C, 3, padding=1, groups=C)
        self.norm, self.up, self.down = nn.LayerNorm(C), nn.Linear(C, 2 * C), nn.Linear(2 * C, C)
        self.gamma = nn.Parameter(torch.rand(C))

    def forward(self, x):
        y = self.norm(self.conv(x).permute(0, 2, 3, 1))
        y = self.gamma * self.down(F.gelu(self.up(y)))
        return x.permute(0, 2, 3, 1).add(y).permute(0, 3, 1, 2)


class Network(nn.Module):
    """Stem, two blocks, classifier."""

    def __init__(self, *blocks):
        super().__init__()
        self.stem = nn.Conv2d(3, C, 3, stride=2, padding=1)
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Linear(C, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))


def network(kind) -> Any:
    torch.manual_seed(0)
    model = Network(kind(), kind()).eval()
    randomise_norms(model)
    return model


def image():
    return torch.randn(2, *SIZE)


KINDS = [Block, Optional, Split, Dropping, Variadic, Taken, Tokens]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mechanism", ["se", "simam"])
def test_outputs_keys_and_copies_are_as_before(kind, mechanism):
    model, x = network(kind), image()
    operation = attnsurgeon.insert(model, mechanism, "residual-branch", input_size=SIZE)
    operated = operation.model

    assert len(operation.plan) == 2
    assert torch.equal(operated(x), model(x))
    kept = [k for k in operated.state_dict() if k in model.state_dict()]
    assert kept == list(model.state_dict())
    assert all(isinstance(block, kind) for block in operated.blocks)
    for twin in (copy.deepcopy(operated), pickle.loads(pickle.dumps(operated))):
        assert torch.equal(twin(x), model(x))
    for _, attention in inserted(operated):
        for parameter in attention.parameters():
            nn.init.normal_(parameter)
    assert not torch.equal(operated(x), model(x)) or not list(operated.blocks.parameters())


def test_training_mode_still_drops_out():
    model, x = network(Dropping), image()
    operated = attnsurgeon.insert(model, "se", "residual-branch", input_size=SIZE).model.train()
    model.train()
    outputs = []
    for net in (model, operated):
        torch.manual_seed(7)
        outputs.append(net(x))
    assert torch.equal(*outputs)
    assert not torch.equal(operated(x), operated(x))


def test_a_forward_that_looks_at_values_is_hooked_not_baked():
    model, x = network(Deciding), image()
    operation = attnsurgeon.insert(model, "se", {"site": "residual-branch"}, input_size=SIZE)
    assert {cut.place.technique for cut in operation.plan} <= {"output-hook", "input-hook"}
    assert torch.equal(operation.model(x), model(x))


def test_nothing_is_cut_inside_a_module_that_rebuilds_itself():
    with pytest.raises(attnsurgeon.SurgeonError, match=r"Fusing.*rebuilds itself \(fuse\(\)\)"):
        attnsurgeon.plan(network(Fusing), "se", "residual-branch", input_size=SIZE)


def test_a_container_that_walks_over_its_children_gets_no_new_child():
    model, x = network(Walking), image()
    operated = attnsurgeon.insert(model, "eca", "residual-branch", input_size=SIZE).model
    assert list(operated.blocks[0]) == ["a", "b"]
    assert torch.equal(operated(x), model(x))


def test_a_sequential_gets_no_new_child_either():
    layers = [nn.Conv2d(3, C, 3, padding=1), nn.BatchNorm2d(C), nn.ReLU(), nn.Conv2d(C, 8, 3)]
    model = nn.Sequential(*layers).eval()
    randomise_norms(model)
    operation = attnsurgeon.insert(model, "se", {"site": "norm"}, input_size=SIZE)
    assert len(operation.model) == 4
    assert [cut.place.technique for cut in operation.plan] == ["input-hook"]
    assert torch.equal(operation.model(image()), model(image())) is False  # two images differ
    x = image()
    assert torch.equal(operation.model(x), model(x))


def test_the_network_given_is_left_as_it_was():
    model = network(Block).train()
    before = {name: (type(m), dict(m.__dict__), m.training) for name, m in model.named_modules()}
    state = {key: value.clone() for key, value in model.state_dict().items()}
    dice = torch.get_rng_state()

    attnsurgeon.plan(model, "se", "residual-branch", input_size=SIZE)
    attnsurgeon.insert(model, "se", "residual-branch", input_size=SIZE)

    after = {name: (type(m), dict(m.__dict__), m.training) for name, m in model.named_modules()}
    assert after.keys() == before.keys()
    assert all(after[name][0] is before[name][0] for name in before)
    assert all(after[name][1].keys() == before[name][1].keys() for name in before)
    assert all(after[name][2] == before[name][2] for name in before)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    attnsurgeon.plan(model, "eca", "residual-branch", input_size=SIZE)
    assert dice.shape == torch.get_rng_state().shape


def test_two_mechanisms_at_one_place_both_run_in_the_order_of_the_rules():
    model, x = network(Block), image()
    once = attnsurgeon.insert(model, "se", "residual-branch", input_size=SIZE).model
    twice = attnsurgeon.insert(once, "eca", "residual-branch", input_size=SIZE)
    assert torch.equal(twice.model(x), model(x))
    ran = []
    for path, module in inserted(twice.model):
        module.register_forward_hook(
            lambda m, a, o, path=path: ran.append((path, type(m).__name__))
        )
    twice.model(x)
    assert [name for _, name in ran] == ["SE", "ECA", "SE", "ECA"]
    assert twice.verify().ok


def test_undoing_and_removing_give_the_original_back():
    model, x = network(Block), image()
    operation = attnsurgeon.insert(model, "cbam", "residual-branch", input_size=SIZE)
    restored = undo(copy.deepcopy(operation.model), operation.plan)
    attnsurgeon.remove(operation.model)
    for net in (restored, operation.model):
        assert list(net.state_dict()) == list(model.state_dict())
        assert all(type(block) is Block for block in net.blocks)
        assert torch.equal(net(x), model(x))


def test_inserting_before_a_convolution_touches_its_input_only(tmp_path):
    (tmp_path / "r.yaml").write_text(
        "version: 1\nrules:\n  - id: before\n    match: {site: conv, name: '*conv2'}\n"
        "    attn: eca\n    action: insert-before\n"
    )
    model, x = network(Block), image()
    operation = attnsurgeon.insert(model, rules=tmp_path / "r.yaml", input_size=SIZE)
    assert torch.equal(operation.model(x), model(x))
    seen = {}
    block = operation.model.blocks[0]
    block.relu.register_forward_hook(lambda m, a, o: seen.setdefault("relu", o))
    attention = operation.model.get_submodule(operation.plan.cuts[0].module_path)
    attention.register_forward_hook(lambda m, a, o: seen.update(given=a[0]))
    operation.model(x)
    assert seen["given"] is seen["relu"]


def test_an_audit_names_attention_that_is_gone():
    model = network(Block)
    operated: Any = attnsurgeon.insert(model, "se", "residual-branch", input_size=SIZE).model
    assert attnsurgeon.audit(operated, input_size=SIZE).dead == ()
    del operated.blocks[0].attn
    operated.blocks[0].__class__ = Block
    audit = attnsurgeon.audit(operated, input_size=SIZE)
    assert audit.dead == ("blocks.0.attn",)
    assert audit.calls["blocks.1.attn"] == 1


def test_a_block_that_runs_twice_shares_one_attention():
    torch.manual_seed(0)
    block = Block()
    model = Network(block, block).eval()
    randomise_norms(model)
    plan = attnsurgeon.plan(model, "se", "residual-branch", input_size=SIZE)
    assert (len(plan), len(plan.cuts[0].shared)) == (1, 1)
    half = {"site": "residual-branch", "first": 1}
    with pytest.raises(attnsurgeon.SurgeonError, match="runs 2 times"):
        attnsurgeon.insert(model, "se", half, input_size=SIZE)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Block, Dropping, Tokens])
def test_operated_networks_compile_and_export(kind):
    model, x = network(kind), image()
    operated = attnsurgeon.insert(model, "cbam", "residual-branch", input_size=SIZE).model
    compiled = torch.compile(operated, backend="eager", fullgraph=True)
    exported = torch.export.export(operated, (x,)).module()
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), model(x))
        torch.testing.assert_close(exported(x), model(x))


def test_a_network_called_in_several_ways_is_cut_at_the_boundary_of_a_module():
    """A forward with *args would be traced for the one call that was recorded."""
    net = Detector().eval()
    x = torch.randn(2, 3, 64, 48)
    where = {"site": "concat", "name": ":cat"}
    operation = attnsurgeon.insert(net, "eca", where, input_size=(3, 64, 48))
    assert [cut.place.technique for cut in operation.plan] == ["input-hook"]
    operated: Any = operation.model
    assert type(operated) is Detector
    with torch.no_grad():
        assert torch.equal(operated(x)["boxes"], net(x)["boxes"])
        assert torch.equal(operated(x, True), net(x, True))
        assert torch.equal(operated({"image": x}), net({"image": x}))


class Own(nn.Module):
    """Walks over its own children, as a container would, and looks at values."""

    def __init__(self):
        super().__init__()
        self.a, self.b = Block(), nn.Conv2d(C, C, 3, padding=1)

    def forward(self, x):
        for child in self.children():
            x = F.relu(child(x))
        return x * 2 if bool(x.mean() > 1e9) else x


def test_no_hook_makes_attention_a_child_of_a_module_that_walks_over_its_children():
    model = nn.Sequential(nn.Conv2d(3, C, 3), Own(), Own()).eval()
    with pytest.raises(attnsurgeon.SurgeonError, match=r"1 \(Own\) cannot be rewritten"):
        attnsurgeon.insert(model, "eca", lambda site: site.path == "1:relu#2", input_size=SIZE)
    operation = attnsurgeon.insert(model, "eca", lambda site: site.path == "2.b", input_size=SIZE)
    assert [cut.place.host for cut in operation.plan] == ["2.b"]
    assert set(attnsurgeon.audit(operation.model, input_size=SIZE).calls.values()) == {1}
    x = image()
    assert torch.equal(operation.model(x), model(x))


class Rotating(nn.Module):
    """A forward that switches gradients off, and hands its map on with a second tensor."""

    class Mix(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(C, C, 1)

        def forward(self, x: Tensor, turn: Tensor) -> Tensor:
            return self.conv(x) * turn

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mix = nn.Conv2d(3, C, 1), self.Mix()
        self.place = nn.Parameter(torch.ones(1, C, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        with torch.no_grad():
            turn = self.place.cos()
        return self.mix(x, turn)


def test_the_first_argument_of_a_module_is_reached_beside_others():
    model, x = Rotating().eval(), image()
    where = {"site": "act", "name": ":relu"}
    operation = attnsurgeon.insert(model, "eca", where, input_size=SIZE)
    assert [cut.place.technique for cut in operation.plan] == ["input-hook"]
    assert torch.equal(operation.model(x), model(x))
    assert operation.verify().ok
