"""What timm's own tools, and torchvision's, leave of an attention that is active."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.layers.norm_act import (
    convert_sync_batchnorm,
    freeze_batch_norm_2d,
    unfreeze_batch_norm_2d,
)
from timm.layers.split_batchnorm import convert_splitbn_model
from timm.models import load_checkpoint
from timm.optim._optim_factory import create_optimizer_v2
from timm.utils.model import reparameterize_model
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

import attnsurgeon
from attnsurgeon.checks.verify import randomise_norms
from attnsurgeon.recording.record import tensors_in
from attnsurgeon.splicing.history import inserted
from tests.surgery import active

SIZE = (3, 64, 64)


def built(name: str, **args: Any) -> Any:
    model = timm.create_model(name, **args).eval()
    randomise_norms(model)
    return model


def image(channels: int = 3) -> Tensor:
    return torch.randn(2, channels, 64, 64)


def answers(model: nn.Module, x: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return list(tensors_in(model(x)))


def first_moved(model: nn.Module, x: Tensor) -> list[int]:
    """Of every inserted module, which output is the first that moves when it alone is active."""
    before = answers(model, x)
    found = []
    for path, _ in inserted(model):
        after = answers(active(model, path), x)
        moved = [not torch.equal(a, b) for a, b in zip(after, before, strict=True)]
        found.append(moved.index(True))
    return found


def operated(name: str, attn: str = "se", where: str = "residual-branch", **args: Any) -> Any:
    """A network with an active attention."""
    return active(attnsurgeon.insert(built(name, **args), attn, where, input_size=SIZE).model)


# Tools that exchange or fold modules, or copy the network.

TOOLS = {
    "freeze": freeze_batch_norm_2d,
    "freeze and unfreeze": lambda net: unfreeze_batch_norm_2d(freeze_batch_norm_2d(net)),
    "sync": convert_sync_batchnorm,
    "torch's sync": nn.SyncBatchNorm.convert_sync_batchnorm,
    "split": lambda net: convert_splitbn_model(net, 2),
    "average": lambda net: ModelEmaV3(net).module,
    "reparameterize": reparameterize_model,
}


FAST_TOOLS = {"freeze", "sync"}


@pytest.mark.parametrize(
    "tool", [pytest.param(t, marks=() if t in FAST_TOOLS else pytest.mark.slow) for t in TOOLS]
)
def test_an_active_attention_outlives_the_tools_of_timm(tool):
    # torch's own converter loses the activation of timm's norms: there a network without them.
    model, x = operated("test_resnet" if tool == "torch's sync" else "test_byobnet"), image()
    before = answers(model, x)
    after = TOOLS[tool](model).eval()
    torch.testing.assert_close(answers(after, x), before)
    assert attnsurgeon.audit(after, input_size=SIZE).ok


@pytest.mark.parametrize("tool", ["freeze", "sync", "torch's sync", "split"])
def test_what_such_a_tool_drops_was_announced_and_is_named(tool):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).eval()
    operation = attnsurgeon.insert(model, "eca", {"site": "norm"}, input_size=SIZE)
    ((note, path),) = [(cut.place.note, cut.module_path) for cut in operation.plan]
    assert note == "converting 1 (SyncBatchNorm, freezing) would drop it"
    assert attnsurgeon.audit(operation.model, input_size=SIZE).ok
    assert attnsurgeon.audit(TOOLS[tool](operation.model), input_size=SIZE).dead == (path,)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("mobileone_s0", "stage"),
        ("fastvit_t8", "residual-block"),
        ("repvit_m0_9", "downsample"),
        ("repghostnet_050", "residual-block"),
    ],
)
def test_folding_the_blocks_of_a_network_keeps_what_stands_between_them(name, where):
    model, x = operated(name, "eca", where), image()
    plain, before = answers(built(name), x), answers(model, x)
    folded = reparameterize_model(model)
    after = answers(folded, x)
    assert len(list(folded.modules())) < len(list(model.modules()))
    effect = (before[0] - plain[0]).abs().max()
    assert (after[0] - before[0]).abs().max() < 0.01 * effect
    assert attnsurgeon.audit(folded, input_size=SIZE).ok


def test_torchvision_extracts_the_features_that_attention_made():
    model, x = operated("test_resnet", "eca"), image()
    extractor: Any = create_feature_extractor(model, ["layer4"])
    with torch.no_grad():
        (made,) = extractor(x).values()
        assert torch.equal(made, model.forward_features(x))
        assert not torch.equal(made, built("test_resnet").forward_features(x))
    assert attnsurgeon.audit(model, input_size=SIZE).ok


# Training and checkpoints.


def test_layer_decay_gives_an_attention_the_rate_of_its_block():
    model = attnsurgeon.insert(built("test_vit"), "se", "residual-branch").model
    optimizer = create_optimizer_v2(model, "adamw", lr=1.0, layer_decay=0.5)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = [(g["lr"] * g["lr_scale"], p) for g in optimizer.param_groups for p in g["params"]]
    rates = {names[id(parameter)]: rate for rate, parameter in groups}
    new = [n for path, m in inserted(model) for n, _ in m.named_parameters(prefix=path)]
    assert len(rates) == len(names)
    assert new
    for name in new:
        block = ".".join(name.split(".")[:2])
        assert rates[name] == rates[f"{block}.norm1.weight"]
    assert len({rates[name] for name in new}) > 1


@pytest.mark.slow
def test_timm_loads_the_checkpoint_of_an_operated_network(tmp_path: Path):
    model, x = operated("test_resnet"), image()
    torch.save({"state_dict": model.state_dict()}, tmp_path / "model.pth")
    again = attnsurgeon.insert(built("test_resnet"), "se", "residual-branch").model
    assert not torch.equal(*answers(again, x), *answers(model, x))
    load_checkpoint(again, str(tmp_path / "model.pth"))
    assert torch.equal(*answers(again, x), *answers(model, x))
    with pytest.raises(RuntimeError, match="Unexpected key"):
        load_checkpoint(built("test_resnet"), str(tmp_path / "model.pth"))


# Networks built with other arguments.


@pytest.mark.parametrize(
    "args",
    [
        pytest.param({"in_chans": 1}, marks=pytest.mark.slow),
        pytest.param({"in_chans": 4}, marks=pytest.mark.slow),
        {"in_chans": 13},
        pytest.param({"num_classes": 0}, marks=pytest.mark.slow),
        {"num_classes": 0, "global_pool": ""},
    ],
)
def test_networks_of_other_channels_and_heads_are_operated_alike(args):
    model, x = built("test_resnet", **args), image(args.get("in_chans", 3))
    operation = attnsurgeon.insert(model, "eca", "residual-branch")
    assert len(operation.plan) == 4
    assert torch.equal(*answers(operation.model, x), *answers(model, x))
    assert not torch.equal(*answers(active(operation.model), x), *answers(model, x))


# Feature extractors: every class of wrapper that timm has.

WRAPPERS = {
    "FeatureListNet": ("test_resnet", {}),
    "FeatureDictNet": ("test_resnet", {"feature_cls": "dict"}),
    "FeatureHookNet": ("test_efficientnet", {"feature_cls": "hook"}),
    "EfficientNetFeatures": ("test_efficientnet", {}),
    "HighResolutionNetFeatures": ("hrnet_w18_small", {}),
}


@pytest.mark.parametrize(
    "wrapper",
    [pytest.param(w, marks=() if w == "FeatureHookNet" else pytest.mark.slow) for w in WRAPPERS],
)
def test_every_stage_of_a_feature_extractor_gets_an_attention_that_its_features_show(wrapper):
    name, args = WRAPPERS[wrapper]
    model, x = built(name, features_only=True, **args), image()
    assert type(model).__name__ == wrapper
    operation = attnsurgeon.insert(model, "eca", "stage", input_size=SIZE)
    assert operation.plan.refused == ()
    assert all(map(torch.equal, answers(operation.model, x), answers(model, x)))
    moved = first_moved(operation.model, x)
    if wrapper == "HighResolutionNetFeatures":  # its stem is no stage
        assert moved == [1, 2, 3, 4]
    else:
        assert moved == [*range(len(answers(model, x)))][-len(operation.plan) :]


def looked_at(hook: Any) -> nn.Sequential:
    """A network whose last value only a hook can cut, and with a hook there that was first."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.MaxPool2d(2)).eval()
    model[1].register_forward_hook(hook)
    return model


class Collect:
    """Keeps what a module returns."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def __call__(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self.seen.append(output)


def double(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return output * 2


@pytest.mark.parametrize("stacked", [False, True])
def test_a_hook_that_collects_is_given_what_attention_made_of_the_value(stacked):
    model, x = looked_at(Collect()), image()
    operated = attnsurgeon.insert(model, "eca", "pool", input_size=SIZE).model
    if stacked:
        operated = attnsurgeon.insert(operated, "eca", "pool", input_size=SIZE).model
    operated: Any = active(operated)
    (collector,) = [h for h in operated[1]._forward_hooks.values() if type(h) is Collect]
    (made,) = answers(operated, x)
    assert torch.equal(collector.seen[-1], made)
    assert not torch.equal(made, *answers(model, x))


def test_attention_is_given_what_a_hook_made_that_changes_the_value():
    model, x = looked_at(double), image()
    operation = attnsurgeon.insert(model, "eca", "pool", input_size=SIZE)
    operated: Any = active(operation.model)
    given: list[Tensor] = []
    ((_, attention),) = inserted(operated)
    attention.register_forward_pre_hook(lambda module, args: given.append(args[0]))
    (made,) = answers(operated, x)
    assert torch.equal(given[0], *answers(model, x))  # after the doubling
    assert not torch.equal(made, given[0])


class Keeping(nn.Module):
    """Returns what a hook kept of the middle of a block, and what the block made of it."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Block()
        self.collector = Collect()
        self.block.act.register_forward_hook(self.collector)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        made = self.block(x)
        return self.collector.seen.pop(), made


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act, self.last = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.act(self.conv(x)))


def test_a_value_that_a_hook_hands_out_is_cut_where_it_is_handed_out():
    model, x = Keeping().eval(), image()
    operation = attnsurgeon.insert(model, "eca", {"site": "act"}, input_size=SIZE)
    assert [cut.place.technique for cut in operation.plan] == ["output-hook"]
    before, after = answers(model, x), answers(active(operation.model), x)
    assert not any(map(torch.equal, before, after))
    alone = attnsurgeon.insert(model.block, "eca", {"site": "act"}, input_size=SIZE)
    assert [cut.place.technique for cut in alone.plan] == ["retype"]


class Aliased(nn.Module):
    """One block under two names, as CoaT's parallel blocks have it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = self.second = Block()

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x)


def test_the_keys_of_a_block_that_stands_at_two_places_are_no_strays():
    operation = attnsurgeon.insert(Aliased().eval(), "eca", {"site": "act"}, input_size=SIZE)
    verification = operation.verify()
    assert verification.problems == ()
    operation.model.get_submodule("second").register_buffer("stray", torch.zeros(1))
    assert operation.verify(full=False).unexpected_keys == ("first.stray", "second.stray")


class ZeroHead(nn.Module):
    """A classifier that starts at zero, as Hiera's; one that stays cut off in the twin."""

    def __init__(self, detached: bool) -> None:
        super().__init__()
        self.block, self.head, self.detached = Block(), nn.Linear(8, 5), detached
        nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.block(x).mean((2, 3))
        return self.head(pooled.detach() if self.detached else pooled)


@pytest.mark.parametrize("detached", [False, True])
def test_attention_before_a_classifier_of_zeros_is_seen_to_learn(detached):
    model = ZeroHead(detached).eval()
    operation = attnsurgeon.insert(model, "eca", {"site": "act"}, input_size=SIZE)
    assert operation.verify().stuck == (("block.attn.conv.weight",) if detached else ())
    assert not operation.model.get_submodule("head").weight.any()  # only a copy was changed
