"""Memory of a training step: against counts by hand, and against a device that is made up."""

import warnings

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from attnsurgeon.cost.step_memory import ALLOCATED, SAVED, allocated, peak_of, saved
from attnsurgeon.cost.stepping import steps
from attnsurgeon.recording.inputs import Inputs

FLOAT = 4  # bytes


def bytes_of(model, *inputs):
    with steps((model,), Inputs(inputs)) as (step,):
        first = saved(step, step.held)
        assert saved(step, step.held) == first  # nothing of one step is there in the next
        return first


class Net(nn.Module):
    """Runs a function of itself and x."""

    def __init__(self, run, **layers):
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x):
        return self.run(self, x)


X = torch.rand(5, 2)


def test_a_linear_layer_keeps_its_input_and_no_weights():
    assert bytes_of(nn.Linear(2, 3), X) == 5 * 2 * FLOAT
    hidden = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 7))  # the second needs its weights, too
    assert bytes_of(hidden, X) == (5 * 2 + 5 * 3) * FLOAT


def test_a_sigmoid_keeps_its_result_and_not_its_input():
    assert bytes_of(nn.Sequential(nn.Linear(2, 3), nn.Sigmoid()), X) == (5 * 2 + 5 * 3) * FLOAT


def test_a_block_of_convolution_norm_and_relu():
    block = nn.Sequential(nn.Conv2d(3, 7, 3, padding=1), nn.BatchNorm2d(7), nn.ReLU())
    of_input, of_conv, of_relu = 2 * 3 * 5 * 5, 2 * 7 * 5 * 5, 2 * 7 * 5 * 5
    of_norm = 2 * 7  # mean and deviation of the batch; the running ones are the network's
    expected = (of_input + of_conv + of_norm + of_relu) * FLOAT
    assert bytes_of(block, torch.rand(2, 3, 5, 5)) == expected


def test_a_memory_that_is_kept_twice_counts_once():
    def square(net, x):
        y = net.fc(x).sigmoid()
        return y * y  # keeps y as either factor, which sigmoid keeps already

    assert bytes_of(Net(square, fc=nn.Linear(2, 3)), X) == (5 * 2 + 5 * 3) * FLOAT


def test_a_view_keeps_the_whole_memory():
    whole = bytes_of(Net(lambda net, x: net.fc(x[:2]), fc=nn.Linear(2, 3)), X)
    copied = bytes_of(Net(lambda net, x: net.fc(x[:2].clone()), fc=nn.Linear(2, 3)), X)
    assert (whole, copied) == (5 * 2 * FLOAT, 2 * 2 * FLOAT)


def test_what_nobody_needs_any_more_makes_room():
    def two_ways(net, x):
        net.fc(x).sigmoid()  # thrown away before the other is made
        return net.fc(x).sigmoid()

    assert bytes_of(Net(two_ways, fc=nn.Linear(2, 3)), X) == (5 * 2 + 5 * 3) * FLOAT

    def at_once(net, x):
        return net.fc(x).sigmoid(), net.fc(x).sigmoid()

    assert bytes_of(Net(at_once, fc=nn.Linear(2, 3)), X) == (5 * 2 + 2 * 5 * 3) * FLOAT


def test_the_type_of_the_numbers_counts():
    assert bytes_of(nn.Linear(2, 3).double(), X.double()) == 5 * 2 * 8


def test_a_frozen_layer_keeps_nothing():
    net = nn.Sequential(nn.Linear(2, 3).requires_grad_(False), nn.Linear(3, 7))
    assert bytes_of(net, X) == 5 * 3 * FLOAT


INDEX = 8  # bytes


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # that it is a beta, and checks nothing
    COO = torch.sparse_coo_tensor(torch.arange(5).expand(2, 5).clone(), torch.ones(5), (5, 5))
    CSR = torch.sparse_csr_tensor(torch.arange(6), torch.arange(5), torch.ones(5), (5, 5))


@pytest.mark.parametrize(("rows", "places"), [(COO.coalesce(), 2 * 5), (CSR, 6 + 5)])
def test_a_sparse_matrix_is_its_numbers_and_their_places(rows, places):
    net = Net(lambda net, x: torch.sparse.mm(net.rows, net.fc(x)), fc=nn.Linear(2, 3))
    net.rows = rows
    assert bytes_of(net, X) == 5 * 2 * FLOAT + 5 * FLOAT + places * INDEX
    del net.rows
    net.register_buffer("rows", rows)  # of the network itself
    assert bytes_of(net, X) == 5 * 2 * FLOAT


def test_a_nested_tensor_is_its_numbers_and_where_each_begins():
    def square(net, x):
        nested = torch.nested.nested_tensor_from_jagged(net.fc(x), torch.tensor([0, 2, 5]))
        return (nested * nested).values()

    # x, what is squared, the squares, of which values() needs the form, and the offsets
    assert bytes_of(Net(square, fc=nn.Linear(2, 3)), X) == (10 + 15 + 15) * FLOAT + 3 * INDEX


@pytest.mark.slow  # what checkpoint imports
def test_reentrant_checkpoints_keep_less_until_they_compute_again():
    def twice(net, x):
        return net.b(net.a(x).sigmoid())

    def again(net, x):
        return checkpoint(net.b, net.a(x).sigmoid(), use_reentrant=True)

    layers = {"a": nn.Linear(2, 3), "b": nn.Sequential(*(nn.Sigmoid() for _ in range(4)))}
    whole = (5 * 2 + 5 * 3 + 4 * 5 * 3) * FLOAT
    assert bytes_of(Net(twice, **layers), X) == whole
    assert bytes_of(Net(again, **layers), X) == whole  # all of one part is there in its backward

    def halves(net, x):
        x = net.a(x).sigmoid()
        for part in (net.b[:2], net.b[2:]):
            x = checkpoint(part, x, use_reentrant=True)
        return x

    # x, the inputs of both parts and, while one is computed again, the results of its two layers.
    assert bytes_of(Net(halves, **layers), X) == (5 * 2 + 4 * 5 * 3) * FLOAT


def test_the_cpu_counts_what_is_saved():
    peak, what = peak_of(torch.device("cpu"))
    assert (peak, what) == (saved, SAVED)


class FakeDevice:
    """An allocator that counts; what a step makes for good, it makes once."""

    def __init__(self):
        self.now, self.most, self.steps = 1000, 1000, 0

    def step(self):
        self.steps += 1
        self.give(300 if self.steps == 1 else 0)  # a workspace that stays
        self.give(70)
        self.give(-70)

    def give(self, size):
        self.now += size
        self.most = max(self.most, self.now)

    def synchronize(self, device):
        assert device == "fake:1"

    def reset_peak_memory_stats(self, device):
        self.synchronize(device)
        self.most = self.now

    def memory_allocated(self, device):
        self.synchronize(device)
        return self.now

    def max_memory_allocated(self, device):
        self.synchronize(device)
        return self.most


def test_a_device_is_asked_for_the_most_it_gave_out_beside_what_was_there():
    device = FakeDevice()
    assert allocated(device.step, device, "fake:1") == 70  # type: ignore[arg-type]
    assert device.steps == 2


def test_a_device_that_does_not_count_has_its_saved_tensors_counted(monkeypatch):
    monkeypatch.setattr(torch, "get_device_module", lambda of: object())
    assert peak_of(torch.device("mps")) == (saved, SAVED)
    monkeypatch.setattr(torch, "get_device_module", lambda of: FakeDevice())
    assert peak_of(torch.device("cuda"))[1] == ALLOCATED


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_gives_out_at_least_what_autograd_keeps():
    device = torch.device("cuda")
    block = nn.Sequential(nn.Linear(512, 512), nn.Sigmoid()).to(device)
    x = torch.rand(4096, 512, device=device)
    peak, what = peak_of(device)
    assert what == ALLOCATED
    with steps((block,), Inputs((x,))) as (step,):
        assert saved(step, ()) >= 4096 * 512 * FLOAT
        assert peak(step, ()) >= 4096 * 512 * FLOAT  # the result of the sigmoid
