"""Statistics of norms computed anew, held against the same computed by hand."""

from __future__ import annotations

import copy
from collections import UserDict
from typing import Any

import pytest
import torch
from timm.layers.evo_norm import EvoNorm2dB0
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader, TensorDataset

import attnsurgeon
from attnsurgeon.errors import UsageError
from attnsurgeon.training.norms import recalibrate_norms
from tests.saved import networks


def images(*sizes: int, channels: int = 3) -> list[Tensor]:
    """Batches of these sizes, each with a mean and spread of its own."""
    generator = torch.Generator().manual_seed(5)
    return [
        at + (at + 2) * torch.randn(n, channels, 5, 7, generator=generator)
        for at, n in enumerate(sizes)
    ]


def by_hand(batches: list[Tensor]) -> tuple[list[float], list[float]]:
    """The mean over the samples of the batches' means and unbiased variances, channel by channel.

    Plain sums of Python's numbers.
    """
    means, variances = [], []
    samples = sum(len(batch) for batch in batches)
    for channel in range(batches[0].shape[1]):
        mean = variance = 0.0
        for batch in batches:
            values = batch[:, channel].flatten().tolist()
            middle = sum(values) / len(values)
            spread = sum((v - middle) ** 2 for v in values) / (len(values) - 1)
            mean += middle * len(batch) / samples
            variance += spread * len(batch) / samples
        means.append(mean)
        variances.append(variance)
    return means, variances


def close(found: Tensor, expected: list[float]) -> bool:
    return torch.allclose(found.double(), torch.tensor(expected).double(), rtol=1e-5)


class Net(nn.Module):
    """A norm in front, a norm behind, dropout between, and a norm that only training runs."""

    def __init__(self) -> None:
        super().__init__()
        self.front = nn.BatchNorm2d(3, momentum=0.3)
        self.drop = nn.Dropout(0.5)
        self.conv = nn.Conv2d(3, 2, 1)
        self.back = nn.BatchNorm2d(2, momentum=None)
        self.extra = nn.BatchNorm2d(2)

    def forward(self, image: Tensor, scale: float = 1.0, labels: Tensor | None = None) -> Tensor:
        """Images (N, 3, H, W) -> (N, 2, H, W)."""
        y = self.back(self.conv(self.drop(self.front(image * scale))))
        return self.extra(y) if self.training else y


def state(model: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(model.state_dict())


def same(model: nn.Module, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, nn.SyncBatchNorm, BatchNormAct2d])
@pytest.mark.parametrize("momentum", [0.1, 0.01, None])
def test_batch_norms_hold_the_mean_over_the_batches_each_weighed_by_its_samples(kind, momentum):
    norm = kind(3)
    norm.momentum = momentum
    norm.running_mean.fill_(float("nan"))  # nothing of before is left
    batches = images(5, 5, 2)
    assert recalibrate_norms(nn.Sequential(norm), batches) == ("0",)

    means, variances = by_hand(batches)
    assert close(norm.running_mean, means)
    assert close(norm.running_var, variances)
    assert norm.num_batches_tracked == 3
    assert norm.momentum == momentum


def test_the_mean_of_the_batches_would_be_another_where_their_sizes_differ():
    batches = images(5, 5, 2)
    plain = torch.stack([batch.mean((0, 2, 3)) for batch in batches]).mean(0)
    assert not close(plain, by_hand(batches)[0])


def test_instance_norms_hold_the_mean_over_all_samples():
    norm = nn.InstanceNorm2d(3, track_running_stats=True)
    batches = images(4, 3)
    recalibrate_norms(norm, batches)

    means, variances = by_hand([sample for batch in batches for sample in batch.split(1)])
    assert close(norm.running_mean, means)
    assert close(norm.running_var, variances)


def test_a_norm_of_another_kind_that_gathers_a_variance_alone_holds_it():
    norm = EvoNorm2dB0(3)
    batches = images(4, 4)
    recalibrate_norms(nn.Sequential(norm), batches)
    # Its variance is the biased one times n / (n - 1): of all values of a channel.
    assert close(norm.running_var, by_hand(batches)[1])


def test_a_norm_that_runs_twice_in_a_forward_holds_the_mean_over_both():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            """Twice, of x and of 3x."""
            return self.norm(x) + self.norm(3 * x)

    model, batches = Twice(), images(4, 2)
    recalibrate_norms(model, batches)
    means, variances = by_hand([part for x in batches for part in (x, 3 * x)])
    assert close(model.norm.running_mean, means)
    assert close(model.norm.running_var, variances)


def test_it_does_what_torch_does_for_averaged_weights_where_all_batches_are_alike():
    model, theirs = Net(), Net()
    theirs.load_state_dict(model.state_dict())
    batches = images(4, 4, 4)
    model.drop.p = theirs.drop.p = 0.0
    recalibrate_norms(model, batches)
    update_bn(batches, theirs)

    for name in ("front", "back"):
        ours, other = getattr(model, name), getattr(theirs, name)
        torch.testing.assert_close(ours.running_mean, other.running_mean)
        torch.testing.assert_close(ours.running_var, other.running_var)


@pytest.mark.parametrize("mode", [True, False])
def test_all_but_the_statistics_is_as_it_was(mode):
    model = Net().train(mode)
    model.drop.train(not mode)
    modes = {path: module.training for path, module in model.named_modules()}
    before, random = state(model), torch.get_rng_state()
    assert recalibrate_norms(model, images(4, 4)) == ("front", "back")

    after = model.state_dict()
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    names = ("running_mean", "running_var", "num_batches_tracked")
    assert moved == {f"{norm}.{name}" for norm in ("front", "back") for name in names}
    assert {path: module.training for path, module in model.named_modules()} == modes
    assert (model.front.momentum, model.back.momentum) == (0.3, None)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(not module._forward_pre_hooks for module in model.modules())
    assert torch.equal(torch.get_rng_state(), random)  # dropout did not run


def test_a_frozen_backbone_is_recalibrated_as_well_and_stays_frozen():
    model = attnsurgeon.load_model("test_resnet")
    model = attnsurgeon.insert(model, "cbam", "residual-branch").model
    networks.randomise(model)
    attnsurgeon.freeze_backbone(model)
    before = state(model)
    norms = [n.removesuffix(".running_mean") for n in before if n.endswith("running_mean")]
    batches = images(4, 3)
    assert list(recalibrate_norms(model, batches)) == norms
    assert any(".attn" in path for path in norms)

    first = "conv1.1"
    # The first norm sees the first convolution of the images, whatever else is in the network.
    conv = model.conv1[0]
    means, variances = by_hand([conv(batch).detach() for batch in batches])
    assert close(model.get_submodule(first).running_mean, means)
    assert close(model.get_submodule(first).running_var, variances)
    model.train()
    assert not any(model.get_submodule(path).training for path in norms if ".attn" not in path)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_norms_that_gather_nothing_are_left_alone():
    fixed = nn.BatchNorm2d(3)
    del fixed.momentum  # as torchvision's FrozenBatchNorm2d: statistics, and nothing that gathers
    model = nn.Sequential(fixed, nn.BatchNorm2d(3, track_running_stats=False), nn.BatchNorm2d(3))
    model.eval()
    fixed.forward = lambda x: x
    before = state(fixed)
    assert recalibrate_norms(model, images(4)) == ("2",)
    assert same(fixed, before)


class Around(nn.Module):
    """Computes one norm without calling it, and names the argument of the other."""

    def __init__(self) -> None:
        super().__init__()
        self.past, self.named = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        """Both norms, one after the other."""
        return self.past.forward(self.named(input=x))


def test_a_norm_that_is_computed_without_being_called_keeps_its_statistics():
    model, batches = Around(), images(4, 2)
    before = state(model.past)
    assert recalibrate_norms(model, batches) == ("named",)
    assert same(model.past, before)
    assert close(model.named.running_mean, by_hand(batches)[0])


# ------------------------------------------------------------------ what a batch may be


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: x,
        lambda x: (x, torch.zeros(len(x))),
        lambda x: [x, torch.zeros(len(x))],
        lambda x: {"image": x},
        lambda x: {"image": x, "labels": torch.zeros(len(x)), "id": ["a"] * len(x)},
        lambda x: ({"image": x, "scale": 1.0}, torch.zeros(len(x))),
        lambda x: UserDict(image=x),  # as the processors of transformers make them
    ],
    ids=["tensor", "tuple", "list", "dict", "dict with more", "dict and labels", "mapping"],
)
def test_a_batch_is_a_tensor_a_tuple_or_a_dict(wrap):
    model, batches = Net(), images(4, 2)
    recalibrate_norms(model, [wrap(batch) for batch in batches])
    assert close(model.front.running_mean, by_hand(batches)[0])


def test_a_loader_may_be_one_of_torch_or_any_iterator():
    (whole,) = images(6)
    loader = DataLoader(TensorDataset(whole, torch.zeros(6)), batch_size=4)
    for batches in (loader, iter(whole.split(4)), (part for part in whole.split(4))):
        model = Net()
        recalibrate_norms(model, batches)
        assert close(model.front.running_mean, by_hand([whole[:4], whole[4:]])[0])


def test_a_batch_of_any_other_form_is_called_as_the_caller_says():
    class Sample:
        def __init__(self, pixels: Tensor) -> None:
            self.pixels = pixels

    model, batches = Net(), images(4, 2)
    samples = [Sample(batch) for batch in batches]
    recalibrate_norms(model, samples, forward=lambda model, sample: model(sample.pixels))
    assert close(model.front.running_mean, by_hand(batches)[0])
    with pytest.raises(UsageError, match="a batch is a Sample"):
        recalibrate_norms(model, samples)


# ------------------------------------------------------------------ what cannot be


class Bare(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, image: Tensor) -> Tensor:
        """The norm of the mean over positions."""
        return self.norm(image.mean((2, 3), keepdim=True))


@pytest.mark.parametrize(
    ("model", "loader", "said"),
    [
        (Net(), [], "the loader gave no batch"),
        (Net(), images(4)[0], "a Tensor is no loader"),
        (Net(), {"image": images(4)[0]}, "a dict is no loader"),
        (Net(), 3, "a int is no loader"),
        (Net(), ["cat.jpg"], "a batch is a str"),
        (Net(), [()], "a batch is a tuple"),
        (Net(), [{"image": "cat.jpg"}], "a batch is a dict"),
        (Net(), [{"pixels": images(4)[0]}], "takes image, scale, labels; a batch has pixels"),
        (Net(), [images(4)[0], images(4)[0] / 0], "front would be NaN or infinite"),
        (nn.Sequential(nn.LayerNorm(7)), images(4), "no norm that gathers running statistics"),
        (Bare(), images(1), "norm gets a single value a channel"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_and_leaves_everything_as_it_was(model, loader, said):
    before = state(model)
    modes = [module.training for module in model.modules()]
    with pytest.raises(UsageError, match=said):
        recalibrate_norms(model, loader)
    assert same(model, before)
    assert [module.training for module in model.modules()] == modes


def test_a_forward_that_calls_another_network_is_found_out():
    model, other = Net(), Net()
    with pytest.raises(UsageError, match="none of the 3 norms with statistics ran"):
        recalibrate_norms(model, images(4), forward=lambda _, x: other(x))


def test_a_batch_that_fails_puts_all_statistics_back():
    model = Net()
    before = state(model)
    with pytest.raises(RuntimeError):
        recalibrate_norms(model, [*images(4), torch.randn(4, 5, 5, 7)])
    assert same(model, before)
    assert model.front.momentum == 0.3


def test_a_compiled_network_is_recalibrated_like_the_one_inside():
    model, batches = Net().eval(), images(4, 2)
    compiled: Any = torch.compile(model, backend="eager")
    compiled(batches[0])
    recalibrate_norms(compiled, batches)
    assert close(model.front.running_mean, by_hand(batches)[0])
