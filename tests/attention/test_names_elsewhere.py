"""The table of docs/mechanisms.md: what timm calls a mechanism, and what it is called here.

Each row is held against timm's own module: with its weights carried over, both compute the same.
"""

import inspect
import re
from pathlib import Path

import pytest
import torch
from timm.layers.create_attn import create_attn, get_attn
from torch import nn

from attnsurgeon.attention.registry import create_attention, lookup
from attnsurgeon.grid.spelling import read_attn
from tests.attention.cases import params, stir

DOCS = Path(__file__).parents[2] / "docs"
ROW = re.compile(r"^\| `(\w+)` \| `([^`]+)` \| (.*)\|$", re.M)
WORD = re.compile(r"`([^`]+)`")
WIDTHS = {"ecam": 512}  # as its row says; of the others 128
# What timm's modules take.
SIZES = {"halo": ((8, 8), (8, 16)), "bottleneck": ((5, 7),), "bat": ((7, 7), (14, 7))}


def rows(page):
    """Returns timm's name -> ours with its arguments."""
    table = (DOCS / page).read_text().partition("<!-- timm's names -->")[2].partition("<!-- end")[0]
    return {theirs: ours for theirs, ours, _ in ROW.findall(table)}


def known_to_timm():
    return re.findall(r"attn_type == '(\w+)'", inspect.getsource(get_attn))


EQUAL = list(rows("mechanisms.md").items())


@pytest.mark.parametrize("page", ["mechanisms.md", "mechanisms.zh-CN.md"])
def test_every_name_of_timm_has_a_row_and_it_is_the_same_in_both_languages(page):
    assert len(known_to_timm()) == 21
    assert list(rows(page)) == known_to_timm()
    assert rows(page) == rows("mechanisms.md")


def build(theirs, ours):
    """Returns our module and timm's, as the row and its remark have them."""
    spec, kwargs, args = read_attn(ours), {}, {}
    width = WIDTHS.get(theirs, 128)
    if theirs == "ge":
        kwargs["use_mlp"] = False
    if theirs in ("halo", "bottleneck"):
        kwargs["scale_pos_embed"] = True
    if theirs == "bottleneck":
        kwargs["feat_size"] = args["size"] = SIZES[theirs][0]
    if theirs == "splat":
        kwargs["norm_layer"] = nn.BatchNorm2d
    if theirs == "bat":  # what one drops, the other does not
        kwargs["drop_rate"] = args["dropout"] = 0.0
    into = {"channels": width}
    if lookup(spec.name).kind == "conv":
        into = {"conv": nn.Conv2d(width, width, 3, padding=1, bias=False)}
    made = create_attention(spec.name, **into, **spec.args, **args)
    timms = create_attn(theirs, width, **kwargs)
    for module in timms.modules():
        if isinstance(module, nn.LayerNorm):  # of gc and gca
            module.eps = 1e-5
        if isinstance(module, nn.BatchNorm2d) and spec.name == "cbam":
            module.momentum = 0.01
    return made.double(), timms.double()


def state(module):
    """Returns name -> parameter or running statistic, in order."""
    named = dict(module.named_parameters()) | dict(module.named_buffers())
    return {name: named[name] for name in module.state_dict() if "num_batches" not in name}


def arranged(theirs, found, factor=1.0):
    """Returns the values of a module of timm's in the order and the arrangement of ours.

    Args:
        theirs: timm's name.
        found: name there -> value.
        factor: by which the layer of the queries is multiplied.
    """
    if theirs == "nl":  # the values come first here, and scores are divided by another number
        found = {
            name: found[name] for name in sorted(found, key=lambda name: "gtpzn".index(name[0]))
        }
        return [factor * value if name[0] == "t" else value for name, value in found.items()]
    if theirs == "cbam":  # the planes are [max, mean] here
        return [value.flip(1) if "conv.conv" in name else value for name, value in found.items()]
    return list(found.values())


def run(module, x):
    """Returns the output of a copy of `x`, then the gradients of a fixed functional of it."""
    x = x.clone().requires_grad_()
    y = module(x)
    weights = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(y)
    names = [name for name, _ in module.named_parameters()]
    of_x, *others = torch.autograd.grad((y * weights).sum(), (x, *module.parameters()))
    return y, of_x, dict(zip(names, others, strict=True))


def same(ours, theirs):
    # Not closer, as torch's hard sigmoid has its 1 / 6 in single precision.
    torch.testing.assert_close(ours, theirs.reshape(ours.shape), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("theirs", "ours"), EQUAL, ids=[theirs for theirs, _ in EQUAL])
def test_a_row_computes_what_timm_does_with_its_weights(theirs, ours):
    made, timms = build(theirs, ours)
    shrunk = 1 / 8**0.5  # timm divides the scores of nl by sqrt(C), we by sqrt(C / 8)
    with torch.no_grad():
        for mine, value in zip(
            state(made).values(), arranged(theirs, state(stir(timms)), shrunk), strict=True
        ):
            mine.copy_(value.reshape(mine.shape))
    for size in SIZES.get(theirs, ((5, 3), (7, 11))):
        for batch, train in ((1, False), (3, False), (3, True)):
            x = torch.randn(batch, WIDTHS.get(theirs, 128), *size, dtype=torch.float64)
            y, of_x, grads = run(made.train(train), x)
            y_timm, of_x_timm, grads_timm = run(timms.train(train), x)
            same(y, y_timm)
            if theirs == "lambda" and batch == 1:
                continue  # torch's batch norm gives timm's module a wrong gradient there
            same(of_x, of_x_timm)
            wanted = arranged(theirs, grads_timm, 1 / shrunk)
            for grad, value in zip(grads.values(), wanted, strict=True):
                same(grad, value)
    for mine, value in zip(
        state(made).values(), arranged(theirs, state(timms), shrunk), strict=True
    ):
        same(mine, value)  # the running statistics too


@pytest.mark.parametrize(("theirs", "ours"), EQUAL, ids=[theirs for theirs, _ in EQUAL])
def test_a_row_has_as_many_parameters(theirs, ours):
    made, timms = build(theirs, ours)
    assert params(made) == params(timms)


@pytest.mark.parametrize("page", ["mechanisms.md", "mechanisms.zh-CN.md"])
def test_what_the_text_names_can_be_made(page):
    section = (DOCS / page).read_text().partition("<!-- timm's names -->")[2].partition("\n## ")[0]
    named = [w for w in WORD.findall(section.partition("<!-- end")[2]) if w[0].islower()]
    assert len(named) == 10
    for name in named:
        spec = read_attn(name)
        if lookup(spec.name).kind == "gate":
            create_attention(spec.name, 64, **spec.args)


@pytest.mark.parametrize(("theirs", "ours"), [row for row in EQUAL if "(" in row[1]])
def test_without_its_arguments_a_row_would_be_another_mechanism(theirs, ours):
    made, _ = build(theirs, ours)
    bare, _ = build(theirs, ours.partition("(")[0])
    if [value.shape for value in state(bare).values()] == [v.shape for v in state(made).values()]:
        bare.load_state_dict(stir(made).state_dict())
        x = torch.randn(1, WIDTHS.get(theirs, 128), 5, 3, dtype=torch.float64)
        assert not torch.allclose(bare.eval()(x), made.eval()(x), atol=1e-4)
