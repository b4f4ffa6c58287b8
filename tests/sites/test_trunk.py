"""Stem, stages, downsampling and head, on small networks and on three that everyone knows."""

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from attnsurgeon.recording.trace import trace
from attnsurgeon.sites.survey import survey
from tests.nets.blocks import C, Net, Plain
from tests.nets.tokens import Token, Tokens
from tests.nets.whole import AdditiveUNet, Detector, Line, Volume
from tests.surgery import paths, surveyed

ROLES = ("stem", "stage", "downsample", "head")


def trunk(net: nn.Module, size: tuple[int, ...]) -> dict[str, list[str]]:
    found = surveyed(net, size)
    return {role: paths(found, role) for role in ROLES}


def test_a_chain_of_blocks_has_a_stage_for_each_resolution():
    net = Net(Plain(), Plain(C, 11, 2), Plain(11), Plain(11, 13, 2), width=13)
    ends = ["blocks.0:relu#2", "blocks.2:relu#2", "blocks.3:relu#2"]
    assert trunk(net, (3, 16, 24)) == {
        "stem": ["stem"],
        "stage": ends,
        "downsample": ends[:2],
        "head": ends[2:],
    }


def test_stages_are_numbered_from_the_stem_on():
    net = Net(Plain(), Plain(C, 11, 2), width=11)
    found = surveyed(net, (3, 16, 24))
    stage = {site.path: site.stage for site in found.sites}
    assert stage["blocks.0.bn1"] == 1
    assert stage["blocks.1.bn2"] == 2
    assert stage["fc"] is None  # a vector has no resolution


def test_strides_are_input_size_over_feature_size():
    found = surveyed(Net(Plain(C, 11, 2), width=11), (3, 16, 24))
    stride = {site.path: site.stride for site in found.sites}
    assert (stride["stem"], stride["blocks.0.conv1"]) == (1, 2)
    assert stride["fc"] is None


@pytest.mark.parametrize(
    ("net", "size", "path", "stride"),
    [
        (lambda: Tokens(Token()), (3, 12, 10), "blocks.0.mlp.fc1", 2),
        (Volume, (3, 6, 10, 14), "bn", 1),
        (Line, (3, 20), "bn", 1),
        (lambda: nn.Sequential(nn.Conv1d(3, 5, 4, 4), nn.ReLU()), (3, 20), "1", 4),
        (
            lambda: nn.Sequential(nn.Conv3d(3, 5, 2, 2), nn.Flatten(2), nn.ReLU()),
            (3, 4, 6, 8),
            "2",
            2,
        ),
        (
            lambda: nn.Sequential(nn.Conv2d(3, 5, 4, 4), nn.Flatten(2), nn.ReLU()),
            (3, 8, 12),
            "2",
            4,
        ),
    ],
)
def test_strides_of_other_layouts_are_those_of_one_side(net, size, path, stride):
    found = surveyed(net(), size)
    assert {s.path: s.stride for s in found.sites}[path] == pytest.approx(stride)


def test_tokens_have_one_stage_behind_the_position():
    assert trunk(Tokens(Token(), Token()), (3, 12, 10)) == {
        "stem": [":add"],
        "stage": ["norm"],
        "downsample": [],
        "head": ["norm"],
    }


def test_the_head_of_a_network_that_returns_maps_is_the_deepest_map():
    found = trunk(AdditiveUNet(), (3, 16, 24))
    assert found["head"] == ["middle:relu#2"]
    assert found["stem"] == []  # plain convolutions: each resolution is a stage, also the first
    assert found["downsample"] == [":relu", ":relu#2"]


def test_a_network_without_maps_has_no_trunk():
    assert trunk(nn.Sequential(nn.Linear(3, 5), nn.ReLU()), (3,)) == {role: [] for role in ROLES}


def of_stages(stem: str, ends: list[str]) -> dict[str, list[str]]:
    """The trunk of a classifier: every stage but the last is followed by a step down."""
    return {"stem": [stem], "stage": ends, "downsample": ends[:-1], "head": ends[-1:]}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "resnet18",
            {
                "stem": ["maxpool"],
                "stage": [f"layer{i}.1.act2" for i in (1, 2, 3, 4)],
                "downsample": [f"layer{i}.1.act2" for i in (1, 2, 3)],
                "head": ["layer4.1.act2"],
            },
        ),
        (
            "vgg11_bn",  # five stages, as in the paper's table; the last pool is the classifier's
            {
                "stem": [],
                "stage": [f"features.{i}" for i in (2, 6, 13, 20, 27)],
                "downsample": [f"features.{i}" for i in (2, 6, 13, 20)],
                "head": ["features.27"],
            },
        ),
        (
            "pit_xs_distilled_224",  # the second token is no map of two positions
            {
                "stem": [":add"],
                "stage": [
                    *(f"transformers.{i}:reshape" for i in (0, 1)),
                    "transformers.2.blocks.3:add#2",
                ],
                "downsample": [f"transformers.{i}:reshape" for i in (0, 1)],
                "head": ["transformers.2.blocks.3:add#2"],
            },
        ),
        (
            "vit_tiny_patch16_224",
            {"stem": [":add"], "stage": ["norm"], "downsample": [], "head": ["norm"]},
        ),
        pytest.param(
            "ese_vovnet19b_dw",  # its stem is made of the layers that its stages are made of
            of_stages("stem.2.bn.act", [f"stages.{i}.blocks.0.attn:mul" for i in range(4)]),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "gcvit_xxtiny",  # its stem ends with the downsampling that its stages begin with
            of_stages("stem.down.norm2", [f"stages.{i}:contiguous" for i in range(4)]),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "coat_mini",  # three resolutions go on beside each other and give to each other
            of_stages(
                ":cat",
                [":contiguous", "parallel_blocks.5:add#7", "parallel_blocks.5:add#8", "norm4"],
            ),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "mobilenetv5_300m",  # it fuses its last two resolutions, and pools them
            of_stages(
                "conv_stem.bn.act",
                ["blocks.0.2:add", "blocks.1.4:add", "blocks.2.36:add", "blocks.3.38:add"],
            ),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_networks_that_everyone_knows(name, expected):
    with torch.device("meta"):
        net = timm.create_model(name)
    assert trunk(net, (3, 224, 224)) == expected


def test_a_detectors_trunk_is_its_backbone_and_a_list_of_boxes_is_no_map():
    assert trunk(Detector(), (3, 64, 48)) == {
        "stem": [],
        "stage": ["down1.act", "down2.act", "down3.act"],
        "downsample": ["down1.act", "down2.act"],
        "head": ["down3.act"],
    }
    found = surveyed(Detector(), (3, 64, 48))
    boxes = next(s for s in found.sites if s.path == "weigh")
    assert boxes.resolution == (4, 240)
    assert boxes.stage is None


@pytest.mark.slow
def test_an_iteration_behind_the_encoders_is_no_stage_and_no_decoder():
    with torch.device("meta"):
        net = torchvision.models.optical_flow.raft_small(weights=None)
    found = survey(trace(net, (torch.empty(2, 3, 128, 128, device="meta"),) * 2))
    ends = [f"context_encoder.layer{i}.1.relu" for i in (1, 2, 3)]
    assert (paths(found, "stage"), paths(found, "head")) == (ends, ends[2:])
    assert paths(found, "decoder") == []


class Reduced(nn.Module):
    """Attention whose keys are pooled further than the deepest map of the network."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.q, self.kv = (
            nn.LayerNorm(width),
            nn.Linear(width, width),
            nn.Linear(width, width),
        )
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:  # (N, C, H, W)
        tokens = x.flatten(2).transpose(1, 2)
        normed = self.norm(tokens)
        pooled = nn.functional.avg_pool2d(normed.transpose(1, 2).reshape(x.shape), 4)
        keys = self.kv(pooled.flatten(2).transpose(1, 2))
        made = nn.functional.scaled_dot_product_attention(self.q(normed), keys, keys)
        return (tokens + self.out(made)).transpose(1, 2).reshape(x.shape)


class Segmenter(nn.Module):
    """Two resolutions, a pyramid of poolings on the second, scores at the first."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.early, self.down, self.late = Reduced(6), nn.Conv2d(6, 10, 2, 2), Reduced(10)
        self.pyramid = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Conv2d(10, 10, 1), nn.ReLU())
        self.scores = nn.Conv2d(20, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.late(self.down(self.early(self.stem(x))))
        wide = nn.functional.interpolate(self.pyramid(x), size=x.shape[2:])
        return nn.functional.interpolate(self.scores(torch.cat([x, wide], 1)), scale_factor=2)


def test_neither_pooled_keys_nor_a_pyramid_are_stages_of_a_segmenter():
    found = surveyed(Segmenter(), (3, 16, 24))
    assert paths(found, "stage") == ["early:reshape#2", "late:reshape#2"]
    assert paths(found, "head") == ["late:reshape#2"]


class Asking(nn.Module):
    """A decoder that asks a map of 24 positions for 5 objects, and finds a box for each."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 6, 2, 2), nn.ReLU(), nn.Conv2d(6, 10, 2, 2), nn.ReLU()
        )
        self.queries, self.keys = nn.Parameter(torch.randn(5, 10)), nn.Linear(10, 10)
        self.boxes = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        memory = self.body(x).flatten(2).transpose(1, 2)
        keys = self.keys(memory)
        queries = self.queries.expand(len(x), -1, -1)
        asked = nn.functional.scaled_dot_product_attention(queries, keys, memory)
        return self.boxes(queries + asked).sigmoid()


def test_the_boxes_of_a_decoder_are_no_stage_of_its_backbone():
    found = surveyed(Asking(), (3, 16, 24))
    shapes = {site.path: site.shape for site in found.sites}
    assert shapes[paths(found, "head")[0]] in [(2, 24, 10), (2, 10, 24), (2, 10, 4, 6)]
    assert not any(5 in shapes[path] for path in paths(found, "stage"))


@pytest.mark.parametrize(("last", "head"), [(18, "0.17.conv.3"), (19, "0.18.2")])
def test_the_last_projection_of_a_block_makes_no_scores(last, head):
    features = torchvision.models.mobilenet_v2(weights=None).features[:last]
    net = nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert trunk(net, (3, 64, 64))["head"] == [head]
