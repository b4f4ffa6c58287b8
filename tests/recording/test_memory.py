"""Values that share their memory: a cut that a change in place would tear apart is refused."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import attnsurgeon
from tests.surgery import outputs, ready, same

SIZE = (3, 13, 11)
C = 5


class Viewed(nn.Module):
    """A stem, the statements of a case, and what it makes of them."""

    def __init__(self, case):
        super().__init__()
        self.case = case
        self.stem, self.last = nn.Conv2d(3, C, 3), nn.Conv2d(C, C, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return CASES[self.case](self, self.stem(x))


def part_first(net, y):
    view = y[:, :2]
    view.relu_()
    return net.last(y)


def whole_after_part(net, y):
    view = y[:, :2]
    y.add_(1)
    y = F.leaky_relu(y, 0.1, inplace=True)
    return net.last(y) + view.mean()


def part_alone(net, y):
    view = y.view(y.shape[0], C, -1).view(y.shape)
    view.relu_()
    return net.last(view)


def parts_unchanged(net, y):
    left, right = y.relu().split((2, 3), 1)
    return net.last(torch.cat([right, left], 1))


CASES = {f.__name__: f for f in (part_first, whole_after_part, part_alone, parts_unchanged)}


def plan(case, path):
    net = ready(Viewed(case))
    return net, attnsurgeon.insert(net, "eca", lambda site: site.path == path, input_size=SIZE)


@pytest.mark.parametrize(
    ("case", "path"), [("part_first", ":relu"), ("whole_after_part", ":leaky_relu")]
)
def test_a_value_of_whose_memory_another_part_is_used_is_refused(case, path):
    with pytest.raises(attnsurgeon.SurgeonError, match="shares its memory with"):
        plan(case, path)


@pytest.mark.parametrize(("case", "path"), [
    ("part_first", "stem"), ("part_alone", ":relu"), ("parts_unchanged", ":relu"),
    ("parts_unchanged", "last"),
])  # fmt: skip
def test_views_that_nobody_else_uses_are_cut(case, path):
    net, operation = plan(case, path)
    x = torch.randn(2, *SIZE)
    assert same(outputs(operation.model, x), outputs(net, x))
    for parameter in operation.model.get_submodule(operation.plan.cuts[0].module_path).parameters():
        nn.init.ones_(parameter)
    assert not same(outputs(operation.model, x), outputs(net, x))
