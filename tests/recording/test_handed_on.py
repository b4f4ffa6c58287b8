"""A value that passes through a dropout on its only way on can be cut at the dropout's input."""

import pytest
import torch
from torch import Tensor, nn

from attnsurgeon.recording.handed_on import handed_on
from attnsurgeon.recording.trace import trace
from tests.surgery import active, operated, outputs, plan_of, ready, same, surveyed, ways


class Block(nn.Module):
    """A residual block that decides by a type of number, so that it cannot be rewritten."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = (
            nn.Conv2d(8, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.Identity(),
        )

    def branch(self, x: Tensor, size: int) -> Tensor:
        made = self.norm(self.conv(x)).relu()
        return made[..., :size] if x.dtype == torch.float32 else made

    def forward(self, x: Tensor, size: int, **kwargs: object) -> Tensor:
        return x + self.drop(self.branch(x, size))


class Beside(Block):
    """Calls the dropout, but goes on with what it gave it."""

    def forward(self, x: Tensor, size: int, **kwargs: object) -> Tensor:
        made = self.branch(x, size)
        self.drop(made)
        return x + made


class Twice(Block):
    """Goes on with both."""

    def forward(self, x: Tensor, size: int, **kwargs: object) -> Tensor:
        made = self.branch(x, size)
        return x + self.drop(made) + made.mean((2, 3), keepdim=True)


class Net(nn.Module):
    def __init__(self, block: type[Block]) -> None:
        super().__init__()
        self.stem, self.block = nn.Conv2d(3, 8, 3, padding=1), block()

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.stem(x), x.shape[-1])


def test_attention_goes_in_before_a_dropout_that_is_the_only_way_on():
    net, x = ready(Net(Block)), torch.randn(2, 3, 9, 7)
    plan = plan_of(surveyed(net))
    assert list(ways(plan).values()) == ["input-hook"]
    assert plan.cuts[0].place.host == "block.drop"
    made = operated(net, plan)
    assert same(outputs(made, x), outputs(net, x))
    assert not same(outputs(active(made), x), outputs(net, x))
    assert [key for key in made.state_dict() if ".attn." not in key] == list(net.state_dict())


@pytest.mark.parametrize("block", [Beside, Twice])
def test_a_dropout_that_is_not_the_only_way_on_is_no_place(block):
    traced = trace(Net(block), (torch.empty(2, 3, 9, 7),))
    assert handed_on(traced) == frozenset()
    assert handed_on(trace(Net(Block), (torch.empty(2, 3, 9, 7),))) == {"block.drop"}


def test_a_refusal_says_why_the_flat_trace_failed_not_that_there_are_keyword_arguments():
    found = surveyed(Net(Beside))
    with pytest.raises(Exception, match="decides by a value") as refused:
        plan_of(found)
    assert "kwargs" not in str(refused.value)
