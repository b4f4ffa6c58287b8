"""Statistics over images against plain sums, and the effect of a site against its removal."""

import copy
import math

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import attnsurgeon
from attnsurgeon.errors import ModelError, UsageError
from attnsurgeon.looking.effects import Movement
from attnsurgeon.looking.statistics import _Values
from tests.looking.operated import SIZE, fresh, image, operated
from tests.looking.test_photographs import cut_off


def found(model: nn.Module, images=None, **how):
    return attnsurgeon.gate_statistics(model, image(5) if images is None else images, **how)


@pytest.fixture(scope="module")
def cbam() -> nn.Module:
    return operated("cbam")


def site_of(statistics, path: str):
    return next(site for site in statistics.sites if site.module_path == path)


@pytest.mark.slow
def test_every_site_is_reported_in_the_order_of_the_operation(cbam):
    statistics = found(cbam)
    planned = list(attnsurgeon.status(cbam, run=False).sites)
    assert [site.module_path for site in statistics.sites] == [s.module_path for s in planned]
    assert statistics.images == 5
    assert {one.name for site in statistics.sites for one in site.pictures} == {
        "channel", "spatial", "change",
    }  # fmt: skip


def test_the_figures_are_those_of_all_values_whatever_the_batches(cbam):
    batches = [image(5)[:2], image(5)[2:3], image(5)[3:]]
    gates = [attnsurgeon.gates(cbam, batch) for batch in batches]
    statistics = found(cbam, batches)
    assert statistics.images == 5
    for site in statistics.sites:
        for one in site.pictures:
            values = torch.cat([every[site.module_path][one.name] for every in gates])
            assert one.size == tuple(values.shape[1:])
            assert one.mean == pytest.approx(float(values.mean()), rel=1e-9)
            assert one.spread == pytest.approx(float(values.std(correction=0)), rel=1e-6)
            assert (one.low, one.high) == (float(values.min()), float(values.max()))
            if one.name == "change":
                assert (one.closed, one.open, one.still) == (None, None, None)
                continue
            assert one.most == 1  # a sigmoid of the paper's
            assert one.closed == float((values.abs() <= 0.01).double().mean())
            assert one.open == float((values >= 0.99).double().mean())
            still = (values.std(dim=0, correction=0) < 0.01).double().mean()
            assert one.still == pytest.approx(float(still))


def values_of(*images: list[float], most: float | None = 1.0):
    made = _Values("channel", most, 0.01)
    made.add(torch.tensor(images))
    return made.statistics()


def test_saturation_by_hand():
    """Of eight values two are within 0.01 of 0 and one within 0.01 of 1."""
    one = values_of([0.0, 0.009, 0.5, 0.5], [0.5, 0.5, 0.995, 0.98])
    assert (one.closed, one.open, one.saturated) == (2 / 8, 1 / 8, 3 / 8)


@pytest.mark.slow
def test_the_most_of_a_gate_that_starts_open_is_two():
    statistics = found(fresh("cbam"))
    for one in statistics.sites[0].pictures[:2]:
        assert (one.most, one.mean, one.spread, one.open) == (2, 1, 0, 0)
        assert one.still == 1


def test_a_bound_that_values_break_is_none():
    one = values_of([0.1, 1.5], [0.1, 1.5])
    assert (one.most, one.open, one.saturated) == (None, None, 0)


def test_a_value_that_never_moves_is_told_from_one_that_hardly_moves():
    """Over three images the first place moves by nothing, the second by 0.008, the third by 0.02:
    their standard deviations are 0, 0.0038 and 0.0094; of the fourth, 0.04, it is 0.0189."""
    one = values_of([0.5, 0.5, 0.5, 0.5], [0.5, 0.508, 0.52, 0.54], [0.5, 0.5, 0.5, 0.5])
    assert one.still == 3 / 4
    large = [[v + 1e6 for v in row] for row in ([0.5, 0.5], [0.5, 0.54], [0.5, 0.5])]
    made = _Values("both", None, 0.01)
    made.add(torch.tensor(large, dtype=torch.float64))
    assert made.statistics().still == 1 / 2


def test_of_one_image_nothing_is_known_to_stay():
    assert values_of([0.5, 0.5]).still is None


# ------------------------------------------------------------------------------------- effects


@pytest.mark.slow
def test_the_effect_of_a_site_is_what_its_removal_moves(cbam):
    with torch.no_grad():
        before = cbam(image(5))
    for site in found(cbam).sites:
        other = copy.deepcopy(cbam)
        attnsurgeon.remove(other, site.module_path)
        with torch.no_grad():
            moved = other(image(5))
        change = (moved - before).norm(dim=1) / before.norm(dim=1)
        assert site.effect is not None
        assert site.effect.change == pytest.approx(float(change.mean()), rel=1e-9)
        assert site.effect.largest == pytest.approx(float(change.max()), rel=1e-9)
        agreed = (moved.argmax(1) == before.argmax(1)).double().mean()
        assert site.effect.top1_agreement == float(agreed)
        assert site.effect.images == 5


@pytest.mark.slow
def test_attention_as_it_was_inserted_has_no_effect_and_trained_it_has():
    assert [s.effect.change for s in found(fresh("se")).sites if s.effect] == [0] * 4
    assert all(s.effect.change > 0 for s in found(operated("se")).sites if s.effect)


@pytest.mark.slow
def test_a_chain_is_switched_off_as_one():
    statistics = found(operated("dia"))
    chains = {site.together for site in statistics.sites}
    assert all(len(chain) > 1 for chain in chains)
    for chain in chains:
        effects = {site_of(statistics, path).effect.change for path in chain}
        assert len(effects) == 1


@pytest.mark.slow
def test_what_cannot_be_switched_off_says_why():
    statistics = found(operated("sk"))
    for site in statistics.sites:
        assert site.effect is None
        assert "cannot be switched off" in site.why


@pytest.mark.slow
def test_effects_need_not_be_measured(cbam):
    assert {site.effect for site in found(cbam, effects=False).sites} == {None}


def test_the_measure_by_hand():
    moved = Movement()
    before = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 0.0]])
    moved.add(before, before + torch.tensor([[0.0, 0.5], [0.0, 2.0], [0.0, 0.0]]), 3)
    effect = moved.effect()
    assert effect is not None
    assert effect.change == pytest.approx((0.1 + 2 + 0) / 3)
    assert (effect.largest, effect.top1_agreement, effect.images) == (2, 2 / 3, 3)


def test_outputs_of_other_shapes_are_no_effect():
    moved = Movement()
    moved.add({"boxes": torch.ones(3, 4)}, {"boxes": torch.ones(5, 4)}, 1)
    assert moved.effect() is None
    assert "other shapes" in moved.why_not


def test_maps_have_no_top_1():
    moved = Movement()
    moved.add([torch.ones(2, 3, 5, 5)], [torch.ones(2, 3, 5, 5)], 2)
    effect = moved.effect()
    assert effect is not None
    assert (effect.change, effect.top1_agreement) == (0, None)


# --------------------------------------------------------------------------- the network, images


def test_the_network_stays_what_it_was(cbam):
    before = {name: value.clone() for name, value in cbam.state_dict().items()}
    cbam.train()
    found(cbam)
    assert cbam.training
    assert all(torch.equal(value, before[name]) for name, value in cbam.state_dict().items())
    assert not any("forward" in vars(module) for module in cbam.modules())
    cbam.eval()


def photographs(folder, count: int = 3):
    for number in range(count):
        Image.effect_noise((31, 27), 60 + 30 * number).convert("RGB").save(folder / f"{number}.png")
    return folder


@pytest.mark.slow
def test_a_folder_a_list_of_files_and_pictures_are_the_same(cbam, tmp_path):
    photographs(tmp_path)
    files = sorted(tmp_path.iterdir())
    opened = [Image.open(file) for file in files]
    results = [found(cbam, images, batch_size=2) for images in (tmp_path, files, opened)]
    assert {tuple(r.sites[0].pictures[0].__dict__.items()) for r in results} == {
        tuple(results[0].sites[0].pictures[0].__dict__.items())
    }
    assert [r.images for r in results] == [3, 3, 3]
    assert found(cbam, tmp_path, limit=2).images == 2
    assert results[0].preprocessing is not None
    assert results[0].preprocessing.size == SIZE[1:]


@pytest.mark.slow
def test_a_loader_yields_tuples_and_the_limit_holds(cbam):
    loader = [(image(3), torch.zeros(3)), (image(3), torch.zeros(3))]
    assert found(cbam, loader, effects=False).images == 6
    assert found(cbam, loader, effects=False, limit=4).images == 4
    assert found(cbam, iter(loader), effects=False).images == 6


@pytest.mark.slow
def test_a_damaged_file_is_refused_or_left_out_and_named(cbam, tmp_path):
    photographs(tmp_path)
    cut_off(tmp_path / "cut.jpg")
    with pytest.raises(UsageError, match=r"cut\.jpg is damaged or cut off"):
        found(cbam, tmp_path)
    statistics = found(cbam, tmp_path, skip_bad=True)
    assert statistics.images == 3
    assert [one.path.name for one in statistics.skipped] == ["cut.jpg"]


def test_a_folder_of_damaged_files_only_is_refused_even_so(cbam, tmp_path):
    cut_off(tmp_path / "cut.jpg")
    with pytest.raises(UsageError, match="none can be read"):
        found(cbam, tmp_path, skip_bad=True)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ([], "there is no image in"),
        (7, "a int is no images"),
        ({"x": 1}, "a dict is no images"),
        ([("label",)], "a tuple is no picture"),
    ],
)
def test_what_holds_no_images_is_refused(cbam, images, words):
    with pytest.raises(UsageError, match=words):
        found(cbam, images)


def test_numbers_of_images_are_checked(cbam):
    for name in ("limit", "batch_size"):
        with pytest.raises(UsageError, match=f"{name}=0 is not a number of images"):
            found(cbam, **{name: 0})


def test_a_device_that_is_not_there_is_refused(cbam):
    with pytest.raises(UsageError, match="there is no device 'cuda:77' here"):
        found(cbam, device="cuda:77")


@pytest.mark.slow
def test_gates_that_hold_nan_are_refused_by_name(tmp_path):
    model = operated("se")
    with torch.no_grad():
        part = next(m for p, m in model.named_modules() if p.endswith("attn"))
        next(part.parameters()).fill_(math.nan)
    with pytest.raises(ModelError, match="holds NaN"):
        found(model)
    photograph = Image.new("RGB", (40, 40), "red")
    with pytest.raises(ModelError, match="holds NaN"):
        attnsurgeon.heatmap(model, photograph)
    with pytest.raises(ModelError, match="holds NaN"):
        attnsurgeon.prune(model, image(2))


def test_images_of_another_size_than_the_network_takes_are_refused_with_the_way_out():
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3, padding=1)
            self.fc = nn.Linear(8 * 12 * 12, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.conv(x).flatten(1))

    model = attnsurgeon.insert(Fixed(), "eca", "conv", input_size=(3, 12, 12)).model
    assert found(model, [Image.new("RGB", (30, 30))]).images == 1
    with pytest.raises(ModelError, match=r"run on"):
        found(model, [Image.new("RGB", (30, 30))], image_size=20)
