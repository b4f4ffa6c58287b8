"""Operations in many threads are those of one, and another thread sees nothing of them."""

import functools
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import attnsurgeon
from attnsurgeon.models import build_on_meta
from attnsurgeon.recording.randomness import OwnDice
from attnsurgeon.recording.trace import trace
from tests.nets.small import SIZE, Block, small

HERE = f"{__file__}:"


@functools.lru_cache(maxsize=8)
def ramp(height, width):
    return torch.linspace(0, 1, height * width).reshape(height, width)


class Dicey(nn.Module):
    """Throws dice while it learns, and keeps a table between calls.

    torch's dice alone: Python's and numpy's are the process's, and who throws them is seen.
    """

    def __init__(self, width=8):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.Sequential(Block(width), Block(width))
        self.drop = nn.Dropout(0.2)
        self.fc = nn.Linear(width, 5)

    def forward(self, x):
        x = self.stem(x) + ramp(x.shape[2], x.shape[3])
        if self.training:
            x = x * (1 + torch.rand_like(x)) + torch.bernoulli(torch.tensor(0.5))
        return self.fc(F.dropout(self.drop(self.blocks(x)), 0.1, self.training).mean((2, 3)))


def dicey():
    with OwnDice(3):
        return Dicey().eval()


class Widths(nn.Module):
    """Computes a width with a tensor: on meta there would be no number."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, int(torch.tensor([8.0, 4.0]).max()), 3, padding=1)
        self.blocks = nn.Sequential(Block(8), Block(8))

    def forward(self, x):
        return self.blocks(self.conv(x))


NETS = {"small": small, "wide": lambda: small(1, width=16, blocks=3), "dicey": dicey}
JOBS = [(net, attn) for net in NETS for attn in ("eca", "we", "atac", "dia")] + [("small", "csra")]


@pytest.fixture(scope="module", autouse=True)
def _one_seed():
    torch.manual_seed(0)


def done(net, attn, folder):
    """All that an operation decides and makes: plan, keys, numbers, outputs, price, checks."""
    x = torch.linspace(-1, 1, 2 * 3 * 16 * 16).reshape(2, *SIZE)
    operation = attnsurgeon.insert(NETS[net](), attn, input_size=SIZE, init="paper")
    read = attnsurgeon.load(operation.save(folder), model=NETS[net]()).eval()
    assert attnsurgeon.audit(read, input_size=SIZE).ok
    weighed = attnsurgeon.estimate(f"{HERE}Widths", "eca", "residual-branch", input_size=SIZE)
    return (
        operation.plan.record(),
        [(cut.module_path, cut.place.technique) for cut in operation.plan],
        [(name, t.tolist()) for name, t in operation.model.state_dict().items()],
        operation.model(x).tolist(),
        read(x).tolist(),
        operation.cost,
        weighed,
        operation.verify(),
    )


class Neighbour(threading.Thread):
    """Another thread of the program: it draws, builds, runs, learns and loads, until it is told.

    Attributes:
        seen: what it made in each round.
        odd: what it noticed of others.
    """

    def __init__(self, file):
        super().__init__()
        self.file = file
        self.enough = threading.Event()
        self.seen, self.odd = [], []
        self.net = dicey()

    def run(self):
        begin()
        plain = nn.Module.__call__, nn.Module.__getattr__
        while not self.enough.is_set() or not self.seen:
            try:
                self.seen.append(self.round())
            except Exception as error:  # it would end the thread without a word
                self.odd.append(repr(error))
                return
            time.sleep(0.01)
            if (nn.Module.__call__, nn.Module.__getattr__) != plain:
                self.odd.append("nn.Module")
            if Mark not in torch.serialization.get_safe_globals():
                self.odd.append("safe globals")
            if torch.get_default_dtype() != torch.float32 or not torch.is_grad_enabled():
                self.odd.append("modes")

    def round(self):
        drawn = torch.rand(3).tolist(), random.random(), float(np.random.rand())
        fresh = nn.Conv2d(3, 4, 3)  # its weights are numbers, and those that were to come
        assert not fresh.weight.is_meta
        x = torch.rand(2, *SIZE)
        self.net.eval()
        eval_sum = self.net(x).sum().item()
        self.net.train()
        loss = self.net(x).square().sum()
        loss.backward()
        read = torch.load(self.file, weights_only=True)
        return drawn, fresh.weight.sum().item(), eval_sum, loss.item(), read["mark"].number


class Mark:
    """Something that the program has declared safe to unpickle."""

    number = 7


def begin():
    torch.manual_seed(11)
    random.seed(12)
    np.random.seed(13)


@pytest.fixture
def file(tmp_path):
    torch.serialization.add_safe_globals([Mark])
    torch.save({"mark": Mark(), "x": torch.ones(2)}, tmp_path / "marked.pt")
    yield tmp_path / "marked.pt"
    torch.serialization.clear_safe_globals()


def check_beside_a_neighbour(jobs, threads, file, folder):
    """Runs jobs in threads beside a neighbour; all equal what they are alone."""
    alone = {job: done(*job, folder / f"alone-{at}") for at, job in enumerate(dict.fromkeys(jobs))}
    assert {job for job in alone if not alone[job][-1].ok} == set()
    with ThreadPoolExecutor(threads) as pool:
        neighbour = Neighbour(file)
        neighbour.start()
        try:
            # The seed that the neighbour sets is the program's: new weights follow it.
            while neighbour.is_alive() and not neighbour.seen:
                neighbour.join(0.01)
            made = list(pool.map(lambda at: done(*jobs[at], folder / str(at)), range(len(jobs))))
        finally:
            neighbour.enough.set()
            neighbour.join()
    assert neighbour.odd == []
    assert [job for job, one in zip(jobs, made, strict=True) if one != alone[job]] == []
    undisturbed = Neighbour(file)
    undisturbed.net = dicey()
    begin()
    assert [undisturbed.round() for _ in neighbour.seen] == neighbour.seen


@pytest.mark.slow
def test_operations_in_threads_equal_those_of_one_and_a_neighbour_sees_nothing(file, tmp_path):
    begin()
    check_beside_a_neighbour(JOBS[1::4] * 2, 4, file, tmp_path)


@pytest.mark.slow
def test_two_hundred_operations_in_eight_threads_equal_those_of_one(file, tmp_path):
    begin()
    jobs = [JOBS[at % len(JOBS)] for at in range(200)]
    check_beside_a_neighbour(jobs, 8, file, tmp_path)


# One thing at a time: while an operation is in the middle of its work.


class Paused(nn.Module):
    """Stops in its forward until another thread has done something."""

    def __init__(self, meanwhile):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.meanwhile = [meanwhile]

    def forward(self, x):
        self.meanwhile[0]()
        return self.norm(self.conv(x))

    def __deepcopy__(self, memo):
        return Paused(self.meanwhile[0]).train(self.training)


class InAnotherThread:
    """Runs a function in another thread whenever it is called, and keeps what it returns."""

    def __init__(self, function):
        self.function, self.made = function, []

    def __call__(self):
        thread = threading.Thread(target=lambda: self.made.append(self.function()))
        thread.start()
        thread.join()


def test_a_forward_in_another_thread_is_neither_recorded_nor_disturbed():
    net, x = small(), torch.ones(1, *SIZE)
    expected = net(x)
    other = InAnotherThread(lambda: net(x))
    traced = trace(Paused(other), (torch.empty(2, *SIZE, device="meta"),))
    assert list(traced.calls) == ["", "conv", "norm"]
    assert other.made
    assert all(torch.equal(y, expected) for y in other.made)


def test_a_network_built_in_another_thread_has_its_numbers():
    def build():
        return nn.Conv2d(3, 4, 3)

    other = InAnotherThread(build)

    class Builds(Widths):
        def __init__(self):
            other()
            super().__init__()
            other()

    globals()["Builds"] = Builds
    try:
        model = build_on_meta(f"{HERE}Widths")
        assert all(p.is_meta for p in model.parameters())
        assert all(p.is_meta for p in build_on_meta("tests.test_threads:Builds").parameters())
    finally:
        del globals()["Builds"]
    assert len(other.made) >= 2
    for conv in other.made:
        assert not conv.weight.is_meta
        assert bool(conv.weight.any())


def test_a_mode_asked_in_another_thread_is_not_noted():
    shared = small()
    other = InAnotherThread(lambda: [m.training for m in shared.modules()])

    class Asks(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.act = nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()

        def forward(self, x):
            other()
            return self.act(self.conv(x)) + x.mean()

    plan = attnsurgeon.plan(Asks(), "eca", {"site": "act"}, input_size=SIZE)
    assert [cut.place.technique for cut in plan] == ["retype"]
    assert other.made
    assert all(flags == other.made[0] for flags in other.made)
    assert not any("training" in vars(type(m)) for m in shared.modules())


@pytest.mark.parametrize("draw", ["torch.rand(1)", "random.random()", "np.random.rand()"])
def test_dice_of_another_thread_are_not_those_of_the_forward(draw):
    other = InAnotherThread(lambda: eval(draw))

    class Beside(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.act = nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()

        def forward(self, x):
            other()
            return self.act(self.conv(x)) + x.mean()

    class Itself(Beside):
        def forward(self, x):
            return self.act(self.conv(x)) + float(eval(draw))

    where = {"site": "act"}
    (cut,) = attnsurgeon.plan(Beside(), "eca", where, input_size=SIZE)
    assert cut.place.technique == "retype"
    (cut,) = attnsurgeon.plan(Itself(), "eca", where, input_size=SIZE)
    assert cut.place.technique != "retype"
