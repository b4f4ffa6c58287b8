"""What a network says of its input, and what is guessed where it says nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from torch import nn

import attnsurgeon
from attnsurgeon.errors import ModelError
from attnsurgeon.models import build_on_meta, guess_input_sizes, input_size_of


@pytest.mark.parametrize(
    ("spec", "arguments", "size"),
    [
        ("test_resnet", {}, (3, 160, 160)),
        ("test_resnet", {"in_chans": 5}, (5, 160, 160)),
        ("test_vit", {"img_size": 96}, (3, 96, 96)),
        ("test_vit", {"img_size": (96, 64), "in_chans": 1}, (1, 96, 64)),
        ("inception_v3", {}, (3, 299, 299)),
        ("tresnet_m", {}, (3, 224, 224)),  # its first convolution has 48 channels
        ("torchvision:vit_b_16", {}, (3, 224, 224)),
        ("torchvision:vit_b_16", {"image_size": 64}, (3, 64, 64)),
        ("torchvision:resnet18", {}, None),
    ],
)
def test_the_networks_own_word_is_taken_as_it_was_built(spec, arguments, size):
    assert input_size_of(build_on_meta(spec, **arguments)) == size


def test_a_timm_network_of_the_users_own_making_says_the_same():
    model: Any = timm.create_model("test_vit", img_size=96, in_chans=2)
    assert input_size_of(model) == (2, 96, 96)
    model.set_input_size((64, 128))
    assert input_size_of(model) == (2, 64, 128)


@pytest.mark.parametrize(
    ("name", "arguments", "channels"),
    [("test_resnet", {"in_chans": 5}, 5), ("test_vit", {"in_chans": 1}, 1), ("tresnet_m", {}, 3)],
)
def test_channels_that_no_attribute_notes_are_read_from_the_stem(name, arguments, channels):
    model: Any = timm.create_model(name, **arguments)
    model._model_args = {}  # older timm versions note nothing
    vars(model).pop("in_chans", None)
    size = input_size_of(model)
    assert size is not None
    assert size[0] == channels


def test_a_transformers_configuration_is_read():
    model: Any = nn.Sequential(nn.Conv2d(5, 7, 16))
    model.config = SimpleNamespace(image_size=[56, 48])
    assert input_size_of(model) == (5, 56, 48)


@pytest.mark.parametrize(
    ("model", "first"),
    [
        (nn.Conv2d(3, 7, 3), (3, 224, 224)),
        (nn.Sequential(nn.Linear(2, 3), nn.Conv2d(5, 7, 3)), (5, 224, 224)),
        (nn.Sequential(nn.Conv3d(2, 5, 3), nn.Conv2d(1, 7, 3)), (2, 16, 112, 112)),
        (nn.Conv1d(11, 5, 3), (11, 224)),
        (nn.LazyConv2d(7, 3), (3, 224, 224)),
    ],
)
def test_channels_and_rank_of_a_guess_are_those_of_the_first_convolution(model, first):
    guesses = guess_input_sizes(model)
    assert guesses[0] == first
    assert {len(guess) for guess in guesses} == {len(first)}
    assert {guess[0] for guess in guesses} == {first[0]}
    assert len(guesses) == len(set(guesses))


def test_of_one_channel_the_forward_may_make_the_axis_itself():
    images = guess_input_sizes(nn.Conv2d(1, 7, 3))
    assert images[0] == (1, 224, 224)
    assert (28, 28) in images[images.index((1, 1024, 1024)) :]
    sounds = guess_input_sizes(nn.Conv1d(1, 7, 3))
    assert {(1, 16000), (16000,)} < set(sounds)
    assert (16000,) not in guess_input_sizes(nn.Conv1d(2, 7, 3))


class Folding(nn.Module):
    """Its stem makes 2 x 2 pixels of an image one, of four times the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.fold, self.conv = nn.PixelUnshuffle(2), nn.Conv2d(12, 8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(self.fold(x))


def test_an_image_may_be_folded_before_the_first_convolution():
    found = attnsurgeon.find_sites(Folding()).survey.traced
    assert found.input_size == (3, 224, 224)
    assert (3, 224, 224) not in guess_input_sizes(nn.Conv2d(5, 7, 3))


@pytest.mark.parametrize(
    ("features", "further"),
    [
        (5, [(196, 5), (5,)]),
        (784, [(1, 28, 28), (196, 784), (784,)]),
        (3072, [(3, 32, 32), (196, 3072), (3072,)]),
    ],
)
def test_without_a_convolution_the_first_linear_layer_tells(features, further):
    guesses = guess_input_sizes(nn.Sequential(nn.LayerNorm(features), nn.Linear(features, 7)))
    assert guesses[0] == (3, 224, 224)
    assert [g for g in guesses if g[0] != 3 or g == (3, 32, 32)][-len(further) :] == further


class Asks(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.ReLU(), layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise ValueError("of no size")


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (
            nn.Conv2d(1, 16, 3),
            "the first layer is stem.1, Conv2d(1, 16): give input_size=(1, H, W)",
        ),
        (nn.Conv1d(12, 8, 3), "the first layer is stem.1, Conv1d(12, 8): give input_size=(12, L),"),
        (nn.Conv3d(2, 8, 3), "Conv3d(2, 8): give input_size=(2, D, H, W)"),
        (nn.Linear(10, 5), "stem.1, Linear(10, 5): give"),
        (nn.Linear(10, 5), "example=torch.randn(2, 10)"),
        (nn.Embedding(99, 5), "example=torch.randint(99, (2, 16))"),
        (nn.ReLU(), "example=torch.randn(2, 3, 224, 224)"),
    ],
)
def test_what_the_first_layer_says_is_in_the_message(layer, said):
    with pytest.raises(ModelError) as caught:
        attnsurgeon.find_sites(Asks(layer))
    assert "of no size" in caught.value.what
    assert said in (caught.value.hint or "")
    with pytest.raises(ModelError) as caught:
        attnsurgeon.find_sites(Asks(layer), input_size=(7, 5, 3))
    assert said in (caught.value.hint or "")


def test_the_native_size_is_guessed_first_and_once():
    guesses = guess_input_sizes(build_on_meta("test_resnet"))
    assert guesses[:4] == [(3, 160, 160), (3, 224, 224), (3, 32, 32), (3, 28, 28)]
    assert guess_input_sizes(build_on_meta("torchvision:vit_b_16")).count((3, 224, 224)) == 1


@pytest.mark.parametrize("side", [28, 32, 64, 299, 384, 512])
def test_a_network_of_one_fixed_size_is_met_by_one_of_the_guesses(side):
    channels = 3
    model = nn.Sequential(nn.Conv2d(channels, 1, 1), nn.Flatten(), nn.Linear(side * side, 2))
    model = model.to("meta")

    def runs(size: tuple[int, ...]) -> bool:
        try:
            model(torch.empty(1, *size, device="meta"))
        except RuntimeError:
            return False
        return True

    assert [size for size in guess_input_sizes(model) if runs(size)] == [(channels, side, side)]
