"""Checkpoints go into networks whole, or the keys that do not fit are listed."""

from __future__ import annotations

import re
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from attnsurgeon.errors import ModelError, UsageError
from attnsurgeon.models import Source, load_model, source_of
from attnsurgeon.models.checkpoint import Checkpoint, read_checkpoint
from attnsurgeon.models.fitting import Fitted, Wishes, fit_checkpoint


def net(classes: int = 7, channels: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, 5, 3), nn.BatchNorm2d(5), nn.Flatten(), nn.Linear(5, classes)
    )


class Holder(nn.Module):
    """A network whose own child is called `model`, like a prefix."""

    def __init__(self) -> None:
        super().__init__()
        self.model = net()


def fit(model: nn.Module, content: Any, **wishes: Any) -> Fitted:
    return fit_checkpoint(model, Checkpoint("w.pth", content), what="net", wishes=Wishes(**wishes))


def assert_equal(model: nn.Module, state: dict) -> None:
    mine = model.state_dict()
    assert mine.keys() == state.keys()
    assert all(torch.equal(mine[key], state[key]) for key in mine)


@pytest.mark.parametrize(
    "prefixes",
    [
        (),
        ("module.",),
        ("model.",),
        ("_orig_mod.",),
        ("module.", "_orig_mod."),
        ("_orig_mod.", "module."),
        ("module.", "model.", "_orig_mod."),
        ("model.", "model."),
    ],
)
def test_prefixes_are_stripped_in_any_order_and_depth(prefixes):
    wanted = net().state_dict()
    saved = {"".join(prefixes) + key: value for key, value in wanted.items()}
    model = net()
    assert fit(model, saved).stripped == (("".join(prefixes),) if prefixes else ())
    assert_equal(model, wanted)


@pytest.mark.parametrize(
    ("added", "stripped"),
    [("", ()), ("module.", ("module.",)), ("_orig_mod.x.", ("_orig_mod.x.",))],
)
def test_a_prefix_that_is_the_networks_own_stays(added, stripped):
    wanted = Holder().state_dict()
    model = Holder()
    found = fit(model, {added + key: value for key, value in wanted.items()})
    assert found.stripped == stripped
    assert_equal(model, wanted)


def test_a_prefix_on_some_keys_only_is_stripped_where_the_rest_then_fits():
    wanted = net().state_dict()
    saved = {("module." if "weight" in k else "") + k: v for k, v in wanted.items()}
    model = net()
    assert fit(model, saved).notes == ("names of wrappers taken out",)
    assert_equal(model, wanted)


def test_a_name_that_is_there_with_a_prefix_as_well_is_not_the_one_that_is_taken():
    wanted = net().state_dict()
    saved = {**wanted, "module.0.weight": torch.zeros(5, 3, 3, 3)}
    model = net()
    assert "no module.*: 1 tensor left" in fit(model, saved).notes[0]
    assert_equal(model, wanted)


def test_half_precision_weights_are_copied_into_the_networks_precision():
    state = {k: v.half() if v.is_floating_point() else v for k, v in net().state_dict().items()}
    model = net()
    fit(model, state)
    loaded = model.state_dict()["0.weight"]
    assert loaded.dtype == torch.float32
    assert torch.equal(loaded, state["0.weight"].float())


def test_old_checkpoints_without_num_batches_tracked_are_taken():
    wanted = net().state_dict()
    wanted["1.running_mean"] += 3
    saved = {key: v for key, v in wanted.items() if not key.endswith("num_batches_tracked")}
    assert len(saved) == len(wanted) - 1
    model = net()
    fit(model, saved)
    assert_equal(model, wanted)


def test_a_misfit_counts_and_lists_missing_unexpected_and_misshapen_keys():
    saved = net().state_dict()
    del saved["1.running_mean"]
    saved["0.weight"] = torch.zeros(5, 3, 1, 1)
    for index in range(7):
        saved[f"1.extra.{index}"] = torch.zeros(2)
    with pytest.raises(ModelError) as caught:
        fit(net(), saved)
    lines = caught.value.what.splitlines()
    assert lines == [
        "w.pth does not fit net: 1 of its keys missing, 7 unexpected, 1 of another shape",
        "  missing: 1.running_mean",
        "  unexpected: 1.extra.0; 1.extra.1; 1.extra.2; 1.extra.3; 1.extra.4; and 2 more",
        "  another shape: 0.weight (5, 3, 1, 1), here (5, 3, 3, 3)",
    ]
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("theirs", "hint"),
    [
        (net(classes=11), r"load_model\(\.\.\., num_classes=11\)"),
        (net(channels=13), r"load_model\(\.\.\., in_chans=13\)"),
        (net(classes=11, channels=13), r"load_model\(\.\.\., num_classes=11, in_chans=13\)"),
    ],
)
def test_another_classifier_or_input_is_answered_with_the_argument(theirs, hint):
    with pytest.raises(ModelError, match=hint):
        fit(net(), theirs.state_dict())


def test_another_width_is_not_taken_for_another_classifier():
    wider = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(6, 7))
    with pytest.raises(ModelError) as caught:
        fit(net(), wider.state_dict())
    assert "num_classes" not in str(caught.value)
    assert "in_chans" not in str(caught.value)


def test_a_checkpoint_of_another_architecture_is_called_so():
    with pytest.raises(ModelError, match="checkpoint of another architecture"):
        fit(net(), {"blocks.0.qkv.weight": torch.zeros(3)})


def test_a_networks_own_hook_may_still_refuse_and_is_quoted():
    class Picky(nn.Linear):
        def _load_from_state_dict(self, *_args):
            raise KeyError("gamma")

    picky = Picky(2, 3)
    with pytest.raises(ModelError, match=r"cannot be loaded into net: KeyError: 'gamma'"):
        fit(picky, nn.Linear(2, 3).state_dict())


def test_a_timm_checkpoint_is_loaded_and_its_wrapping_is_on_record(tmp_path):
    torch.manual_seed(3)
    trained = timm.create_model("test_resnet", num_classes=7)
    saved = {f"module.{key}": value for key, value in trained.state_dict().items()}
    path = tmp_path / "last.pth.tar"
    torch.save({"epoch": 5, "state_dict": {}, "state_dict_ema": saved}, path)

    model = load_model("test_resnet", checkpoint=path, num_classes=7)

    assert_equal(model, trained.state_dict())
    assert source_of(model) == Source(
        "test_resnet",
        {"num_classes": 7},
        "checkpoint last.pth.tar (moving average)",
        ("state_dict_ema", "module."),
    )
    x = torch.randn(2, 3, 37, 41)
    assert torch.equal(model.eval()(x), trained.eval()(x))


@pytest.mark.parametrize(
    ("built", "saved"), [({}, 7), ({"num_classes": 0}, 7), ({"num_classes": 11}, 7)]
)
def test_the_classifier_of_a_timm_checkpoint_is_found_from_its_shape(tmp_path, built, saved):
    path = tmp_path / "w.safetensors"
    save_file(timm.create_model("test_vit", num_classes=saved).state_dict(), path)
    with pytest.raises(ModelError, match="num_classes=7"):
        load_model("test_vit", checkpoint=path, **built)
    load_model("test_vit", checkpoint=path, num_classes=7)


@pytest.mark.parametrize(
    ("named", "saved"),
    [
        ("torchvision:resnet34", "torchvision:resnet18"),
        # With attention of its own, by other code, and the other way.
        pytest.param("resnet18", "legacy_seresnet18", marks=pytest.mark.slow),
        pytest.param("legacy_seresnet18", "resnet18", marks=pytest.mark.slow),
        pytest.param("test_vit2", "test_vit", marks=pytest.mark.slow),
    ],
)
def test_weights_of_another_registered_network_are_answered_with_its_name(tmp_path, named, saved):
    path = tmp_path / "w.safetensors"
    trained = load_model(saved).state_dict()
    save_file(trained, path)
    with pytest.raises(ModelError, match="does not fit") as caught:
        load_model(named, checkpoint=path)
    hint = caught.value.hint or ""
    if saved == "resnet18":  # several names of timm are the same network
        said = re.search(r"load_model\('([^']+)'", hint)
        assert said
        load_model(said[1], checkpoint=path)
    else:
        assert f"these are the weights of {saved}: load_model({saved!r}" in hint
    assert "with --checkpoint" in (caught.value.command or "")

    # The same names in other shapes, and one name more, are nobody's.
    torch.save({**trained, "layer9.weight": torch.zeros(3)}, tmp_path / "more.pth")
    with pytest.raises(ModelError, match="does not fit") as caught:
        load_model(named, checkpoint=tmp_path / "more.pth")
    assert "these are the weights" not in (caught.value.hint or "")


class Renamed(nn.Identity):
    """A layer of nobody's library."""


def test_a_pickled_network_with_a_layer_of_foreign_code_is_another_one(tmp_path):
    trained: Any = timm.create_model("test_resnet")
    trained.drop_block = Renamed()
    path = tmp_path / "whole.pth"
    torch.save(trained, path)
    with pytest.raises(ModelError, match=r"drop_block: .*Renamed only in the file"):
        load_model("test_resnet", checkpoint=path)
    model = load_model("test_resnet", checkpoint=path, weights_only=True)
    assert_equal(model, trained.state_dict())
    source = source_of(model)
    assert source is not None
    assert source.stripped == ("pickled ResNet",)
    assert "the weights alone: drop_block" in source.notes[1]


@pytest.mark.parametrize("unsafe", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"act_layer": "silu"}, r"act1: torch\.nn\.modules\.activation\.SiLU in the file"),
        ({"output_stride": 8}, r"layer\d.*stride: .* in the file, here"),
        ({"drop_rate": 0.3}, r"the network itself\.drop_rate: 0\.3 in the file, here 0\.0"),
    ],
)
def test_a_pickled_network_of_other_arguments_is_refused_with_them(how, said, unsafe, tmp_path):
    torch.save(timm.create_model("resnet10t", **how), tmp_path / "whole.pth")
    torch.save({"module": timm.create_model("resnet10t")}, tmp_path / "same.pth")
    with pytest.raises(ModelError, match=said):
        load_model("resnet10t", checkpoint=tmp_path / "whole.pth", unsafe_pickle=unsafe)
    load_model("resnet10t", checkpoint=tmp_path / "same.pth", unsafe_pickle=unsafe)
    load_model("resnet10t", checkpoint=tmp_path / "whole.pth", **how)


def test_a_pickled_network_of_other_classes_is_answered_with_the_argument(tmp_path):
    torch.save(timm.create_model("test_resnet", num_classes=7), tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"load_model\(\.\.\., num_classes=7\)"):
        load_model("test_resnet", checkpoint=tmp_path / "w.pth")
    load_model("test_resnet", checkpoint=tmp_path / "w.pth", num_classes=7)


def test_a_pickled_network_with_hooks_is_another_one(tmp_path):
    hooked = net()
    hooked[0].register_forward_hook(_double)
    torch.save(hooked, tmp_path / "w.pth")
    content = read_checkpoint(tmp_path / "w.pth").content
    with pytest.raises(ModelError, match="0: hooks on its forward only in the file"):
        fit(net(), content)
    fit(net(), content, weights_only=True)


def _double(module: nn.Module, args: Any, output: Any) -> Any:
    return 2 * output


class Filters(nn.Sequential):
    """Takes of a state dict what it likes, and says that all is well."""

    def load_state_dict(self, state_dict, strict=True, assign=False):
        kept = {name: v for name, v in state_dict.items() if not name.startswith("1.")}
        return super().load_state_dict(kept, strict=False)


class Silent(nn.Sequential):
    """Returns nothing."""

    def load_state_dict(self, state_dict, strict=True, assign=False):
        super().load_state_dict(state_dict, strict=True)


class Scales(nn.Sequential):
    """Changes the numbers."""

    def load_state_dict(self, state_dict, strict=True, assign=False):
        halved = {name: v / 2 if v.is_floating_point() else v for name, v in state_dict.items()}
        return super().load_state_dict(halved, strict)


class Hides(nn.Sequential):
    """Leaves a layer out of its own state dict."""

    def state_dict(self, *args, **kwargs):
        whole = super().state_dict(*args, **kwargs)
        return {name: v for name, v in whole.items() if not name.startswith("3.")}


def test_a_network_that_takes_less_than_it_is_given_is_found_out():
    state = {name: torch.randn(v.shape) for name, v in net().state_dict().items() if v.dim()}
    with pytest.raises(
        ModelError, match=r"4 not taken by its own load_state_dict\n.*not taken: 1\.w"
    ):
        fit(Filters(*net()), state)
    with pytest.raises(ModelError, match="not taken by its own load_state_dict"):
        fit(Scales(*net()), state)
    whole = net().state_dict()
    model = Silent(*net())
    fit(model, whole)
    assert_equal(model, whole)


def test_what_a_network_hides_from_its_state_dict_is_missing_all_the_same():
    whole = net().state_dict()
    without = {name: v for name, v in whole.items() if not name.startswith("3.")}
    with pytest.raises(ModelError, match=r"missing: 3\.weight; 3\.bias"):
        fit(Hides(*net()), without)


class Renames(nn.Module):
    """Takes an older name for its weight, as libraries do by hooks."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(3))
        self.beta = nn.Parameter(torch.zeros(3))

    def _load_from_state_dict(self, state_dict, prefix, *rest):
        if f"{prefix}gamma_old" in state_dict:
            state_dict[f"{prefix}gamma"] = state_dict.pop(f"{prefix}gamma_old")
        super()._load_from_state_dict(state_dict, prefix, *rest)


def test_an_older_name_that_the_network_itself_takes_is_no_missing_one():
    model = nn.Sequential(Renames())
    found = fit(model, {"0.gamma_old": torch.arange(3.0), "0.beta": torch.ones(3)})
    assert model.state_dict()["0.gamma"].tolist() == [0, 1, 2]
    assert "1 older names taken for the present ones" in found.notes[0]


def test_versions_of_modules_travel_with_the_weights(tmp_path):
    made = torchvision.models.mnasnet0_5()
    torch.save({"state_dict": made.state_dict()}, tmp_path / "w.pth")
    save_file(made.state_dict(), tmp_path / "w.safetensors")
    torch.save(nn.DataParallel(made).state_dict(), tmp_path / "parallel.pth")
    for name in ("w.pth", "w.safetensors", "parallel.pth"):
        model = load_model("torchvision:mnasnet0_5", checkpoint=tmp_path / name)
        assert_equal(model, made.state_dict())


def test_a_partial_match_is_taken_on_request_and_both_sides_are_listed():
    saved = net(classes=11).state_dict()
    saved["1.extra"] = torch.ones(2)
    del saved["0.bias"]
    model = net()
    built = {name: v.clone() for name, v in model.state_dict().items()}
    with pytest.raises(ModelError):
        fit(net(), saved)
    found = fit(model, saved, partial=True)
    assert found.notes == (
        "partial: 3 tensors stay as the network was built: 0.bias, 3.weight, 3.bias",
        "partial: 1 tensor of the file left: 1.extra",
    )
    now = model.state_dict()
    for name in ("0.bias", "3.weight", "3.bias"):
        assert torch.equal(now[name], built[name])
    assert torch.equal(now["0.weight"], saved["0.weight"])


def test_partial_takes_no_checkpoint_of_nothing():
    with pytest.raises(ModelError, match="another architecture"):
        fit(net(), {"other.weight": torch.ones(2)}, partial=True)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("non-finite", torch.tensor([float("nan")] * 7)),
        ("non-finite", torch.tensor([float("-inf")] * 7)),
        ("integers", torch.arange(7)),
        ("complex", torch.arange(7) + 2j),
    ],
)
def test_numbers_of_a_wrong_kind_are_taken_on_request_alone(kind, value):
    saved = {**net().state_dict(), "3.bias": value}
    with pytest.raises(ModelError, match=r"3\.bias") as caught:
        fit(net(), saved)
    assert f"accept='{kind}'" in str(caught.value.hint)
    assert f"--accept {kind}" in str(caught.value.command)
    model = net()
    assert any("taken as asked" in note for note in fit(model, saved, accept=(kind,)).notes)
    wanted = value.real if value.is_complex() else value
    assert torch.equal(model.state_dict()["3.bias"].nan_to_num(), wanted.float().nan_to_num())


def test_fractions_do_not_go_into_counters():
    saved = {**net().state_dict(), "1.num_batches_tracked": torch.tensor(2.5)}
    with pytest.raises(ModelError, match=r"1\.num_batches_tracked \(float32 into int64\)"):
        fit(net(), saved)


def test_a_kind_of_numbers_that_is_none_is_answered_with_those_there_are():
    with pytest.raises(UsageError, match="did you mean 'non-finite'"):
        Wishes(accept=("nonfinite",))


def test_a_tied_weight_that_is_saved_once_is_there():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = nn.Linear(3, 3), nn.Linear(3, 3)
            self.other.weight = self.one.weight

    saved = Tied().state_dict()
    del saved["other.weight"]
    model = Tied()
    fit(model, saved)
    assert torch.equal(model.other.weight, saved["one.weight"])


@pytest.mark.parametrize(
    ("key", "taken"),
    [
        (None, 2.0),
        ("params", 1.0),
        ("params_ema", 2.0),
        ("deep.inner", 3.0),
        ("inner", 3.0),
        ("student", 4.0),
        ("mixed.teacher", 5.0),
    ],
)
def test_the_key_chooses_among_what_fits(key, taken):
    def filled(value: float, prefix: str = "") -> dict[str, torch.Tensor]:
        state = net().state_dict()
        return {prefix + n: torch.full_like(v, value) for n, v in state.items()}

    content = {
        "params": filled(1),
        "params_ema": filled(2),
        "deep": {"inner": filled(3)},
        "mixed": {**filled(4, "student."), **filled(5, "teacher.")},
    }
    model = net()
    fit(model, content, key=key)
    assert float(model.state_dict()["0.weight"].flatten()[0]) == taken
    with pytest.raises(ModelError, match=r"no weights under 'parms'\n.*did you mean 'params'"):
        fit(net(), content, key="parms")


def test_the_state_of_an_optimizer_is_not_taken_for_weights():
    names = net().state_dict()
    content = {
        "optimizer": {"exp_avg": {n: torch.zeros_like(v) for n, v in names.items()}},
        "deeper": {"model": {n: torch.ones_like(v) for n, v in names.items()}},
    }
    model = net()
    fit(model, content)
    assert float(model.state_dict()["0.weight"].flatten()[0]) == 1


def test_an_average_that_lacks_something_gives_way_to_what_is_whole():
    state = net().state_dict()
    partly = {n: v + 1 for n, v in state.items() if not n.startswith("1.")}
    model = net()
    fit(model, {"model": state, "model_ema": partly})
    assert_equal(model, state)


@pytest.mark.parametrize("name", ["4.weight", "layer.weight"])
def test_one_more_of_a_kind_is_a_deeper_network_and_not_something_beside(name):
    saved = {**net().state_dict(), name: torch.ones(3)}
    if name.startswith("4"):
        with pytest.raises(ModelError, match=r"unexpected: 4\.weight"):
            fit(net(), saved)
    else:
        assert "no layer.*" in fit(net(), saved).notes[0]
