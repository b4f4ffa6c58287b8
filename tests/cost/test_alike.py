"""Weighing each kind of block once against weighing every block, and against plain arithmetic."""

import copy

import pytest
import timm
import torch
from torch import nn

import attnsurgeon
from attnsurgeon.cost.alike import Kinds
from attnsurgeon.cost.planned import weigh_alike
from attnsurgeon.cost.weighing import weigh_twin
from attnsurgeon.operate import plan
from attnsurgeon.recording.inputs import InputForm
from attnsurgeon.recording.trace import trace
from attnsurgeon.splicing.splice import splice


def built(name, **args):
    with torch.device("meta"):
        return timm.create_model(name, **args)


def in_full(made):
    """The two weights of a plan, every call of every module run: no call is told to be alike."""
    twin = copy.deepcopy(made.survey.traced.twin)
    inputs = made.survey.traced.form.at_batch(1).on_meta()
    before = weigh_twin(twin, inputs)
    splice(twin, made)
    return before, weigh_twin(twin, inputs)


NETWORKS = {
    "resnet18": {},
    "vit_tiny_patch16_224": {"depth": 3},
    "efficientnet_lite0": {},
    "convnext_atto": {},
    "swin_tiny_patch4_window7_224": {"depths": (2, 4)},
    "hrnet_w18_small": {},
    "densenet121": {"block_config": (2, 3)},
}
QUICK = {"resnet18", "vit_tiny_patch16_224"}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in NETWORKS]
)
@pytest.mark.parametrize("attn", ["eca", pytest.param("cbam", marks=pytest.mark.slow)])
def test_what_is_weighed_once_is_weighed_right(name, attn):
    model = built(name, **NETWORKS[name])
    made = plan(model, attn, "conv" if name == "densenet121" else "residual-branch")
    alike, full = weigh_alike(made, ()), in_full(made)
    assert alike is not None
    for mine, theirs in zip(alike, full, strict=True):
        assert mine == theirs
        assert list(mine.by_module) == list(theirs.by_module)  # reports go by their order
        assert list(mine.inserted) == list(theirs.inserted)


class Blocks(nn.Module):
    """Blocks of one convolution, by their strides; what they are alike in is up to the caller."""

    def __init__(self, *blocks):
        super().__init__()
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x):
        return self.blocks(x)


class Block(nn.Module):
    def __init__(self, dilation=1, kept=None):
        super().__init__()
        self.conv = nn.Conv2d(5, 5, 3, padding=dilation, dilation=dilation, bias=False)
        self.kept = kept

    def forward(self, x):
        y = self.conv(x)
        if self.kept is not None:
            self.kept.append(y)
        return x + y


def kinds_of(model, size=(5, 13, 11)):
    traced = trace(model, InputForm.of_size(size))
    kinds = Kinds(traced)
    return kinds, [traced.calls[f"blocks.{n}"][0] for n in range(len(model.blocks))]


def test_blocks_that_do_the_same_are_of_one_kind_and_others_are_not():
    kinds, calls = kinds_of(Blocks(Block(), Block(), Block(dilation=2), nn.ReLU(), Block()))
    numbers = [kinds.of[call] for call in calls]
    assert numbers[0] == numbers[1] == numbers[4]
    assert len(set(numbers)) == 3


def test_a_block_whose_value_is_used_elsewhere_is_not_answered_for():
    class Sums(Blocks):
        def __init__(self):
            self_kept = []
            super().__init__(Block(kept=self_kept), Block(kept=self_kept), Block())
            self.kept = self_kept

        def forward(self, x):
            self.kept.clear()
            return self.blocks(x) + self.kept[0]

    kinds, calls = kinds_of(Sums())
    assert [kinds.is_answerable(call) for call in calls] == [False, True, True]
    made = plan(Sums(), "eca", {"site": "conv"}, input_size=(5, 13, 11))
    assert [w.macs for w in weigh_alike(made, ()) or ()] == [w.macs for w in in_full(made)]


class Hidden(nn.Module):
    """Convolves where no torch function is seen."""

    def __init__(self, times):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(5, 5, 1, 1))
        self.times = times

    def forward(self, x):
        with torch._C.DisableTorchFunction():
            for _ in range(self.times):
                y = nn.functional.conv2d(x, self.weight)
        return y


def test_a_block_in_which_something_was_not_seen_is_alike_to_no_other():
    model = Blocks(Hidden(1), Hidden(3), Hidden(1), nn.Conv2d(5, 5, 1))
    kinds, calls = kinds_of(model)
    assert len({kinds.of[call] for call in calls}) == 4
    made = plan(model, "eca", "conv", input_size=(5, 13, 11))
    weights = weigh_alike(made, ())
    assert weights is not None
    assert weights[0].by_operator["conv"] == (1 + 3 + 1 + 1) * 25 * 13 * 11


def test_a_batch_of_two_that_looks_like_another_axis_is_not_taken_for_it():
    class Table(nn.Module):
        """A layer on (batch, 5), and on (2, 5), which has no batch."""

        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 5, 1, bias=False)
            self.one = nn.Linear(5, 7, bias=False)
            self.other = nn.Linear(5, 7, bias=False)
            self.table = nn.Parameter(torch.zeros(2, 5))

        def forward(self, x):
            return self.one(self.conv(x).mean((2, 3))) + self.other(self.table).sum(0)

    made = plan(Table(), "eca", "conv", input_size=(3, 13, 11))
    before = attnsurgeon.estimate(Table(), "eca", "conv", input_size=(3, 13, 11)).before
    assert before.by_operator["linear"] == 1 * 35 + 2 * 35
    assert weigh_alike(made, ()) is None  # so it was weighed in full


def test_a_network_in_training_mode_and_one_that_keeps_a_cache_are_left_as_they_were():
    class Caching(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 5, 1)
            self.seen = {}

        def forward(self, x):
            self.seen[tuple(x.shape)] = True
            return self.conv(x)

    made = plan(Caching().train(), "eca", "conv", input_size=(3, 13, 11))
    twin = made.survey.traced.twin
    seen, hooks = dict(twin.seen), dict(vars(twin.conv))
    assert weigh_alike(made, ()) is not None
    assert twin.seen == seen
    assert vars(twin.conv) == hooks
    assert "attn" not in twin.conv._modules


def test_the_network_before_is_weighed_once_for_all_its_plans(monkeypatch):
    from attnsurgeon.cost import planned

    model = built("resnet18")
    made = plan(model, "eca", "residual-branch")
    performed = []
    perform = planned.Stage.perform
    monkeypatch.setattr(
        planned.Stage, "perform", lambda self, *a: (performed.append(self), perform(self, *a))
    )
    first, second = weigh_alike(made, ()), weigh_alike(made, ())
    assert first == second
    assert len(performed) == 3  # before, after, after


@pytest.mark.slow
def test_fvcore_counts_the_same_on_real_tensors():
    from fvcore.nn import FlopCountAnalysis, parameter_count

    model, x = timm.create_model("resnet18").eval(), torch.rand(1, 3, 64, 96)
    made = plan(model, "eca", "residual-branch", input_size=(3, 64, 96))
    weights = weigh_alike(made, ())
    assert weights is not None
    operated = attnsurgeon.insert(model, "eca", "residual-branch", input_size=(3, 64, 96)).model
    for weight, network in zip(weights, (model, operated), strict=True):
        flops = FlopCountAnalysis(network.eval(), (x,)).unsupported_ops_warnings(False)
        assert weight.params == parameter_count(network)[""]
        assert weight.macs - sum(weight.beyond_fvcore.values()) == flops.total()


# ------------------------------------------------------------- what sites cost adds up


def sum_of(cost, sites=None):
    chosen = [s for s in cost.per_site if sites is None or s.site in sites]
    return tuple(sum(getattr(s, f) for s in chosen) for f in ("params", "macs", "activations"))


@pytest.mark.parametrize(
    ("attn", "where"),
    [
        ("eca", "residual-branch"),
        ("dia", None),
        *(pytest.param(*more, marks=pytest.mark.slow)
          for more in [("cbam", "residual-block"), ("sk", None), ("atac", None), ("aff", None),
                       ("we", None), ("csra", None)]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("init", ["identity", pytest.param("paper", marks=pytest.mark.slow)])
def test_what_the_sites_cost_adds_up_to_what_the_surgery_costs(attn, where, init):
    cost = attnsurgeon.estimate(built("resnet18"), attn, where, init=init, input_size=(3, 64, 96))
    assert sum_of(cost) == (cost.delta.params, cost.delta.macs, cost.delta.activations)


@pytest.mark.parametrize("attn", ["se", pytest.param("sk", marks=pytest.mark.slow)])
def test_a_choice_of_sites_costs_what_its_sites_cost_among_all(attn):
    model = built("resnet18")
    every = attnsurgeon.estimate(model, attn, input_size=(3, 64, 96))
    paths = [site.site for site in every.per_site]
    for chosen in (paths[:1], paths[1::3]):
        some = attnsurgeon.estimate(model, attn, chosen, input_size=(3, 64, 96))
        delta = some.delta
        assert (delta.params, delta.macs, delta.activations) == sum_of(every, chosen)


def test_the_links_of_a_chain_do_not_cost_alone_what_they_cost_together():
    model = built("resnet18")
    every = attnsurgeon.estimate(model, "dia", input_size=(3, 64, 96))
    second = every.per_site[1].site
    alone = attnsurgeon.estimate(model, "dia", [second], input_size=(3, 64, 96))
    assert every.per_site[1].params == 0  # the first link bears the module that both run
    assert alone.delta.params > 0


def test_numbers_of_marked_calls_are_apart_from_those_of_the_record_and_do_not_stay():
    kinds, calls = kinds_of(Blocks(Block(), Block(), Block()))
    first, again = (kinds.touched({calls[0]: "a", calls[1]: "b", calls[2]: "a"}) for _ in "12")
    assert first == again
    assert first[calls[0]] == first[calls[2]] != first[calls[1]]
    assert set(first.values()).isdisjoint(kinds.of.values())
