"""Networks with several inputs: every size is given, kept, written down and used again."""

import re

import pytest
import torch
from torch import Tensor, nn

import attnsurgeon
from attnsurgeon import SurgeonError
from attnsurgeon.exporting.exports import export
from attnsurgeon.sizes import checked, each, together
from tests.cli.command import attnsurgeon as run_command

SIZES = ((3, 32, 24), (1, 16, 12), (5,))


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(torch.relu(self.norm(self.conv1(x))))


class ImageAndDepth(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image, self.depth = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(1, 8, 3, padding=1)
        self.of_image, self.of_depth = Block(8), Block(8)
        self.head = nn.Linear(8 + 5, 4)

    def forward(self, image: Tensor, depth: Tensor, facts: Tensor) -> dict[str, Tensor]:
        x, y = self.of_image(self.image(image)), self.of_depth(self.depth(depth))
        x = x + nn.functional.interpolate(y, size=x.shape[-2:])
        return {"scores": self.head(torch.cat([x.mean((2, 3)), facts], 1)), "map": x}


def images(batch: int = 2) -> tuple[Tensor, ...]:
    return tuple(torch.randn(batch, *size) for size in SIZES)


def test_it_is_operated_bit_equal_and_saved_with_the_size_of_each_input(tmp_path):
    network = ImageAndDepth().eval()
    operation = attnsurgeon.insert(network, "eca", "residual-branch", input_size=SIZES)
    assert [cut.site.path for cut in operation.plan] == ["of_image.conv2", "of_depth.conv2"]
    assert operation.plan.record()["input_size"] == [list(size) for size in SIZES]
    assert operation.verify().ok
    inputs = images()
    for name, value in operation.model(*inputs).items():
        assert torch.equal(value, network(*inputs)[name])
    for parameter in operation.model.of_depth.attn.parameters():
        nn.init.ones_(parameter)
    operation.save(tmp_path / "out")
    loaded = attnsurgeon.load(tmp_path / "out", model=ImageAndDepth()).eval()
    changed = operation.model(*inputs)["scores"]
    assert torch.equal(loaded(*inputs)["scores"], changed)
    assert not torch.equal(network(*inputs)["scores"], changed)
    assert not attnsurgeon.audit(loaded, input_size=SIZES).dead


def test_every_input_counts_in_the_price():
    network, wide = ImageAndDepth(), (SIZES[0], (1, 32, 24), SIZES[2])
    narrow = attnsurgeon.estimate(network, "eca", "residual-branch", input_size=SIZES)
    assert narrow.delta.macs > 0
    more = attnsurgeon.estimate(network, "eca", "residual-branch", input_size=wide)
    assert more.before.macs > narrow.before.macs


def test_a_missing_input_is_named_and_how_to_give_it():
    with pytest.raises(SurgeonError, match=r"depth.*\n.*input_size=\(\(3, 64, 64\), "):
        attnsurgeon.find_sites(ImageAndDepth())


def test_the_command_takes_a_size_for_each_input(tmp_path):
    file = tmp_path / "net.py"
    file.write_text("from tests.networks.test_several_inputs import ImageAndDepth\n")
    sizes = ["--input-size", "3,32,24", "--input-size", "1x16x12", "--input-size", "5,"]
    made = run_command(
        "plan", f"{file}:ImageAndDepth", "--attn", "eca", "--where", "residual-branch", *sizes
    )
    assert made.code == 0, made.err
    assert re.search("3.32.24 [+] 1.16.12 [+] 5", made.out)
    listed = run_command("inspect", f"{file}:ImageAndDepth", "--json", *sizes)
    assert listed.json()["input_size"] == [list(size) for size in SIZES]


@pytest.mark.slow
def test_it_is_exported_with_all_its_inputs(tmp_path):
    network = ImageAndDepth().eval()
    operated = attnsurgeon.insert(network, "srm", "residual-branch", input_size=SIZES).model
    made = export(operated, tmp_path / "net.pt2", input_size=SIZES, dynamic_batch=True)
    assert made.relative_diff < 1e-5


@pytest.mark.parametrize("size", [(), (3, 0), ((3, 8), (0,)), (5,), ((),), "3x8", (3.0, 8), None])
def test_what_is_no_size_is_refused(size):
    with pytest.raises(SurgeonError, match="is not a size"):
        checked(size)


def test_one_size_stays_one():
    assert together(each((3, 8, 8))) == (3, 8, 8) == checked([3, 8, 8])
    assert together(each([[3, 8, 8], [5]])) == ((3, 8, 8), (5,)) == checked(([3, 8, 8], (5,)))
