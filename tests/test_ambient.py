"""The state around a call changes neither plan nor price nor verification, and stays."""

import contextlib
import random
import sys

import numpy as np
import pytest
import torch
from torch import nn

import attnsurgeon
from attnsurgeon.checkup import check_folder
from attnsurgeon.errors import ModelError
from attnsurgeon.exporting.exports import export
from attnsurgeon.recording.ambient import known_state
from tests.cli.command import TINY
from tests.nets.small import SIZE, Small, small

MECHANISMS = ("eca", "we", "atac", "dia", "csra")


@contextlib.contextmanager
def set_for_the_process(put, value, back):
    put(value)
    try:
        yield
    finally:
        put(back)


STATES = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "default device meta": lambda: set_for_the_process(torch.set_default_device, "meta", None),
    "a device around it": lambda: torch.device("meta"),
    "default type float64": lambda: set_for_the_process(
        torch.set_default_dtype, torch.float64, torch.float32
    ),
    "default type bfloat16": lambda: set_for_the_process(
        torch.set_default_dtype, torch.bfloat16, torch.float32
    ),
    "deterministic": lambda: set_for_the_process(torch.use_deterministic_algorithms, True, False),
    "anomaly": lambda: torch.autograd.set_detect_anomaly(True, check_nan=True),
}
USUAL = ("no_grad", "inference_mode", "autocast")  # what people are in
each_state = pytest.mark.parametrize(
    "state", [pytest.param(s, marks=() if s in USUAL else pytest.mark.slow) for s in STATES]
)
each_mechanism = pytest.mark.parametrize(
    "attn", ["eca", *(pytest.param(name, marks=pytest.mark.slow) for name in MECHANISMS[1:])]
)


def look():
    """What of torch's state a call could leave behind."""
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_default_device(),
        torch.get_default_dtype(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_anomaly_enabled(),
        torch._C._len_torch_function_stack(),
        torch._C._len_torch_dispatch_stack(),
    )


def inside(state, call):
    """What a call gives inside a state, which it leaves as it was."""
    with STATES[state]():
        before = look()
        made = call()
        assert look() == before
    return made


@pytest.fixture(scope="module")
def alone():
    """What each mechanism gives in the state that torch starts with."""
    torch.manual_seed(0)  # as before every test
    net = small()
    found = {}
    for attn in MECHANISMS:
        operation = attnsurgeon.insert(net, attn, input_size=SIZE)
        price = attnsurgeon.estimate(net, attn, input_size=SIZE)
        found[attn] = operation, operation.plan.record(), price, operation.verify()
    return net, found


@each_state
@each_mechanism
@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_plan_price_and_verification_are_those_of_the_plain_state(alone, state, attn):
    net, found = alone
    operation, record, price, verification = found[attn]

    assert inside(state, lambda: attnsurgeon.plan(net, attn, input_size=SIZE).record()) == record
    assert inside(state, lambda: attnsurgeon.estimate(net, attn, input_size=SIZE)) == price

    made = inside(state, lambda: attnsurgeon.insert(net, attn, input_size=SIZE))
    assert made.plan.record() == record
    assert inside(state, made.verify) == verification
    assert inside(state, lambda: made.cost) == operation.cost
    assert verification.ok

    expected = operation.model.state_dict()
    state_dict = made.model.state_dict()
    assert list(state_dict) == list(expected)
    assert all(torch.equal(value, expected[name]) for name, value in state_dict.items())


@each_state
@each_mechanism
@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_the_result_is_an_ordinary_trainable_network(alone, state, attn):
    net, _ = alone
    model = inside(state, lambda: attnsurgeon.insert(net, attn, input_size=SIZE)).model
    for tensor in (*model.parameters(), *model.buffers()):
        assert not tensor.is_inference()
        assert tensor.device.type == "cpu"
        assert tensor.dtype in (torch.float32, torch.int64)
    assert all(p.requires_grad and p.is_leaf for p in model.parameters())
    model.train()(torch.randn(2, *SIZE)).square().sum().backward()
    assert any(p.grad is not None and bool(p.grad.any()) for p in model.parameters())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    operation = attnsurgeon.insert(attnsurgeon.load_model(f"{TINY}net"), "se", input_size=SIZE)
    return operation.save(tmp_path_factory.mktemp("saved") / "net"), operation.model


@each_state
@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_sites_and_audit_are_those_of_the_plain_state(alone, state):
    net, found = alone
    sites = list(attnsurgeon.find_sites(net, input_size=SIZE))
    assert list(inside(state, lambda: attnsurgeon.find_sites(net, input_size=SIZE))) == sites
    operated = found["eca"][0].model
    audit = attnsurgeon.audit(operated, input_size=SIZE)
    assert inside(state, lambda: attnsurgeon.audit(operated, input_size=SIZE)) == audit
    assert audit.ok


@each_state
@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_a_network_is_built_saved_and_loaded_as_in_the_plain_state(folder, tmp_path, state):
    path, model = folder
    built = inside(state, lambda: attnsurgeon.load_model(f"{TINY}net"))
    assert {(p.dtype, p.device.type, p.is_inference()) for p in built.parameters()} == {
        (torch.float32, "cpu", False)
    }
    read = inside(state, lambda: attnsurgeon.load(path, trust=True))
    assert all(map(torch.equal, read.state_dict().values(), model.state_dict().values()))
    assert not any(p.is_inference() for p in read.parameters())
    operation = attnsurgeon.insert(built, "se", input_size=SIZE)
    again = inside(state, lambda: operation.save(tmp_path / "again"))
    assert sorted(f.name for f in again.iterdir()) == sorted(f.name for f in path.iterdir())
    assert inside(state, lambda: check_folder(path, trust=True)).ok


@each_state
@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_attention_is_folded_and_taken_out_as_in_the_plain_state(alone, state):
    net, _ = alone
    x = torch.rand(2, *SIZE)
    folded = attnsurgeon.insert(net, "we", input_size=SIZE).model
    inside(state, lambda: attnsurgeon.fold(folded))
    assert not any(p.is_inference() for p in folded.parameters())
    assert torch.allclose(folded(x), net(x))
    bare = attnsurgeon.insert(net, "eca", input_size=SIZE).model
    inside(state, lambda: attnsurgeon.remove(bare))
    assert list(bare.state_dict()) == list(net.state_dict())
    assert torch.equal(bare(x), net(x))
    brief = {"repeats": 2, "warm_up": 0, "seconds": 0}
    made = inside(state, lambda: attnsurgeon.measure(net, bare, x, **brief))
    assert made.step.ratio.median > 0
    assert made.memory.delta == 0


@pytest.mark.parametrize(
    "state",
    [
        pytest.param(state, marks=[] if state == "inference_mode" else pytest.mark.slow)
        for state in STATES
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_network_is_exported_as_in_the_plain_state(alone, tmp_path, state):
    operated = alone[1]["eca"][0].model
    made = inside(state, lambda: export(operated, tmp_path / "net.pt2", input_size=SIZE))
    assert made.relative_diff <= 1e-5


def test_a_network_made_in_inference_mode_gets_attention_that_learns():
    with torch.inference_mode():
        net = Small(width=16).eval()
        assert next(net.parameters()).is_inference()
        operation = attnsurgeon.insert(net, "se", input_size=SIZE)
        assert operation.verify().ok
    assert not any(p.is_inference() for p in operation.model.parameters())
    operation.model(torch.rand(2, *SIZE)).sum().backward()


def test_the_state_is_given_back_where_an_error_passes():
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        before = look()
        with pytest.raises(ModelError):
            attnsurgeon.plan(small(), "eca", input_size=(5, 16, 16))
        assert look() == before


def test_what_has_a_type_of_its_own_keeps_it_where_the_default_is_another():
    numbers = np.arange(3, dtype=np.float64)
    with STATES["default type float64"](), known_state():
        assert torch.empty(2).dtype == torch.tensor(0.5).dtype == torch.float32
        assert (torch.arange(3) / 2).dtype == torch.float32
        assert nn.Linear(2, 2).weight.dtype == torch.float32
        assert torch.arange(3).double().dtype == torch.float64
        assert torch.tensor(numbers).dtype == torch.from_numpy(numbers).dtype == torch.float64
        assert torch.zeros(2, dtype=torch.float64).dtype == torch.float64
        assert (torch.zeros(2, dtype=torch.float64) + 1).dtype == torch.float64
        assert torch.rand(2, requires_grad=True).is_leaf


# Dice.


def states():
    return random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()


@each_mechanism
@pytest.mark.parametrize("init", ["identity", "paper"])
def test_the_generators_stand_where_they_stood(tmp_path, attn, init):
    net, before = small(), states()
    operation = attnsurgeon.insert(net, attn, input_size=SIZE, init=init)
    attnsurgeon.estimate(f"{TINY}net", "se", input_size=SIZE)
    operation.verify()
    attnsurgeon.load(operation.save(tmp_path / "net"), model=net)
    attnsurgeon.remove(attnsurgeon.insert(net, "eca", input_size=SIZE).model)
    assert states() == before


def test_new_weights_follow_the_seed_and_not_what_was_drawn_since():
    def weights(net):
        operated = attnsurgeon.insert(net, "se", input_size=SIZE, init="paper").model
        return operated, torch.cat([p.flatten() for p in operated.blocks[0].attn.parameters()])

    seeded = torch.initial_seed()
    try:
        torch.manual_seed(1)
        net = small(width=16)
        operated, first = weights(net)
        torch.rand(7)
        assert torch.equal(weights(net)[1], first)
        twice = attnsurgeon.insert(operated, "se", input_size=SIZE, init="paper").model
        (added,) = [m for n, m in twice.blocks[0].named_children() if n not in dir(net.blocks[0])][
            1:
        ]
        assert not torch.equal(torch.cat([p.flatten() for p in added.parameters()]), first)
        torch.manual_seed(2)
        assert not torch.equal(weights(net)[1], first)
    finally:
        torch.manual_seed(seeded)


# Strangers' code.


class Leaves(nn.Module):
    """Ends the program in its forward, on some or on all inputs."""

    def __init__(self, how):
        super().__init__()
        self.conv, self.how = nn.Conv2d(3, 8, 1), how

    def forward(self, x):
        if self.how == "on meta" and not x.is_meta:
            return self.conv(x)
        if self.how == "in training" and not self.training:
            return self.conv(x)
        if self.how == "interrupted":
            raise KeyboardInterrupt
        sys.exit("no licence")


@pytest.mark.parametrize("call", ["find_sites", "plan", "insert", "estimate"])
def test_a_forward_that_ends_the_program_is_an_error_of_the_network(call):
    args = () if call == "find_sites" else ("eca", "conv3x3")
    with pytest.raises(ModelError, match=r"sys\.exit\('no licence'\)"):
        getattr(attnsurgeon, call)(Leaves("always"), *args, input_size=SIZE)


def test_a_forward_that_ends_the_program_on_meta_alone_is_run_on_numbers():
    assert [s.path for s in attnsurgeon.find_sites(Leaves("on meta"), input_size=SIZE)] == ["conv"]


def test_a_forward_that_ends_the_program_in_training_is_tried_otherwise():
    where = {"site": "conv"}
    operation = attnsurgeon.insert(Leaves("in training"), "eca", where, input_size=SIZE)
    verification = operation.verify()
    assert verification.ok
    assert any("SystemExit in training mode" in note for note in verification.notes)


def test_code_that_ends_the_program_elsewhere_is_named_with_its_place():
    with (
        pytest.raises(ModelError, match=r"sys\.exit\(3\) \(.*test_ambient\.py:\d+\)"),
        known_state(),
    ):
        sys.exit(3)


@pytest.mark.parametrize("call", ["find_sites", "plan"])
def test_an_interruption_passes_through_and_leaves_nothing(call):
    args = () if call == "find_sites" else ("eca",)
    net = Leaves("interrupted")
    before = look(), nn.Module.__call__, states()
    with torch.no_grad(), pytest.raises(KeyboardInterrupt):
        getattr(attnsurgeon, call)(net, *args, input_size=SIZE)
    assert (look(), nn.Module.__call__, states()) == before
