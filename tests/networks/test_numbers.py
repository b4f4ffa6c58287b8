"""The figures that papers and other libraries give for operated networks, to the digit."""

import pytest
import timm
import torch
from torch import nn

import attnsurgeon
from attnsurgeon.asked import rules_for
from attnsurgeon.checks.verify import randomise_norms
from attnsurgeon.operate import plan_rules, weigh_plan
from attnsurgeon.sites.analysis import analyse
from attnsurgeon.sites.survey import Survey

BOTTLENECK_CHANNELS = [256] * 3 + [512] * 4 + [1024] * 6 + [2048] * 3


@pytest.fixture(scope="module")
def resnet50() -> nn.Module:
    with torch.device("meta"):
        return timm.create_model("resnet50")


@pytest.fixture(scope="module")
def survey(resnet50) -> Survey:
    return analyse(resnet50)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attn", "args", "where", "params", "sites"),
    [
        ("se", {}, "bottleneck", 28_088_024, 16),  # timm's seresnet50, Caffe's prototxt
        ("se", {"bias": False}, "bottleneck", 28_071_976, 16),  # 26.77 Mi in the ECA-Net table
        ("eca", {}, "bottleneck", 25_557_118, 16),
        ("cbam", {}, "bottleneck", 28_089_624, 16),
        ("srm", {}, "bottleneck", 25_617_448, 16),
        ("simam", {}, "bottleneck", 25_557_032, 16),
        ("bam", {}, None, 25_915_099, 3),
        ("ge", {}, None, 25_557_032, 16),
        ("ge", {"gather": "theta"}, None, 31_106_600, 16),
        ("ge", {"gather": "theta-plus"}, None, 33_637_592, 16),
        ("gsop", {}, None, 28_285_224, 4),
        ("fca", {}, None, 28_071_976, 16),
        ("tse", {}, None, 28_088_024, 16),  # SE's parameters
        ("sge", {}, None, 25_559_080, 16),
        ("nam", {}, None, 25_587_240, 16),
        ("spa", {}, None, 53_221_416, 16),
        ("sa", {}, None, 25_557_740, 16),
        ("triplet", {}, None, 25_561_832, 16),
        ("sk", {}, None, 26_154_496, 16),  # the plain-ResNet form, of PytorchInsight
        ("psa", {}, None, 22_561_715, 16),  # EPSANet-50, small
        ("sc", {}, None, 25_564_584, 16),  # SCNet-50
        ("we", {}, None, 28_059_058, 53),  # LWE on all convolutions
        ("atac", {}, None, 27_934_760, 18),  # stages 3 and 4, r = 2
        ("aff", {}, None, 30_353_960, 9),  # stages 3 and 4, r = 16
        ("iaff", {}, None, 35_150_888, 9),
        ("dca", {}, None, 30_898_696, 16),
        ("dca", {"inner": "cbam"}, None, 30_900_376, 16),
        ("dia", {}, None, 39_516_072, 16),
        ("csra", {}, None, 25_556_032, 1),  # 2,048,000 for 2,049,000
        ("csra", {"heads": 4}, None, 31_700_032, 1),
    ],
)
def test_resnet50_has_the_published_number_of_parameters(survey, attn, args, where, params, sites):
    plan = plan_rules(survey, rules_for(attn, where, None, args, "paper"), init="paper", where="")
    cost = weigh_plan(plan)

    assert len(plan.cuts) == sites
    assert plan.refused == ()
    assert cost.before.params == 25_557_032
    assert cost.after.params == params
    assert plan.params == cost.delta.params == sum(site.params for site in cost.per_site)
    assert cost.delta.macs == sum(site.macs for site in cost.per_site)


def test_an_estimate_is_the_cost_of_the_plan(resnet50):
    cost = attnsurgeon.estimate(resnet50, "se", "bottleneck", init="paper")
    assert (cost.before.params, cost.after.params) == (25_557_032, 28_088_024)


def test_the_sixteen_bottlenecks_of_resnet50_are_cut_at_their_channel_counts(resnet50):
    plan = attnsurgeon.plan(resnet50, "eca", "bottleneck")

    assert [cut.channels for cut in plan] == BOTTLENECK_CHANNELS
    assert plan.cuts[0].site.path == "layer1.0.bn3"
    assert plan.cuts[0].module_path == "layer1.0.attn"


def test_bam_stands_before_each_downsampling(resnet50):
    plan = attnsurgeon.plan(resnet50, "bam")

    assert [cut.site.path for cut in plan] == ["layer1.2.act3", "layer2.3.act3", "layer3.5.act3"]


def rules_with_timm_widths(channels: list[int]) -> str:
    """SE with the hidden width that timm gives it: C / 16 rounded to a multiple of 8."""
    rules = ""
    for c in sorted(set(channels)):
        hidden = max(8, int(c / 16 + 4) // 8 * 8)
        rules += (
            f"  - id: se-{c}\n"
            f"    match: {{site: residual-branch, channels: {c}}}\n"
            f"    attn: {{type: se, hidden: {hidden}}}\n"
            "    init: paper\n"
        )
    return f"version: 1\nrules:\n{rules}"


@pytest.mark.parametrize(
    ("plain", "squeezed", "channels"),
    [
        ("resnet18", "seresnet18", [64, 128, 256, 512]),
        pytest.param("resnet50", "seresnet50", BOTTLENECK_CHANNELS, marks=pytest.mark.slow),
    ],
)
def test_resnet_with_se_computes_what_timms_own_se_resnet_computes(
    tmp_path, plain, squeezed, channels
):
    theirs = timm.create_model(squeezed).double().eval()
    randomise_norms(theirs)
    (tmp_path / "se.yaml").write_text(rules_with_timm_widths(channels))
    operation = attnsurgeon.insert(timm.create_model(plain).double(), rules=tmp_path / "se.yaml")
    ours = operation.model.eval()
    carry_weights_over(theirs, ours)

    x = torch.randn(2, 3, 96, 64, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-9, atol=1e-9)
        assert not torch.equal(ours(x), ours(x.flip(0)))


def carry_weights_over(theirs: nn.Module, ours: nn.Module) -> None:
    """Copies every tensor by name; inside a block, the SE layers by their position."""
    own = ours.state_dict()
    se = {key: value for key, value in theirs.state_dict().items() if ".se." in key}
    base = {key: value for key, value in theirs.state_dict().items() if ".se." not in key}
    new = [key for key in own if key not in base]
    assert len(new) == len(se)
    renamed = dict(zip(new, se.values(), strict=True))
    ours.load_state_dict(base | {k: v.reshape(own[k].shape) for k, v in renamed.items()})
