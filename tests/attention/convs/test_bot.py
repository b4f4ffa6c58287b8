"""BoTNet's attention against its equation by loops, against timm's module, and its totals."""

import pytest
import torch
from timm.layers.bottleneck_attn import BottleneckAttn
from torch import nn

from attnsurgeon.attention.registry import create_attention, lookup
from attnsurgeon.attention.shapes import CONV
from attnsurgeon.errors import MechanismError
from tests.attention.cases import gradients, params, stir
from tests.attention.convs.distances import at, looked_up, places, pointwise, row, tile_means
from tests.attention.convs.sites import RESNET50, conv3x3

SIZES = [(14, 10), (7, 7), (3, 1)]


def made(size, *, stride=1, channels=8, **args):
    """Returns the mechanism in double precision, its parameters moved."""
    conv = CONV[len(size)](6, channels, 3, stride, 1, bias=False)
    return stir(create_attention("bot", conv=conv, size=size, **args).double())


@torch.no_grad()
def by_loops(bot, image, tables):
    """Returns the map of one image, position by position and head by head."""
    found = []
    for q, k, v in zip(*split(bot, image), strict=True):
        everywhere = places(image.shape[1:])
        here = [
            looked_up(
                at(q, i),
                [at(k, j) + row(tables, i, j) for j in everywhere],
                [at(v, j) for j in everywhere],
            )
            for i in everywhere
        ]
        found.append(torch.stack(here, dim=1).reshape(-1, *image.shape[1:]))
    return tile_means(torch.cat(found), bot.stride)


def split(bot, image):
    """Returns queries, keys and values, each by head."""
    return [part.chunk(bot.heads) for part in pointwise(bot.qkv, image).chunk(3)]


@pytest.mark.parametrize(("size", "stride"), [((5,), 1), ((4, 3), 1), ((4, 3), 2), ((2, 3, 2), 1)])
def test_every_position_gathers_from_all_by_content_and_by_distance(size, stride):
    bot = made(size, stride=stride, heads=2)
    x = torch.randn(2, 6, *size, dtype=torch.float64)
    expected = torch.stack([by_loops(bot, image, list(bot.tables)) for image in x])
    torch.testing.assert_close(bot(x), expected, rtol=0, atol=1e-12)


def timms(bot, size, stride):
    """Returns timm's module with the same parameters."""
    theirs = BottleneckAttn(
        64, feat_size=size, stride=stride, num_heads=bot.heads, scale_pos_embed=True
    ).double()
    height, width = bot.tables
    tables = {"pos_embed.height_rel": height, "pos_embed.width_rel": width}
    theirs.load_state_dict({"qkv.weight": bot.qkv.weight, **tables})
    return theirs


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
def test_it_is_timms_with_all_gradients(size, batch, train):
    for stride in (1, 2) if size == SIZES[0] else (1,):  # timm's pooling leaves the rest out
        conv = nn.Conv2d(64, 64, 3, stride, 1)
        bot = stir(create_attention("bot", conv=conv, size=size).double()).train(train)
        theirs = timms(bot, size, stride).train(train)
        x = torch.randn(batch, 64, *size, dtype=torch.float64)
        (y, (by_x, *by_ours)), (z, (by_z, *by_theirs)) = gradients(bot, x), gradients(theirs, x)
        torch.testing.assert_close((y, by_x), (z, by_z), rtol=0, atol=1e-10)
        named = dict(zip([n for n, _ in theirs.named_parameters()], by_theirs, strict=True))
        order = ("qkv.weight", "pos_embed.height_rel", "pos_embed.width_rel")
        torch.testing.assert_close(by_ours, [named[n] for n in order], rtol=0, atol=1e-10)


def test_with_the_tables_of_another_it_is_not_timms():
    bot = made((7, 7), channels=64)
    x = torch.randn(1, 6, 7, 7, dtype=torch.float64)
    y = bot(x)
    with torch.no_grad():
        bot.tables[0].copy_(bot.tables[0].flip(0))
    assert not torch.allclose(bot(x), y)


def interpolated(table, n):
    """Returns rows for the distances of n positions, between those of the table, the ends kept."""
    last = len(table) - 1
    rows = []
    for i in range(2 * n - 1):
        place = i * last / (2 * n - 2)
        low = min(int(place), last - 1)
        rows.append(table[low] + (place - low) * (table[low + 1] - table[low]))
    return torch.stack(rows)


@pytest.mark.parametrize("size", [(5, 2), (3, 4), (2, 3)])
def test_at_another_size_the_rows_of_distances_are_interpolated(size):
    bot = made((3, 3), heads=2)
    x = torch.randn(1, 6, *size, dtype=torch.float64)
    tables = [interpolated(t, n) for t, n in zip(bot.tables, size, strict=True)]
    expected = by_loops(bot, x[0], tables)[None]
    torch.testing.assert_close(bot(x), expected, rtol=0, atol=1e-12)


def test_at_twice_the_size_every_second_distance_keeps_its_row():
    table = torch.arange(5.0)[:, None]  # of three positions
    assert interpolated(table, 5)[:, 0].tolist() == [0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4]


def test_the_last_stage_of_a_resnet50_has_the_papers_number_of_parameters():
    sizes = [(14, 14), (7, 7), (7, 7)]  # 224 pixels; the first works before its stride
    convs = [conv3x3(512) for _ in sizes]
    added = sum(lookup("bot").params(c, size=s) for c, s in zip(convs, sizes, strict=True))
    total = RESNET50 - sum(map(params, convs)) + added
    assert added == 3 * 3 * 512 * 512 + 128 * 2 * (27 + 13 + 13)
    # As in the paper, which cuts digits off: it has 25.5 for the 25,557,032 of a ResNet-50.
    assert [int(n / 1e5) / 10 for n in (RESNET50, total)] == [25.5, 20.8]


@pytest.mark.parametrize(
    ("args", "what", "hint"),
    [
        ({"heads": 5}, "heads=5 do not divide 64 channels evenly", "heads=4"),
        ({"heads": 128}, "heads=128 do not divide 64", "heads=64"),
        ({"size": None}, "size is missing", r"size=\(H, W\)"),
        ({"size": (7,)}, "no map of rank 2", r"size=\(H, W\)"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_would(args, what, hint):
    with pytest.raises(MechanismError, match=rf"{what}[\s\S]*hint: .*{hint}"):
        create_attention("bot", conv=nn.Conv2d(64, 64, 3, padding=1), **{"size": (7, 7), **args})
