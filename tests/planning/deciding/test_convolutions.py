"""Convolutions that pad themselves: their padding is part of them, whoever does it."""

import copy
import pickle

import pytest
import timm
import torch
from torch import Tensor, nn

import attnsurgeon
from attnsurgeon import SurgeonError
from tests.nets.padding import Padded, PadsByChild, PadsBySize, PadsOddly, Scales

SIZE = (3, 32, 32)
WHERE = {"site": "conv", "kernel": 3}
ARGS = {"sk": {"groups": 4}, "sc": {}, "psa": {"groups": [1, 2, 4, 4], "reduction": 4}}
each_kind = pytest.mark.parametrize("conv", [PadsByChild, PadsBySize])
each_weight = pytest.mark.parametrize("attn", ["we", "aw"])


def inserted(conv, attn, **options):
    torch.manual_seed(0)
    model = Padded(conv).eval()
    args = ARGS.get(attn, {})
    return model, attnsurgeon.insert(model, attn, WHERE, attn_args=args, input_size=SIZE, **options)


def image(*size):
    return torch.randn(2, 3, *size)


@each_kind
@pytest.mark.parametrize(
    "attn", ["sk", "we", *(pytest.param(a, marks=pytest.mark.slow) for a in ("sc", "psa", "aw"))]
)
def test_it_is_replaced_and_excited_like_any_other(conv, attn):
    model, operation = inserted(conv, attn)
    assert operation.plan.refused == ()
    assert [cut.site.path.partition(":")[0] for cut in operation.plan] == ["first", "second"]
    x = image(32, 32)
    assert torch.equal(operation.model(x), model(x))
    assert operation.verify().ok
    unpickled = pickle.loads(pickle.dumps(copy.deepcopy(operation.model)))
    assert torch.equal(unpickled(x), model(x))
    model.train()
    operation.model.train()
    assert torch.equal(operation.model(x), model(x))


@each_kind
@pytest.mark.parametrize("attn", ["sk", "sc"])
def test_what_takes_its_place_makes_maps_of_its_size(conv, attn):
    _, operation = inserted(conv, attn, init="paper")
    seen = []
    for name in ("first", "second"):
        layer = operation.model.get_submodule(name)
        layer.register_forward_hook(lambda m, args, out: seen.append(out.shape[2:]))
    operation.model(image(32, 32))
    assert seen == [(16, 16), (16, 16)]


@pytest.mark.parametrize("attn", ["sk", "sc", "we", "aw"])
def test_what_pads_by_the_size_of_its_input_takes_every_size(attn):
    model, operation = inserted(PadsBySize, attn)
    for size in ((32, 32), (33, 30), (7, 5), (1, 1)):
        x = image(*size)
        assert torch.equal(operation.model(x), model(x))


@each_weight
def test_a_weight_that_was_excited_acts_at_every_size(attn):
    model, operation = inserted(PadsBySize, attn, init="paper")
    for size in ((32, 32), (33, 30), (7, 5)):
        x = image(*size)
        assert not torch.allclose(operation.model(x), model(x))


def test_what_pads_for_one_size_says_so():
    _, operation = inserted(PadsByChild, "sk")
    assert all("pads for the input size" in cut.place.note for cut in operation.plan)
    _, operation = inserted(PadsBySize, "sk")
    assert [cut.place.note for cut in operation.plan] == ["", ""]


def test_what_pads_in_a_way_of_its_own_is_excited_but_not_replaced():
    with pytest.raises(SurgeonError, match=r"it makes maps of \(17, 17\) from \(32, 32\)"):
        inserted(PadsOddly, "sk")
    model, operation = inserted(PadsOddly, "we")
    x = image(32, 32)
    assert torch.equal(operation.model(x), model(x))


def test_what_is_more_than_a_convolution_is_not_replaced():
    with pytest.raises(SurgeonError, match="no module is this operation and nothing more"):
        inserted(Scales, "sk")


@pytest.mark.parametrize("name", ["mobilenetv2_100", "efficientnet_b0"])
def test_a_placement_that_finds_only_the_stem_says_so(name):
    with torch.device("meta"):
        model = timm.create_model(name)
    args = {"reduction": 3}  # the stem's three channels have none of 16
    (cut,) = attnsurgeon.plan(model, "aw", attn_args=args)
    assert "spatial convolutions are depthwise" in cut.place.note
    assert "placement depthwise" in cut.place.note
    assert all(c.place.note == "" for c in attnsurgeon.plan(model, "simam"))


def test_a_placement_that_finds_its_convolutions_says_nothing():
    with torch.device("meta"):
        model = timm.create_model("resnet18")
    assert {cut.place.note for cut in attnsurgeon.plan(model, "aw")} == {""}


class FusedConv(nn.Module):
    """Convolution, norm and activation in the form of YOLOv5's own repository."""

    def __init__(self, channels: int, stated: int, act: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, stated, 3, padding=1, bias=False)
        self.bn, self.act = nn.BatchNorm2d(stated), act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))

    def forward_fuse(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x))


class Detector(nn.Module):
    def __init__(self, shared: bool) -> None:
        super().__init__()
        act = nn.SiLU()
        self.layers = nn.Sequential(
            FusedConv(3, 16, act), FusedConv(16, 16, act if shared else nn.SiLU())
        )
        self.head = nn.Conv2d(16, 5, 1)

    def fuse(self) -> nn.Module:
        for layer in self.layers:
            if hasattr(layer, "bn"):
                layer.conv = torch.nn.utils.fuse_conv_bn_eval(layer.conv, layer.bn)
                del layer.bn
                layer.forward = layer.forward_fuse
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x))


def test_what_outlives_fuse_is_replaced_inside_of_what_fuse_rebuilds():
    model = Detector(shared=False).eval()
    operation = attnsurgeon.insert(model, "atac", "activation", input_size=SIZE)
    assert [cut.place.host for cut in operation.plan] == ["layers.0.act", "layers.1.act"]
    x = image(32, 32)
    assert torch.equal(operation.model(x), model(x))
    for cut in operation.plan:
        for parameter in operation.model.get_submodule(cut.module_path).parameters():
            nn.init.normal_(parameter, std=0.5)
    active = operation.model(x)
    assert not torch.allclose(active, model(x))
    fused = copy.deepcopy(operation.model).fuse()
    assert set(attnsurgeon.audit(fused, input_size=SIZE).calls.values()) == {1}
    torch.testing.assert_close(fused(x), active, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("attn", ["we", "sc"])
def test_what_fuse_makes_anew_is_not(attn):
    with pytest.raises(SurgeonError, match=r"rebuilds itself \(forward_fuse\(\)\) and would lose"):
        attnsurgeon.insert(Detector(shared=False).eval(), attn, WHERE, input_size=SIZE)


def test_nor_what_runs_for_several_at_once():
    model = Detector(shared=True).eval()
    with pytest.raises(SurgeonError, match="rebuilds itself"):
        attnsurgeon.insert(model, "atac", "activation", input_size=SIZE)
