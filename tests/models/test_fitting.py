"""Checkpoints go into networks whole, or the keys that do not fit are listed."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from attnsurgeon.errors import ModelError
from attnsurgeon.models import Source, load_model, source_of
from attnsurgeon.models.checkpoint import Checkpoint
from attnsurgeon.models.fitting import fit_checkpoint


def net(classes: int = 7, channels: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, 5, 3), nn.BatchNorm2d(5), nn.Flatten(), nn.Linear(5, classes)
    )


class Holder(nn.Module):
    """A network whose own child is called `model`, like a prefix."""

    def __init__(self) -> None:
        super().__init__()
        self.model = net()


def fit(model: nn.Module, state: dict) -> tuple[str, ...]:
    return fit_checkpoint(model, Checkpoint("w.pth", state), what="net")


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
    assert fit(model, saved) == prefixes
    assert_equal(model, wanted)


@pytest.mark.parametrize(
    ("added", "stripped"),
    [("", ()), ("module.", ("module.",)), ("_orig_mod.model.", ("_orig_mod.", "model."))],
)
def test_a_prefix_that_is_the_networks_own_stays(added, stripped):
    wanted = Holder().state_dict()
    model = Holder()
    assert fit(model, {added + key: value for key, value in wanted.items()}) == stripped
    assert_equal(model, wanted)


def test_a_prefix_on_some_keys_only_is_stripped_where_the_rest_then_fits():
    wanted = net().state_dict()
    saved = {("module." if "weight" in k else "") + k: v for k, v in wanted.items()}
    assert fit(net(), saved) == ("module.",)


def test_a_prefix_is_kept_where_stripping_it_would_merge_two_keys():
    saved = {**net().state_dict(), "module.0.weight": torch.zeros(5, 3, 3, 3)}
    with pytest.raises(ModelError, match=r"unexpected: module\.0\.weight"):
        fit(net(), saved)


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
        saved[f"extra.{index}"] = torch.zeros(2)
    with pytest.raises(ModelError) as caught:
        fit(net(), saved)
    lines = caught.value.what.splitlines()
    assert lines == [
        "w.pth does not fit net: 1 of its keys missing, 7 unexpected, 1 of another shape",
        "  missing: 1.running_mean",
        "  unexpected: extra.0; extra.1; extra.2; extra.3; extra.4; and 2 more",
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


class Renamed(nn.Identity):
    """A layer of nobody's library."""


@pytest.mark.parametrize("foreign", [False, True])
def test_a_pickled_network_is_loaded_on_request_where_it_holds_foreign_code(foreign, tmp_path):
    trained: Any = timm.create_model("test_resnet")
    trained.drop_block = Renamed() if foreign else nn.Identity()
    path = tmp_path / "whole.pth"
    torch.save(trained, path)
    if foreign:
        with pytest.raises(ModelError, match=r"whole pickled network, .*: .*Renamed; nothing"):
            load_model("test_resnet", checkpoint=path)
    model = load_model("test_resnet", checkpoint=path, unsafe_pickle=foreign)
    assert_equal(model, trained.state_dict())
    source = source_of(model)
    assert source is not None
    assert source.stripped == ("pickled ResNet",)
