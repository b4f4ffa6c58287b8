"""What a constructor says is counted by names, and compared with what was found."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attnsurgeon.sites.analysis import analyse
from benchmarks.zoo_units import constructed, differences, input_of, names_of_pytorchcv


class Unit(nn.Module):
    def __init__(self, channels: int, out: int, stride: int, how: str) -> None:
        super().__init__()
        self.how = how
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        self.identity = nn.Conv2d(channels, out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(torch.relu(self.conv1(x)))
        if self.how == "added":
            return self.identity(x) + y
        return y + torch.relu(y) if self.how == "with itself" else y


class Network(nn.Module):
    """Two stages, of two units and of three."""

    def __init__(self, how: str, names: tuple[str, str] = ("stage", "unit")) -> None:
        super().__init__()
        self.in_size = (32, 24)
        self.features = nn.Sequential()
        self.features.add_module("init_block", nn.Conv2d(3, 8, 3, 2, 1))
        channels = 8
        for at, (out, count) in enumerate([(8, 2), (12, 3)]):
            stage = nn.Sequential()
            for unit in range(count):
                stride = 2 if unit == 0 and at else 1
                stage.add_module(f"{names[1]}{unit + 1}", Unit(channels, out, stride, how))
                channels = out
            self.features.add_module(f"{names[0]}{at + 1}", stage)

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x)


def counts(model: nn.Module) -> Any:
    return constructed(analyse(model, (3, 32, 24))).get("constructed")


@pytest.mark.parametrize(
    ("how", "said", "found"), [("added", 5, 5), ("not", 0, 0), ("with itself", 5, 0)]
)
def test_stages_and_additions_are_counted_by_the_names_of_units(how, said, found):
    made = counts(Network(how))
    assert made["additions"] == {"said": said, "found": found}
    assert made["stages"]["said"] == 2


def test_what_is_not_built_to_the_scheme_says_nothing():
    assert counts(Network("added", ("layer", "block"))) is None


def test_the_table_has_those_that_differ():
    def entry(name: str, *numbers: int) -> dict[str, Any]:
        pairs = [{"said": a, "found": b} for a, b in (numbers[:2], numbers[2:])]
        return {
            "name": f"m:{name}",
            "constructed": dict(zip(("stages", "additions"), pairs, strict=True)),
        }

    made = differences([entry("same", 4, 4, 8, 8), entry("other", 4, 3, 8, 8), {"name": "none"}])
    assert "says: 1 of 2" in made
    assert "| other | 4 | 3 | 8 | 8 |" in made
    assert "same |" not in made


def test_its_size_is_taken_from_the_network():
    assert input_of(Network("added")) == (3, 32, 24)
    assert input_of(nn.Conv2d(3, 8, 3)) is None
    folding = Network("added")
    folding.features.init_block = nn.Conv2d(12, 8, 3, 2, 1)
    assert input_of(folding) == (3, 32, 24)


def test_one_network_of_each_family_is_named():
    pytest.importorskip("pytorchcv")
    names = names_of_pytorchcv()
    assert len({name.partition(":")[0] for name in names}) == len(names) > 100
    assert names_of_pytorchcv("resnet1?") == [
        f"pytorchcv.models.resnet:resnet{depth}" for depth in (10, 12, 14, 16, 18)
    ]
