"""What is drawn of a site, and where on the photograph it lies."""

import io
import math
from dataclasses import replace

import pytest
import torch
from PIL import Image

import attnsurgeon
from attnsurgeon.attention.registry import mechanisms
from attnsurgeon.errors import ModelError, UsageError
from attnsurgeon.looking.drawing import check_kind, figures_of, written
from attnsurgeon.looking.look import look_at, paired
from attnsurgeon.looking.panels import Card, Panel, card_of, in_words, laid_over
from attnsurgeon.looking.preparing import Box
from attnsurgeon.looking.told import SiteGates
from tests.looking.operated import fresh, operated

PHOTO = Image.effect_noise((45, 30), 90).convert("RGB")
NAN = math.nan


def card(mechanism: str = "x", **pictures: torch.Tensor) -> Card:
    run = SiteGates("site", "attn", mechanism, "gate", pictures)
    return card_of("attn", run, classes=[2, 0])


# --------------------------------------------------------------------------------- what is drawn


@pytest.mark.parametrize(
    ("name", "shape", "forms"),
    [
        ("channel", (2, 5), ["sorted"]),
        ("spatial", (2, 3, 4), ["map"]),
        ("spatial", (2, 7), ["bars"]),
        ("both", (2, 5, 3, 4), ["map", "sorted"]),
        ("branches", (2, 3, 5), ["shares"]),
        ("fusion", (2, 2, 5, 3, 4), ["map", "map"]),
        ("fusion", (2, 2, 5), ["sorted", "sorted"]),
        ("fusion", (2, 3, 5, 7), ["sorted"] * 3),
        ("classes", (2, 4, 3, 4), ["map", "map"]),
        ("stages", (3,), ["bars"]),
        ("attention", (2, 3, 4), ["map"]),
        ("weights", (5, 2, 3, 3), ["spread"]),
        ("tokens", (2, 5), ["bars"]),
        ("tokens", (2, 7, 5), ["bars"]),
        ("samples", (2,), []),
        ("blend", (), []),
        ("change", (2,), []),
    ],
)
def test_every_picture_has_a_form(name, shape, forms):
    assert [panel.form for panel in card(**{name: torch.rand(shape)}).panels] == forms


def test_the_first_image_is_drawn_and_numbers_stand_beside():
    made = card(channel=torch.tensor([[0.1, 0.9, 0.5], [7.0, 7.0, 7.0]]), change=torch.ones(2) / 4)
    assert made.panels[0].values.tolist() == pytest.approx([0.9, 0.5, 0.1])
    assert made.numbers == {"change": 0.25}


def test_shares_are_sorted_by_the_first_branch():
    made = card(branches=torch.tensor([[[0.2, 0.7], [0.8, 0.3]]])).panels[0]
    assert torch.allclose(made.values, torch.tensor([[0.7, 0.2], [0.3, 0.8]]))


def test_of_classes_the_likeliest_are_drawn():
    titles = [p.title for p in card(classes=torch.rand(1, 4, 3, 3)).panels]
    assert titles == ["where class 2 looks", "where class 0 looks"]


def test_what_there_is_instead_of_a_map_is_said():
    assert card("se", channel=torch.rand(1, 5)).notes == (
        "se weighs no positions, so there is no map; drawn instead: channel",
    )
    assert card("ba2m", samples=torch.ones(2), change=torch.ones(2)).notes == (
        "ba2m has no picture; what is known of it is samples and change",
    )
    assert card("cbam", channel=torch.rand(1, 5), spatial=torch.rand(1, 3, 3)).notes == ()


def test_a_panel_says_in_words_what_it_shows():
    mask = torch.zeros(1, 6, 9)
    mask[0, 5, 4] = 0.75
    made = card("sge", spatial=mask)
    said = "spatial mask of sge at site: from 0 to 0.75, highest at the bottom centre"
    assert in_words(made, made.panels[0]) == said


# ------------------------------------------------------------------------------- where it lies


def test_a_mask_covers_the_box_and_nothing_else():
    """2 x 2 cells over the box (2, 1)..(6, 5) of a photograph of 6 x 8, by hand.

    The middles of the cells lie at 3 and 5 across: the pixels 2 and 5, whose middles are 2.5 and
    5.5, are beyond and hold the cells' own values; 3.5 and 4.5 lie a quarter of the way in.
    """
    mask = torch.tensor([[0.0, 4.0], [0.0, 4.0]])
    over = laid_over(mask, Box(2, 1, 6, 5), (6, 8))
    row = [NAN, NAN, 0.0, 1.0, 3.0, 4.0, NAN, NAN]
    expected = torch.tensor([[NAN] * 8, row, row, row, row, [NAN] * 8], dtype=torch.float64)
    assert torch.allclose(over, expected, equal_nan=True)


def test_a_box_beyond_the_photograph_is_cut_at_its_edges():
    """The letter box: two of four rows of the mask lie outside."""
    mask = torch.tensor([[9.0], [1.0], [1.0], [9.0]])
    over = laid_over(mask, Box(0, -2, 4, 6), (4, 4), step=1)
    assert not bool(over.isnan().any())
    assert over[:, 0].tolist() == pytest.approx([3.0, 1.0, 1.0, 3.0])


def test_it_agrees_with_torchs_own_interpolation_where_the_box_is_the_photograph():
    mask = torch.rand(5, 7, dtype=torch.float64)
    over = laid_over(mask, Box(0, 0, 28, 30), (30, 28))
    theirs = torch.nn.functional.interpolate(mask[None, None], (30, 28), mode="bilinear")[0, 0]
    assert torch.allclose(over, theirs)


def test_a_spot_that_a_network_looks_at_lies_on_the_spot():
    """From the file to the mask: a gate that follows brightness is highest on the bright spot."""
    photo = Image.new("RGB", (90, 60), "black")
    photo.paste((255, 255, 255), (60, 34, 66, 40))

    class Bright(torch.nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen = x.mean(1, keepdim=True)
            return x * (seen - seen.amin() + 1)

    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 2, stride=2), torch.nn.Conv2d(4, 5, 1))
    with torch.no_grad():
        net[0].weight.fill_(0.1)
        net[0].bias.zero_()
    model = attnsurgeon.insert(net, Bright, ["0"], init="paper", input_size=(3, 48, 48)).model
    look = look_at(model, photo)
    panel = next(p for p in look.cards[0].panels if p.form == "map")
    over = laid_over(panel.values, look.box, (60, 90)).nan_to_num(-1)
    down, across = divmod(int(over.argmax()), 90)
    assert 34 <= down < 40
    assert 60 <= across < 66


# ------------------------------------------------------------------------------------ figures


def size_of(png: bytes) -> tuple[int, int]:
    image = Image.open(io.BytesIO(png))
    image.load()
    return image.size


def test_a_figure_has_what_the_network_did_and_names_every_site():
    model = operated("cbam")
    figure = attnsurgeon.heatmap(model, PHOTO)
    words = {text.get_text() for text in figure.texts}
    assert words >= {site.path for site in attnsurgeon.status(model, run=False).sites}
    assert words >= {"spatial mask", "channel gates, 64 sorted"}


@pytest.mark.slow
def test_two_networks_stand_side_by_side_on_one_scale():
    before, after = fresh("cbam"), operated("cbam", "identity")
    figure = attnsurgeon.heatmap(after, PHOTO, against=before, labels=("start", "end"))
    words = [text.get_text() for text in figure.texts]
    assert words.count("start") == words.count("end") == 8  # two panels of four sites
    alone = attnsurgeon.heatmap(after, PHOTO)
    assert len(figure.axes) > len(alone.axes)


@pytest.mark.slow
def test_sites_of_only_one_of_two_networks_are_not_lost():
    model = operated("cbam")
    now, then = look_at(model, PHOTO, sites="stage1"), look_at(model, PHOTO, sites="stage2")
    pairs = paired(now, then)
    assert [card.site.split(".")[0] for card, _ in pairs] == ["stage1"] * 2 + ["stage2"] * 2
    assert {other for _, other in pairs} == {None}
    assert "only in the other" in pairs[-1][0].notes


@pytest.mark.slow
def test_figures_leave_pyplot_alone():
    attnsurgeon.heatmap(operated("cbam"), PHOTO)
    import matplotlib._pylab_helpers as helpers

    assert helpers.Gcf.get_all_fig_managers() == []


@pytest.mark.slow
def test_a_name_in_letters_that_no_font_has_is_no_warning():
    model = operated("cbam")
    look = look_at(model, PHOTO, name="\u732b $x$ _{")
    for _, figure in figures_of(look, look):
        assert written(figure)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(mechanisms()))
def test_every_mechanism_can_be_drawn(name):
    look = look_at(operated(name), PHOTO)
    assert all(made.panels or made.notes for made in look.cards)
    ((_, figure),) = figures_of(replace(look, cards=look.cards[:1]))
    assert min(size_of(written(figure))) > 30


def test_kinds_of_files():
    assert [check_kind(f"a.{kind}") for kind in ("png", "PDF", "svg", "html")] == [
        "png", "pdf", "svg", "html",
    ]  # fmt: skip
    for wrong, words in (
        ("a.xyz", "ends in .xyz, which is no kind of picture"),
        ("a", "no ending"),
    ):
        with pytest.raises(UsageError, match=words):
            check_kind(wrong)


# ------------------------------------------------------------------------------------ bad input


def test_two_labels_or_none():
    with pytest.raises(UsageError, match="is not two names"):
        attnsurgeon.heatmap(fresh("se"), PHOTO, labels=("one",))


def test_a_network_of_signals_takes_no_picture():
    net = torch.nn.Sequential(torch.nn.Conv1d(3, 8, 3), torch.nn.Conv1d(8, 5, 1))
    model = attnsurgeon.insert(net, "eca", "conv", input_size=(3, 40)).model
    with pytest.raises(UsageError, match="a picture is one input of"):
        attnsurgeon.heatmap(model, PHOTO)


def test_a_network_on_meta_has_nothing_to_look_at():
    model = fresh("se").to("meta")
    with pytest.raises(ModelError, match="on the meta device"):
        attnsurgeon.heatmap(model, PHOTO)


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    import builtins

    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] == "matplotlib":
            raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")
        return real(name, *args, **kwargs)

    model = operated("cbam")
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError) as refused:
        attnsurgeon.heatmap(model, PHOTO)
    assert refused.value.hint == 'pip install "attnsurgeon[pictures]"'


def test_what_a_panel_holds():
    made = Panel("spatial", "map", "mask", torch.tensor([[0.5, 2.0]]))
    assert (made.low, made.high) == (0.5, 2.0)
