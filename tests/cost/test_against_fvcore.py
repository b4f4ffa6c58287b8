"""Weighing on meta against fvcore's own analysis of real tensors, operator by operator."""

from collections import Counter

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from attnsurgeon.cost.weighing import weigh
from attnsurgeon.recording.twin import meta_twin
from tests.nets.families import signals


def timm_model(name, **args):
    return lambda: timm.create_model(name, **args)


class ManyOperators(nn.Module):
    """One of each operator that fvcore prices, and a shared, an unused and a nested module."""

    def __init__(self):
        super().__init__()
        self.down = nn.Conv2d(3, 6, (3, 5), stride=2, groups=3)
        self.up = nn.ConvTranspose2d(6, 4, 3, stride=2)
        self.norms = nn.Sequential(nn.GroupNorm(2, 4), nn.InstanceNorm2d(4), nn.BatchNorm2d(4))
        self.plain_norms = nn.Sequential(
            nn.BatchNorm2d(4, affine=False), nn.GroupNorm(2, 4, affine=False)
        )
        self.line = nn.Conv1d(4, 2, 3)
        self.cube = nn.Conv3d(1, 2, 3)
        self.cell = nn.LSTMCell(7, 5)
        self.layer_norm = nn.LayerNorm(7)
        self.head = nn.Linear(7, 7)
        self.again = self.head
        self.unused = nn.Linear(99, 99)

    def forward(self, x):
        y = self.plain_norms(self.norms(self.up(self.down(x))))
        big = F.interpolate(y, scale_factor=2.0) + F.interpolate(
            y, scale_factor=2.0, mode="bilinear"
        )
        pooled = F.adaptive_avg_pool2d(big, (5, 7))
        sampled = F.grid_sample(y, torch.zeros(1, 3, 2, 2), align_corners=False)
        rows = self.again(self.head(self.layer_norm(pooled)))  # (1, 4, 5, 7)
        product = rows @ rows.transpose(2, 3)  # (1, 4, 5, 5)
        mixed = torch.einsum("nhct,nhdt->nhcd", rows, rows)
        three = rows[0]
        batched = torch.bmm(three, three.transpose(1, 2))
        flat = torch.addmm(torch.zeros(5), three[0], torch.ones(7, 5)) + torch.mm(
            three[0], torch.ones(7, 5)
        )
        state, memory = self.cell(three[0])
        parts = (
            big,
            sampled,
            product,
            mixed,
            batched,
            flat,
            self.line(y[:, :, 0]),
            self.cube(y[:, None]),
            state,
            memory,
        )
        return sum(part.sum() for part in parts)


QUICK = {
    "operators": (ManyOperators, (3, 21, 26)),
    "resnet18": (timm_model("resnet18"), (3, 64, 96)),
    "mobilenetv3": (timm_model("mobilenetv3_large_100"), (3, 64, 96)),
    "convnext": (timm_model("convnext_atto"), (3, 64, 96)),
    "regnety": (timm_model("regnety_002"), (3, 64, 96)),
    "vit": (timm_model("vit_tiny_patch16_224", img_size=(48, 80), depth=3), (3, 48, 80)),
    "swin": (timm_model("swin_tiny_patch4_window7_224", img_size=64, depths=(2, 2)), (3, 64, 64)),
    "3d": (lambda: torchvision.models.video.r3d_18(), (3, 5, 32, 48)),
    "1d": (signals.ResNet, (3, 96)),
}
SLOW = {
    "resnet50": (timm_model("resnet50"), (3, 64, 96)),
    "densenet121": (timm_model("densenet121"), (3, 64, 96)),
    "efficientnet_b0": (timm_model("efficientnet_b0"), (3, 64, 96)),
    "inception_v3": (timm_model("inception_v3"), (3, 96, 128)),
    "vgg11_bn": (timm_model("vgg11_bn"), (3, 64, 96)),
    "swin_s3": (timm_model("swin_s3_tiny_224"), (3, 224, 224)),
    "torchvision vit": (lambda: torchvision.models.vit_b_16(), (3, 224, 224)),
    "torchvision swin": (lambda: torchvision.models.swin_t(), (3, 64, 96)),
    "coatnet": (timm_model("coatnet_0_rw_224"), (3, 224, 224)),
    "hrnet": (timm_model("hrnet_w18_small"), (3, 64, 96)),
    "halonet": (timm_model("halonet26t"), (3, 256, 256)),
    "mvit": (lambda: torchvision.models.video.mvit_v2_s(), (3, 16, 224, 224)),
}
each_network = pytest.mark.parametrize(
    ("build", "size"),
    [pytest.param(*network, id=name) for name, network in QUICK.items()]
    + [pytest.param(*network, id=name, marks=pytest.mark.slow) for name, network in SLOW.items()],
)
CONVOLUTIONAL = {"resnet18", "mobilenetv3", "convnext", "regnety", "3d"}


def fvcores(analysis, model, x):
    from fvcore.nn import jit_analysis  # after weigh, which imports it without its warnings

    counted = getattr(__import__("fvcore.nn", fromlist=[analysis]), analysis)(model, (x,))
    assert isinstance(counted, jit_analysis.JitModelAnalysis)
    return counted.unsupported_ops_warnings(False).uncalled_modules_warnings(False)


def without(figures, left_out):
    kept = Counter(figures)
    kept.subtract(left_out)
    return {name: count for name, count in kept.items() if count}


@each_network
def test_macs_on_meta_are_fvcores_on_real_tensors_operator_by_operator(build, size):
    model, x = build().eval(), torch.rand(1, *size)
    weight = weigh(meta_twin(model), (x.to("meta"),))
    flops = fvcores("FlopCountAnalysis", model, x)

    assert without(weight.by_operator, weight.beyond_fvcore) == without(flops.by_operator(), {})
    assert weight.macs == sum(weight.by_operator.values())
    if not weight.beyond_fvcore:
        macs = {path: count.macs for path, count in weight.by_module.items()}
        for path, expected in flops.by_module().items():
            assert (path, macs.pop(path)) == (path, expected)
        assert set(macs) == set(weight.aliases)


@pytest.mark.slow
@each_network
def test_activations_and_parameters_are_fvcores_module_by_module(build, size):
    model, x = build().eval(), torch.rand(1, *size)
    weight = weigh(model, (x,))
    from fvcore.nn import parameter_count

    params = parameter_count(model)
    for path, count in weight.by_module.items():
        first = weight.aliases.get(path, path)  # fvcore lists a shared module once
        assert (path, count.params) == (path, params.get(first, 0))
    if not weight.beyond_fvcore:
        activations = fvcores("ActivationCountAnalysis", model, x).by_module()
        for path, expected in activations.items():
            assert (path, weight.by_module[path].activations) == (path, expected)


def test_the_comparison_with_fvcore_can_fail():
    model, x = timm.create_model("resnet18").eval(), torch.rand(1, 3, 64, 96)
    other = timm.create_model("resnet18", stem_width=32, stem_type="deep").eval()
    weight = weigh(other, (x,))
    assert weight.by_operator != fvcores("FlopCountAnalysis", model, x).by_operator()


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(CONVOLUTIONAL))
def test_every_operator_that_fvcore_calls_unsupported_is_named(name):
    build, size = QUICK[name]
    model, x = build().eval(), torch.rand(1, *size)
    uncounted = weigh(model, (x,)).uncounted
    flops = fvcores("FlopCountAnalysis", model, x)
    flops.total()
    unsupported = Counter()
    for operator, calls in flops.unsupported_ops().items():
        unsupported[operator.removeprefix("aten::").removesuffix("_")] += calls
    # fvcore passes over relu and clamp as if they moved data; they are named here.
    assert {k: v for k, v in uncounted.items() if k not in ("relu", "clamp")} == unsupported
