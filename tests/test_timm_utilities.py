"""What timm's own tools, and torchvision's, leave of an attention that is active."""

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import attnsurgeon
from attnsurgeon.record import tensors_in
from attnsurgeon.splice import inserted
from attnsurgeon.verify import randomise_norms
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


# Feature extractors: every class of wrapper that timm has.

WRAPPERS = {
    "FeatureListNet": ("test_resnet", {}),
    "FeatureDictNet": ("test_resnet", {"feature_cls": "dict"}),
    "FeatureHookNet": ("test_efficientnet", {"feature_cls": "hook"}),
    "EfficientNetFeatures": ("test_efficientnet", {}),
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
    count = len(answers(model, x))
    assert first_moved(operation.model, x) == [*range(count)][-len(operation.plan) :]


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
    operated = attnsurgeon.insert(model, "eca", "stage", input_size=SIZE).model
    if stacked:
        operated = attnsurgeon.insert(operated, "eca", "stage", input_size=SIZE).model
    operated: Any = active(operated)
    (collector,) = [h for h in operated[1]._forward_hooks.values() if type(h) is Collect]
    (made,) = answers(operated, x)
    assert torch.equal(collector.seen[-1], made)
    assert not torch.equal(made, *answers(model, x))


def test_attention_is_given_what_a_hook_made_that_changes_the_value():
    model, x = looked_at(double), image()
    operation = attnsurgeon.insert(model, "eca", "stage", input_size=SIZE)
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
