"""Halo attention against its equation by loops, against timm's module, and its parameters."""

import pytest
import torch
from timm.layers.halo_attn import HaloAttn
from torch import nn

from attnsurgeon.attention.registry import create_attention, lookup
from attnsurgeon.attention.shapes import CONV
from attnsurgeon.errors import MechanismError
from tests.attention.cases import gradients, stir
from tests.attention.convs.distances import at, looked_up, places, pointwise, row, tile_means


def made(rank, *, stride=1, **args):
    """Returns the mechanism in double precision, its parameters moved."""
    conv = CONV[rank](6, 8, 3, stride, 1, bias=False)
    return stir(create_attention("halo", conv=conv, heads=2, **args).double())


@torch.no_grad()
def by_loops(halo, image, block, margin, step):
    """Returns the map of one image; block, margin and step are along each axis."""
    queries = pointwise(halo.q, image).chunk(2)  # one set for each of two heads
    both = pointwise(halo.kv, image).chunk(2)
    asked = [range(0, n, by) for n, by in zip(image.shape[1:], step, strict=True)]
    found = []
    for q, kv in zip(queries, both, strict=True):
        k, v = kv.chunk(2)
        here = []
        for place in places([len(line) for line in asked]):
            i = tuple(line[p] for line, p in zip(asked, place, strict=True))
            first = [n // b * b for n, b in zip(i, block, strict=True)]
            around = [
                tuple(f - m + p for f, m, p in zip(first, margin, inside, strict=True))
                for inside in places([b + 2 * m for b, m in zip(block, margin, strict=True)])
            ]
            keys = [at(k, j) + row(halo.tables, i, j, halo.halo[-1]) for j in around]
            here.append(looked_up(at(q, i), keys, [at(v, j) for j in around]))
        found.append(torch.stack(here, dim=1).reshape(-1, *[len(line) for line in asked]))
    return torch.cat(found)


@pytest.mark.parametrize(
    ("size", "block", "halo"),
    [((7,), 3, 2), ((4, 6), 2, 1), ((5, 3), 4, 1), ((3, 4), 2, 3), ((1, 1), 3, 1)],
)
def test_every_block_looks_at_itself_and_around_it(size, block, halo):
    module = made(len(size), block=block, halo=halo)
    x = torch.randn(2, 6, *size, dtype=torch.float64)
    sides, margins = (block,) * len(size), (halo,) * len(size)
    once = (1,) * len(size)
    expected = torch.stack([by_loops(module, image, sides, margins, once) for image in x])
    torch.testing.assert_close(module(x), expected, rtol=0, atol=1e-12)


def test_blocks_and_halos_of_clips_have_three_frames_at_most():
    module = made(3, block=8, halo=4)
    assert (module.block, module.halo) == ((3, 8, 8), (3, 4, 4))
    module = made(3, block=2, halo=1)
    x = torch.randn(1, 6, 3, 2, 2, dtype=torch.float64)
    expected = by_loops(module, x[0], module.block, module.halo, (1, 1, 1))[None]
    torch.testing.assert_close(module(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(8, 4), (7, 5)])
def test_with_a_stride_every_second_position_asks(size):
    module = made(2, stride=2, block=4, halo=1)
    x = torch.randn(1, 6, *size, dtype=torch.float64)
    expected = by_loops(module, x[0], (4, 4), (1, 1), (2, 2))[None]
    torch.testing.assert_close(module(x), expected, rtol=0, atol=1e-12)


def test_where_the_stride_does_not_divide_a_block_all_ask_and_tiles_are_averaged():
    module = made(2, stride=2, block=3, halo=1)
    x = torch.randn(1, 6, 7, 4, dtype=torch.float64)
    whole = by_loops(module, x[0], (3, 3), (1, 1), (1, 1))
    torch.testing.assert_close(module(x)[0], tile_means(whole, (2, 2)), rtol=0, atol=1e-12)


def timms(halo, block, margin, stride):
    """Returns timm's module with the same parameters."""
    theirs = HaloAttn(
        64, stride=stride, num_heads=halo.heads, block_size=block, halo_size=margin,
        scale_pos_embed=True,
    ).double()  # fmt: skip
    height, width = halo.tables
    tables = {"pos_embed.height_rel": height, "pos_embed.width_rel": width}
    layers = {"q.weight": halo.q.weight, "kv.weight": halo.kv.weight}
    theirs.load_state_dict({**layers, **tables})
    return theirs


@pytest.mark.parametrize(
    ("size", "block", "margin", "stride"),
    [
        ((16, 8), 8, 3, 1),
        ((8, 8), 8, 2, 1),
        ((8, 12), 4, 5, 1),
        ((6, 12), 3, 2, 2),  # a stride that does not divide the block
    ],
)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_it_is_timms_with_all_gradients(size, block, margin, stride, batch, train):
    conv = nn.Conv2d(64, 64, 3, stride, 1)
    halo = create_attention("halo", conv=conv, block=block, halo=margin)
    halo = stir(halo.double()).train(train)
    theirs = timms(halo, block, margin, stride).train(train)
    x = torch.randn(batch, 64, *size, dtype=torch.float64)
    (y, by_ours), (z, by_theirs) = gradients(halo, x), gradients(theirs, x)
    torch.testing.assert_close(y, z, rtol=0, atol=1e-10)
    torch.testing.assert_close(by_ours, by_theirs, rtol=0, atol=1e-10)


def test_another_halo_is_not_timms():
    halo = stir(create_attention("halo", conv=nn.Conv2d(64, 64, 3, 1, 1), block=4, halo=2).double())
    theirs = timms(halo, 4, 2, 1)
    x = torch.randn(1, 64, 8, 8, dtype=torch.float64)
    halo.halo = (1, 1)
    with torch.no_grad():
        halo.tables = nn.ParameterList(table[2:-2] for table in halo.tables)
    assert not torch.allclose(halo(x), theirs(x))


def test_parameters_of_one_site():
    conv = nn.Conv2d(64, 64, 3, padding=1, bias=False)
    assert lookup("halo").params(conv) == 3 * 64 * 64 + 2 * 27 * 8
    assert lookup("halo").params(conv, heads=4, block=8, halo=2) == 3 * 64 * 64 + 2 * 23 * 16


def test_heads_that_do_not_divide_are_refused_with_the_nearest():
    with pytest.raises(MechanismError, match=r"heads=8 do not divide 12 channels[\s\S]*heads=6"):
        create_attention("halo", conv=nn.Conv2d(12, 12, 3, padding=1))
