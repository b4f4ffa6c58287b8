"""Forwards that assert, pad, crop or decide by sizes: every way is kept, or tested at each call."""

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import attnsurgeon
from tests.nets import deciding as nets
from tests.nets.deciding import D, of

OWN = (3, 32, 48)
FORMS = {
    "swin": (nets.swin, OWN, []),
    "padded": (lambda: of("channels last", nets.PaddedWindows), OWN, [(3, 36, 52), (3, 32, 44)]),
    "padded, from an odd size": (
        lambda: of("channels last", nets.PaddedWindows), (3, 36, 52), [OWN, (3, 40, 32)],
    ),
    "where needed": (
        lambda: of("channels last", nets.PaddedWhereNeeded), OWN,
        [(3, 36, 52), (3, 36, 48), (3, 32, 52)],
    ),
    "where needed, from an odd size": (
        lambda: of("channels last", nets.PaddedWhereNeeded), (3, 36, 52),
        [OWN, (3, 36, 48), (3, 32, 52)],
    ),
    "typed": (lambda: of("tokens", nets.Typed), OWN, [(3, 36, 52)]),
    "even": (lambda: of("maps", nets.EvenPadded), OWN, [(3, 32, 52)]),
    "even only": (lambda: of("maps", nets.EvenOnly), OWN, [(3, 28, 40)]),
}  # fmt: skip
ADDITIONS = {"even": 2, "even only": 2}
each_form = pytest.mark.parametrize("form", FORMS)


def image(size, batch=2):
    return torch.randn(batch, *size, generator=torch.Generator().manual_seed(0))


def operated(form, attn, where, **args):
    build, size, others = FORMS[form]
    torch.manual_seed(1)
    model = build().eval()
    return model, attnsurgeon.insert(model, attn, where, input_size=size, attn_args=args), others


@each_form
@pytest.mark.parametrize(
    ("attn", "where"),
    [
        ("eca", "residual-branch"),
        pytest.param("aff", "residual-add", marks=pytest.mark.slow),
        pytest.param("eca", "residual-block", marks=pytest.mark.slow),
    ],
)
def test_no_addition_is_lost_and_every_size_comes_out_as_before(form, attn, where):
    args = {"reduction": 2} if attn == "aff" else {}
    model, operation, others = operated(form, attn, where, **args)
    assert operation.plan.refused == ()
    assert len(operation.plan) == ADDITIONS.get(form, 4)
    assert [cut.place.note for cut in operation.plan if "raises" in cut.place.note] == []
    for mode in (True, False):
        model.train(mode)
        operation.model.train(mode)
        for size in (FORMS[form][1], *others):
            for batch in (1, 2):
                x = image(size, batch)
                assert torch.equal(operation.model(x), model(x)), (mode, size)
    assert operation.verify().ok


@each_form
def test_attention_acts_on_every_way(form):
    model, operation, others = operated(form, "eca", "residual-branch")
    for cut in operation.plan:
        weight = operation.model.get_submodule(cut.module_path).conv.weight
        nn.init.constant_(weight, 0.5)
    for size in (FORMS[form][1], *others):
        audit = attnsurgeon.audit(operation.model, input_size=size)
        assert set(audit.calls.values()) == {1}
        assert not torch.allclose(operation.model(image(size)), model(image(size)))


@pytest.mark.slow
@each_form
def test_copies_and_pickles_take_the_same_ways(form):
    _, operation, others = operated(form, "aff", "residual-add", reduction=2)
    copied = copy.deepcopy(operation.model)
    unpickled = pickle.loads(pickle.dumps(operation.model))
    for size in (FORMS[form][1], *others):
        expected = operation.model(image(size))
        assert torch.equal(copied(image(size)), expected)
        assert torch.equal(unpickled(image(size)), expected)


@pytest.mark.parametrize(("form", "size"), [("swin", (3, 32, 32)), ("even only", (3, 32, 52))])
def test_what_only_raises_raises_the_same(form, size):
    model, operation, _ = operated(form, "aff", "residual-add", reduction=2)
    with pytest.raises(Exception, match=r"tokens|width") as expected:
        model(image(size))
    with pytest.raises(type(expected.value)) as found:
        operation.model(image(size))
    assert str(found.value) == str(expected.value)


def test_a_list_where_a_tensor_was_asked_for_is_an_error():
    _, operation, _ = operated("typed", "aff", "residual-add", reduction=2)
    with pytest.raises(TypeError, match=r"given a list .*deciding\.py:\d+"):
        operation.model.blocks[0]([torch.randn(2, 7, D)])


class Block(nn.Module):
    """A branch without modules behind it, so that only its own forward can be cut."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(D, D, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)

    def branch(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class OneWay(Block):
    """Of a wide map it goes over the rows, which nothing can follow."""

    def branch(self, x: Tensor) -> Tensor:
        if x.shape[-1] > 20:
            return torch.stack([self.conv(x)[:, :, i].relu() for i in range(x.shape[2])], 2)
        return self.conv(x).relu() * 2


class ByBatch(Block):
    """Of one image it goes over the rows."""

    def branch(self, x: Tensor) -> Tensor:
        if x.shape[0] == 1:
            return torch.stack([self.conv(x)[:, :, i].relu() for i in range(x.shape[2])], 2)
        return self.conv(x).relu() * 2


class ByType(Block):
    """In half precision it clamps."""

    def branch(self, x: Tensor) -> Tensor:
        made = self.conv(x).relu()
        return made.clamp(max=1000.0) if x.dtype == torch.float16 else made * 2


class Parts(Block):
    """Goes over as many parts as the width has fours."""

    def branch(self, x: Tensor) -> Tensor:
        return torch.cat([part * 2 for part in self.conv(x).relu().split(4, -1)], -1)


class Table(Block):
    """Looks its width up."""

    def branch(self, x: Tensor) -> Tensor:
        made = self.conv(x).relu()
        return made * 3 if x.shape[-1] in {12: True} else made * 2


def fused(block):
    model = of("maps", block).eval()
    args = {"attn_args": {"reduction": 2}, "input_size": OWN}
    return model, attnsurgeon.insert(model, "aff", "residual-add", **args)


def test_a_way_that_cannot_be_followed_is_noted_and_raises():
    model, operation = fused(OneWay)
    assert all("at input sizes that lead another way" in c.place.note for c in operation.plan)
    assert "test_ways.py:" in operation.plan.cuts[0].place.note
    assert torch.equal(operation.model(image(OWN)), model(image(OWN)))
    assert model(image((3, 32, 96))).shape == (2, 5)
    with pytest.raises(RuntimeError, match=r"another way \(test_ways\.py:\d+\)"):
        operation.model(image((3, 32, 96)))


def test_a_hook_that_serves_all_sizes_is_preferred_to_that():
    model = of("maps", OneWay).eval()
    where = {"site": "conv", "name": "blocks.*"}
    operation = attnsurgeon.insert(model, "eca", where, input_size=OWN)
    assert [cut.place.note for cut in operation.plan] == ["", ""]
    assert torch.equal(operation.model(image((3, 32, 96))), model(image((3, 32, 96))))


@pytest.mark.parametrize(
    ("block", "why"),
    [
        (ByBatch, "decides by the number of images"),
        (ByType, "decides by a value that depends on the input"),
        (Table, "looks a size up in a table"),
    ],
)
def test_what_is_no_matter_of_sizes_is_refused(block, why):
    with pytest.raises(attnsurgeon.SurgeonError, match=why):
        fused(block)


def test_another_number_of_parts_is_an_error_and_not_another_result():
    model, operation = fused(Parts)
    assert torch.equal(operation.model(image(OWN)), model(image(OWN)))
    assert model(image((3, 32, 96))).shape == (2, 5)
    with pytest.raises(RuntimeError, match="6 parts to go over"):
        operation.model(image((3, 32, 96)))


class Needy(Block):
    """Stops without a word where it is traced, and nowhere else."""

    def branch(self, x: Tensor) -> Tensor:
        if type(x) is not Tensor:
            raise AssertionError
        return F.relu(self.conv(x))


def test_a_trace_that_stops_without_a_word_says_at_which_line():
    with pytest.raises(attnsurgeon.SurgeonError, match="AssertionError: raise AssertionError"):
        fused(Needy)


class Both(Block):
    """Ways part three times: eight ways."""

    def branch(self, x: Tensor) -> Tensor:
        made = self.conv(x).relu()
        for power in (2, 4, 8):
            made = made * power if x.shape[-1] % power else made + power
        return made


def test_ways_that_part_several_times_are_all_there():
    model, operation = fused(Both)
    for width in range(12, 20):
        x = image((3, 16, 4 * width))
        assert torch.equal(operation.model(x), model(x))


class Picky(nn.Module):
    """Asserts its one size in a child, which another size that is tried cannot get past."""

    def forward(self, x: Tensor) -> Tensor:
        torch._assert(x.shape[-1] == 12, "only this width")
        return x * 2


class AfterPicky(Block):
    def __init__(self) -> None:
        super().__init__()
        self.picky = Picky()

    def branch(self, x: Tensor) -> Tensor:
        made = self.picky(self.conv(x))
        return made.relu() * 2 if made.shape[-1] == 12 else made.relu()


def test_a_child_that_takes_one_size_only_stops_no_plan():
    model, operation = fused(AfterPicky)
    assert torch.equal(operation.model(image(OWN)), model(image(OWN)))
    with pytest.raises(AssertionError, match="only this width"):
        operation.model(image((3, 32, 96)))
