"""A plan hands each mechanism what follows from its site, and builds one module for one size."""

import pytest
import timm
import torch
from torch import Tensor, nn

import attnsurgeon
from attnsurgeon.errors import MechanismError
from attnsurgeon.rules.parse import parse_rules


@pytest.fixture(scope="module")
def resnet18() -> nn.Module:
    with torch.device("meta"):
        return timm.create_model("resnet18")


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).relu()


class Pyramid(nn.Module):
    """One head for two resolutions, as detectors have it."""

    def __init__(self) -> None:
        super().__init__()
        self.head = Head()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x).mean((2, 3)) + self.head(x[..., ::2, ::2]).mean((2, 3))


def sizes(plan, argument):
    return [cut.attn_args.get(argument) for cut in plan]


def test_each_site_gives_its_own_size(resnet18):
    plan = attnsurgeon.plan(resnet18, "ge", attn_args={"gather": "theta"}, input_size=(3, 224, 160))
    expected = [(56, 40)] * 2 + [(28, 20)] * 2 + [(14, 10)] * 2 + [(7, 5)] * 2
    assert sizes(plan, "size") == expected
    widths = [64, 64, 128, 128, 256, 256, 512, 512]
    weights = [c * h * w for c, (h, w) in zip(widths, expected, strict=True)]
    assert plan.params == sum(weights) + 2 * sum(widths)


def test_the_size_that_the_user_gives_wins(resnet18):
    plan = attnsurgeon.plan(resnet18, "fca", attn_args={"dct_size": 9})
    assert sizes(plan, "dct_size") == [9] * 8


def test_a_mechanism_that_needs_no_size_gets_none(resnet18):
    assert all(cut.attn_args == {} for cut in attnsurgeon.plan(resnet18, "ge"))
    assert all(cut.attn_args == {} for cut in attnsurgeon.plan(resnet18, "nam"))


def test_what_was_planned_is_built(resnet18):
    model = timm.create_model("resnet18").eval()
    operation = attnsurgeon.insert(model, "ge", attn_args={"gather": "theta-plus"})
    weight = operation.model.get_parameter("layer3.0.attn.gather.weight")
    assert weight.shape == (256, 14, 14)
    x = torch.randn(2, 3, 224, 224)
    assert torch.equal(operation.model(x), model(x))
    assert operation.model(torch.randn(1, 3, 97, 131)).shape == (1, 1000)


def test_a_module_for_two_resolutions_is_built_for_neither():
    where = {"site": "conv"}
    for attn, args in (("fca", {}), ("ge", {"gather": "theta"})):
        with pytest.raises(attnsurgeon.SurgeonError, match="several resolutions"):
            attnsurgeon.plan(Pyramid(), attn, where, attn_args=args, input_size=(3, 28, 36))
    (cut,) = attnsurgeon.plan(
        Pyramid(), "fca", where, attn_args={"dct_size": 7}, input_size=(3, 28, 36)
    )
    assert len(cut.shared) == 1


def test_tokens_have_no_map_to_be_weighed(resnet18):
    with torch.device("meta"):
        vit = timm.create_model("vit_tiny_patch16_224")
    plan = attnsurgeon.plan(vit, "ge", "residual-branch")
    assert len(plan) == 24
    with pytest.raises(MechanismError, match="ge: here are tokens"):
        attnsurgeon.plan(vit, "ge", "residual-branch", attn_args={"extent": 8})


def test_what_cannot_be_built_at_any_site_is_an_error_that_names_the_argument(resnet18):
    with pytest.raises(MechanismError, match="ge: extent=6 is no power of two"):
        attnsurgeon.plan(resnet18, "ge", attn_args={"extent": 6})


def test_arguments_for_clips_alone_are_not_refused_for_it(tmp_path):
    rules = tmp_path / "clips.yaml"
    rules.write_text(
        "version: 1\nname: clips\nrules:\n"
        "  - {id: clips, match: {site: conv}, attn: {type: tse, tile: [2, 7, 7]}}\n"
    )
    net = nn.Sequential(nn.Conv3d(3, 64, 3, padding=1))
    (cut,) = attnsurgeon.plan(net, rules=rules, input_size=(3, 4, 14, 10))
    assert cut.attn_args == {"tile": [2, 7, 7]}
    with pytest.raises(attnsurgeon.SurgeonError, match="has 3 sides and the map 2 axes"):
        attnsurgeon.plan(nn.Sequential(nn.Conv2d(3, 16, 3)), rules=rules, input_size=(3, 14, 10))


@pytest.mark.parametrize(
    ("action", "expected"),
    [("insert-before", [64, [56, 56]]), ("insert-after", [128, [28, 28]])],
)
def test_the_size_that_is_said_is_that_of_what_the_module_is_given(resnet18, action, expected):
    match = "{site: conv, name: layer2.0.conv1}"
    rule = f"{{id: one, match: {match}, action: {action}, attn: se}}"
    rules = f"version: 1\nname: one\nrules: [{rule}]\n"
    (site,) = attnsurgeon.plan(resnet18, rules=parse_rules(rules)).record()["sites"]
    assert [site["channels"], site["resolution"]] == expected
