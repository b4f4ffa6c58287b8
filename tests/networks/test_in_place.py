"""What attention keeps for later in a forward is what it was, whatever is done to it in place."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

import attnsurgeon
from attnsurgeon.attention.heads.tapped import Mailbox
from attnsurgeon.attention.linked.chain import Chain

SIZE = (3, 16, 24)


class Block(nn.Module):
    """A residual block that adds its shortcut in place, or not."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.in_place = in_place
        self.inner = nn.Sequential(nn.Conv2d(32, 32, 1), nn.ReLU())
        self.conv, self.norm = nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32)

    def forward(self, x):
        y = self.norm(self.conv(self.inner(x)))
        if self.in_place:
            y += x
        else:
            y = y + x
        return y.relu()


class Network(nn.Module):
    """Blocks, and an activation of the last feature map that changes it in place, or not."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.in_place = in_place
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.stage1 = nn.Sequential(Block(in_place), Block(in_place))
        self.down = nn.Conv2d(32, 32, 2, stride=2)
        self.stage2 = nn.Sequential(Block(in_place), Block(in_place), nn.Conv2d(32, 32, 1))
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(32, 5)

    def forward(self, x):
        x = self.stage1(self.stem(x))
        x = self.stage2(self.down(x))
        y = nn.functional.relu(x, inplace=self.in_place)
        return self.fc(self.pool(y).flatten(1))


def pair(attn, where=None, **args):
    """The two networks, operated alike, with the same weights that are all awake."""
    made = []
    for in_place in (True, False):
        network = Network(in_place).eval()
        operation = attnsurgeon.insert(network, attn, where, attn_args=args, input_size=SIZE)
        made.append(operation.model)
    for parameter in made[0].parameters():
        parameter.data.normal_(std=0.3)
    made[1].load_state_dict(made[0].state_dict())
    return made


@pytest.mark.parametrize(
    ("attn", "args"),
    [
        ("dca", {"inner": "cbam"}),
        ("dca", {"inner": "se"}),
        ("dca", {"inner": "ge"}),
        ("dia", {}),
        ("csra", {}),
        ("interflow", {}),
        ("cbam", {}),
    ],
)
def test_changes_in_place_after_attention_change_no_output_and_no_gradient(attn, args):
    one, other = pair(attn, **args)
    x = torch.randn(2, *SIZE)
    outputs = []
    for network in (one, other):
        given = x.clone().requires_grad_()
        y = network(given)
        (grad,) = torch.autograd.grad(y.square().sum(), given)
        outputs += [y, grad]
    assert torch.equal(outputs[0], outputs[2])
    torch.testing.assert_close(outputs[1], outputs[3], rtol=1e-5, atol=1e-5)


class Later(Network):
    """Changes the map of its first stage after the second has taken it."""

    def forward(self, x):
        x = self.stage1(self.stem(x))
        y = self.pool(self.stage2(self.down(x)))
        if self.in_place:
            x *= -2
        return self.fc(y.flatten(1))


def test_a_tapped_map_is_copied_where_it_changes_later_and_only_there():
    outputs, x = [], torch.randn(2, *SIZE)
    for in_place in (True, False):
        torch.manual_seed(0)
        network = Later(in_place).eval()
        operation = attnsurgeon.insert(network, "interflow", init="paper", input_size=SIZE)
        (cut,) = operation.plan
        assert [place.copies for place in cut.taps] == [in_place]
        torch.manual_seed(1)
        for parameter in operation.model.parameters():
            parameter.data.normal_(std=0.3)
        outputs.append(operation.model(x))
    assert torch.equal(*outputs)


def test_a_state_that_was_changed_in_place_is_an_error():
    chain, x = Chain(), torch.ones(1, 3)
    chain.run(0, lambda x, state: (x, x), x)
    chain.run(1, lambda x, state: (x, state), x)  # unchanged
    chain.run(0, lambda x, state: (x, x), x)
    x += 1
    with pytest.raises(RuntimeError, match=r"place 0 .* was changed in place"):
        chain.run(1, lambda x, state: (x, state), x)


def test_the_mailboxes_of_two_threads_are_apart():
    mailbox = Mailbox()
    mailbox.put(0, torch.ones(1))
    thread = threading.Thread(target=mailbox.put, args=(0, torch.zeros(1)))
    thread.start()
    thread.join()
    assert torch.equal(mailbox.take(1)[0], torch.ones(1))
    with pytest.raises(RuntimeError, match="not made in this forward"):
        mailbox.take(1)
