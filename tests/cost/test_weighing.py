"""Weighing on meta against fvcore's own analysis of real tensors, and against plain arithmetic."""

import time
from collections import Counter

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from attnsurgeon.attention.registry import create_attention, mechanisms
from attnsurgeon.cost.weighing import weigh, weigh_twin
from attnsurgeon.cost.weight import Count
from attnsurgeon.errors import ModelError
from attnsurgeon.meta import meta_twin
from attnsurgeon.splice import MARK


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


def test_resnet50_weighs_what_is_known_of_it():
    with torch.device("meta"):
        model = timm.create_model("resnet50")
    weight = weigh(model, (torch.empty(1, 3, 224, 224, device="meta"),))
    assert weight.params == 25_557_032
    assert weight.by_operator == {
        "conv": 4_087_136_256,
        "batch_norm": 22_227_968,
        "linear": 2048 * 1000,
        "adaptive_avg_pool2d": 2048 * 7 * 7,
    }
    assert weight.uncounted == {"relu": 49, "add": 16, "max_pool2d": 1}
    assert not weight.beyond_fvcore
    assert not weight.notes


def test_fused_attention_is_counted_and_its_part_is_told_apart():
    with torch.device("meta"):
        model = timm.create_model("vit_base_patch16_224")
    weight = weigh(model, (torch.empty(1, 3, 224, 224, device="meta"),))
    # 12 blocks of 12 heads: 197 tokens meet 197 over 64 features, then weigh 197 x 64 values
    attention = 12 * 12 * 197 * 197 * 64 * 2
    assert weight.beyond_fvcore == {"scaled_dot_product_attention": attention}
    for module in model.modules():
        if "fused_attn" in vars(module):
            vars(module)["fused_attn"] = False
    plain = weigh(model, (torch.empty(1, 3, 224, 224, device="meta"),))
    assert (plain.macs, plain.by_operator["matmul"]) == (weight.macs, attention)


def test_the_batch_multiplies_macs_and_not_parameters():
    model = timm.create_model("resnet18")
    one = weigh(model, (torch.rand(1, 3, 64, 96),))
    three = weigh(model, (torch.rand(3, 3, 64, 96),))
    assert three.macs == 3 * one.macs
    assert three.activations == 3 * one.activations
    assert three.params == one.params


def test_tied_parameters_count_once_and_a_shared_module_has_both_paths():
    model = ManyOperators()
    weight = weigh(model, (torch.rand(1, 3, 21, 26),))
    assert weight.aliases == {"again": "head"}
    assert weight.by_module["again"] == weight.by_module["head"]
    assert weight.by_module["head"] == Count(7 * 7 + 7, 2 * (4 * 5 * 7) * 7, 2 * 4 * 5 * 7)
    assert weight.by_module["unused"] == Count(99 * 99 + 99, 0, 0)
    assert weight.params == sum(p.numel() for p in set(model.parameters()))


def test_a_module_in_training_mode_is_weighed_as_in_inference():
    model, x = timm.create_model("resnet18"), torch.rand(1, 3, 64, 96)
    assert weigh(model.train(), (x,)) == weigh(model.eval(), (x,))
    assert weigh_twin(meta_twin(model.train()), (x.to("meta"),)).macs > weigh(model, (x,)).macs


class LooksAtValues(nn.Module):
    """Keeps the positions that score, the way detectors do."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3)
        self.norm = nn.BatchNorm2d(5)
        self.head = nn.Linear(5, 7)
        self.register_buffer("runs", torch.zeros(1))

    def forward(self, x):
        self.runs += 1
        y = self.norm(self.conv(x))
        return self.head(y.flatten(2)[0].T[y.sum((0, 1)).flatten().argsort()[:11].tolist()])


@pytest.mark.parametrize("build", [timm_model("resnet18"), LooksAtValues])
def test_the_model_is_left_exactly_as_it_was(build):
    model = build().train()
    next(iter(model.children())).eval()

    def picture():
        return {
            path: (
                module.training,
                sorted(vars(module)),
                list(module._forward_hooks),
                list(module._forward_pre_hooks),
            )
            for path, module in model.named_modules()
        }

    before, tensors = (
        picture(),
        {k: (v.data_ptr(), v.clone()) for k, v in model.state_dict().items()},
    )
    weigh(model, (torch.rand(1, 3, 64, 96),))
    assert picture() == before
    for name, tensor in model.state_dict().items():
        pointer, value = tensors[name]
        assert tensor.data_ptr() == pointer, name
        assert torch.equal(tensor, value), name


def test_a_network_that_looks_at_values_is_run_on_some_and_says_so():
    weight = weigh(LooksAtValues(), (torch.rand(1, 3, 13, 17),))
    assert weight.by_operator["linear"] == 11 * 5 * 7
    (note,) = weight.notes
    assert note.startswith("counted on random values, the work depends on them")


def test_on_meta_a_network_that_looks_at_values_is_refused():
    with pytest.raises(ModelError, match="cannot be weighed on the meta device"):
        weigh(LooksAtValues().to("meta"), (torch.rand(1, 3, 13, 17),))


def test_an_input_that_does_not_fit_is_one_clear_error():
    with pytest.raises(ModelError, match=r"cannot be run on an input of \(1, 4, 64, 96\)"):
        weigh(timm.create_model("resnet18"), (torch.rand(1, 4, 64, 96),))


class Gated(nn.Module):
    """A convolution and a gate made by hand: mean, 1x1 convolution, sigmoid, product."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.gate = HandGate()

    def forward(self, x):
        return self.gate(self.conv(x).relu())


class HandGate(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.Conv2d(6, 6, 1)

    def forward(self, x):
        return x * self.mix(x.mean((2, 3), keepdim=True)).sigmoid()


def test_inside_an_inserted_module_pooling_and_gating_have_a_price():
    model, x = Gated(), torch.rand(1, 3, 11, 7)
    plain = weigh(model, (x,))
    setattr(model.gate, MARK, "inserted")
    marked = weigh(model, (x,))

    features = 6 * 11 * 7
    assert plain.macs == features * 27 + 36
    assert plain.uncounted == {"relu": 1, "mean": 1, "sigmoid": 1, "mul": 1}
    assert marked.macs == plain.macs + features + 6 + features
    assert marked.uncounted == {"relu": 1}  # the network's own stays as fvcore counts it
    assert marked.beyond_fvcore == {"mean": features, "sigmoid": 6, "mul": features}
    assert marked.inserted == {"gate": (Count(0, 2 * features + 6 + 36, 6),)}
    assert plain.inserted == {}


@pytest.mark.parametrize("name", mechanisms())
@pytest.mark.parametrize("init", ["paper", "identity"])
def test_every_operator_of_every_mechanism_has_a_price(name, init):
    model = nn.Sequential(create_attention(name, 64, init=init))
    unmarked = weigh(model, (torch.rand(1, 64, 14, 10),))
    assert unmarked.uncounted
    setattr(model[0], MARK, "inserted")
    assert weigh(model, (torch.rand(1, 64, 14, 10),)).uncounted == {}


def test_weighing_takes_no_longer_than_a_few_meta_forwards():
    with torch.device("meta"):
        model, x = timm.create_model("resnet50").eval(), torch.empty(1, 3, 224, 224)
    weigh(model, (x,))

    def seconds(run):
        started = time.perf_counter()
        run()
        return time.perf_counter() - started

    with torch.inference_mode():
        forward = min(seconds(lambda: model(x)) for _ in range(3))
    assert min(seconds(lambda: weigh(model, (x,))) for _ in range(3)) < 3 * forward


def test_figures_of_modules_add_up():
    weight = weigh(timm.create_model("resnet18"), (torch.rand(1, 3, 64, 96),))
    top = [count for path, count in weight.by_module.items() if path and "." not in path]
    assert sum(top, Count()) == Count(weight.params, weight.macs, weight.activations)
