"""Weighing against plain arithmetic, and what it does to the model: nothing."""

import time
from functools import partial

import pytest
import timm
import torch
from torch import nn

import attnsurgeon
from attnsurgeon.attention.registry import mechanisms
from attnsurgeon.cost.weighing import weigh, weigh_twin
from attnsurgeon.cost.weight import Count
from attnsurgeon.errors import ModelError
from attnsurgeon.recording.record import MARK
from attnsurgeon.recording.twin import meta_twin
from tests.looking.operated import ELSEWHERE
from tests.nets.families.segmenters import TransposedUNet
from tests.nets.stages import Stages


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
    assert weight.layer_macs == 4_089_184_256  # 4.09 G, as papers have it


@pytest.mark.parametrize(
    ("attn", "thousandths"),  # of a GMAC, by the table of CBAM's authors: 3.858, 3.860, 3.864
    [("se", 2), ("cbam", 6)],
)
def test_what_the_layers_alone_add_is_what_the_paper_prints(attn, thousandths):
    cost = attnsurgeon.estimate("resnet50", attn, init="paper")
    added = cost.after.layer_macs - cost.before.layer_macs
    assert abs(added / 1e6 - thousandths) < 1 < cost.delta.macs / 1e6 - thousandths


@pytest.mark.parametrize("attn", ["cbam", "bam", "srm"])
def test_layers_alone_are_counted_as_hooks_on_them_count(attn):
    """On real tensors: each convolution and linear layer by the shapes that it is given."""
    operated: nn.Module = attnsurgeon.insert(Stages(), attn, init="paper").model
    found = []

    def count(module: nn.Module, args: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
        each = module.weight[0].numel() if isinstance(module, nn.Conv2d) else module.in_features
        found.append(out.numel() * each)

    for module in operated.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(count)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        operated.eval()(x)
    weight = weigh(operated, (x,))
    assert weight.layer_macs == sum(found) < weight.macs


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


class Tied(nn.Module):
    """One layer run under two names, another that holds its weight, a third that never runs."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(7, 7)
        self.again = self.head
        self.third = nn.Linear(7, 7, bias=False)
        self.third.weight = self.head.weight
        self.unused = nn.Linear(11, 13)

    def forward(self, x):
        return self.third(self.again(self.head(x)))


def test_tied_parameters_count_once_and_a_shared_module_has_both_paths():
    weight = weigh(Tied(), (torch.rand(5, 7),))
    assert weight.params == 7 * 7 + 7 + 11 * 13 + 13
    assert weight.macs == 3 * 5 * 7 * 7
    assert weight.aliases == {"again": "head"}
    assert weight.by_module["again"] == weight.by_module["head"]
    assert weight.by_module["head"] == Count(7 * 7 + 7, 2 * 5 * 7 * 7, 2 * 5 * 7)
    assert weight.by_module["third"] == Count(7 * 7, 5 * 7 * 7, 5 * 7)
    assert weight.by_module["unused"] == Count(11 * 13 + 13, 0, 0)


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


@pytest.mark.parametrize("build", [partial(timm.create_model, "resnet18"), LooksAtValues])
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


@pytest.mark.slow
@pytest.mark.parametrize("name", mechanisms())
@pytest.mark.parametrize("init", [pytest.param("paper", marks=pytest.mark.slow), "identity"])
def test_every_operator_of_every_mechanism_has_a_price(name, init):
    where = ELSEWHERE.get(name)
    net = TransposedUNet() if name == "attention-gate" else Stages()  # it is for skips
    cost = attnsurgeon.estimate(net, name, where, init=init, input_size=(3, 64, 48))
    added = {
        operator: calls - cost.before.uncounted.get(operator, 0)
        for operator, calls in cost.uncounted.items()
    }
    # With a weight for each image, the convolution's own forward adds its bias, and two results
    # under the identity start; AW's placement takes none with a bias.
    adds = mechanisms()[name].per_sample and (name, init) != ("aw", "paper")
    own = {"add"} if adds else set()
    assert {operator for operator, calls in added.items() if calls > 0} == own
    assert cost.delta.macs != 0
    in_training = [note for note in cost.notes if "counted as it trains, at batch 1" in note]
    assert len(in_training) == (name == "ba2m")


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


# ------------------------------------------------------------------ what runs in training only


class Sleeper(nn.Module):
    """A gate that works in training only, but for a part that always does."""

    def __init__(self, channels: int, norm: bool = False) -> None:
        super().__init__()
        self.always = nn.Conv2d(channels, channels, 1, bias=False)
        self.training_only = nn.Linear(channels, channels, bias=False)
        self.norm = nn.BatchNorm1d(channels) if norm else nn.Identity()

    def forward(self, x):
        x = self.always(x)
        if not self.training:
            return x
        gate = self.norm(self.training_only(x.mean((2, 3)))).sigmoid()
        return x * gate[:, :, None, None]


def with_gate(gate: nn.Module) -> nn.Sequential:
    setattr(gate, MARK, object())
    return nn.Sequential(nn.Conv2d(3, 8, 1, bias=False), nn.BatchNorm2d(8), gate)


def test_attention_is_priced_as_training_runs_it_where_evaluation_leaves_parts_out():
    network = with_gate(Sleeper(8))
    weight = weigh(network, (torch.rand(1, 3, 5, 7),))
    assert weight.by_operator["linear"] == 8 * 8
    assert weight.by_operator["conv"] == 5 * 7 * (3 * 8 + 8 * 8)
    assert weight.notes == ("2: more runs in training, so counted as it trains, at batch 1",)
    awake = weigh(with_gate(nn.Conv2d(8, 8, 1)), (torch.rand(1, 3, 5, 7),))
    assert awake.notes == ()


def test_the_network_around_it_is_priced_as_ever_and_none_of_its_values_is_touched():
    network = with_gate(Sleeper(8, norm=True))
    for module in network.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            torch.nn.init.uniform_(module.running_mean)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    weight = weigh(network, (torch.rand(2, 3, 5, 7),))
    # In evaluation a norm with scales is 2 an element; in training it would be 5.
    assert weight.by_module["1"].macs == 2 * 2 * 8 * 5 * 7
    assert "at batch 2" in weight.notes[0]
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert [module.training for module in network.modules()] == modes


def test_what_cannot_run_in_training_on_one_image_says_that_its_price_is_open():
    weight = weigh(with_gate(Sleeper(8, norm=True)), (torch.rand(1, 3, 5, 7),))
    assert "linear" not in weight.by_operator
    (note,) = weight.notes
    assert note.startswith("2 cannot be counted as in training: ValueError: Expected more than 1")


def test_batch_aware_attention_costs_what_a_training_image_costs():
    cost = attnsurgeon.estimate("resnet18", "ba2m", "residual-branch")
    first = cost.per_site[0]  # 64 channels at 56 x 56, m = 4
    positions, c, m = 56 * 56, 64, 4
    maps = positions * (c * m + 9 * m * m + m + 3 * c * m)
    seen = positions * positions * 2 * m  # query x key, and weights x value
    assert first.macs > maps + seen
    assert first.macs < 1.1 * (maps + 2 * seen)
    assert first.activations > 0
    assert "counted as it trains, at batch 1" in " ".join(cost.notes)
    plain = attnsurgeon.estimate("resnet18", "se", "residual-branch")
    assert "trains" not in " ".join(plain.notes)
