"""Every family of torchvision: where attention can go in, and that nothing else changes."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import attnsurgeon
from attnsurgeon.asked import rules_for
from attnsurgeon.checks.verify import randomise_norms
from attnsurgeon.errors import RuleError
from attnsurgeon.operate import plan_rules
from attnsurgeon.recording.record import tensors_in
from attnsurgeon.sites.analysis import sketch
from attnsurgeon.splicing.history import inserted
from benchmarks.zoo import names_of

pytest.importorskip("torchvision")

# Network -> sites that are cut at each placement. A torchvision network of each family.
PLACEMENTS = ("residual-branch", "residual-block", "stage", "head", "downsample", "conv3x3")
CUTS = {
    "alexnet": (0, 0, 3, 1, 2, 3),
    "convnext_tiny": (18, 18, 4, 1, 3, 0),
    "deeplabv3_resnet50": (16, 16, 4, 1, 3, 20),
    "densenet121": (0, 0, 4, 1, 3, 58),
    "efficientnet_b0": (9, 9, 5, 1, 4, 1),
    "googlenet": (0, 0, 3, 1, 2, 19),
    "inception_v3": (0, 0, 3, 1, 2, 17),
    "lraspp_mobilenet_v3_large": (10, 10, 5, 1, 4, 1),
    "mc3_18": (8, 8, 4, 1, 3, 4),
    "mobilenet_v3_large": (10, 10, 5, 1, 4, 1),
    "mvit_v2_s": (32, 32, 4, 1, 3, 0),
    "quantized_resnet18": (8, 8, 4, 1, 3, 16),
    "raft_small": (12, 12, 3, 1, 2, 84),
    "regnet_x_400mf": (22, 22, 4, 1, 3, 23),
    "resnet50": (16, 16, 4, 1, 3, 16),
    "s3d": (0, 0, 3, 1, 2, 0),
    "shufflenet_v2_x1_0": (0, 0, 3, 1, 2, 1),
    "squeezenet1_1": (0, 0, 3, 1, 2, 9),
    "swin3d_t": (24, 24, 4, 1, 3, 0),
    "swin_t": (24, 24, 4, 1, 3, 0),
    "vit_b_16": (24, 24, 1, 1, 0, 0),
}


def test_the_zoo_knows_every_network_of_torchvision():
    from torchvision.models import list_models

    assert names_of("torchvision") == [f"torchvision:{name}" for name in list_models()]
    assert names_of("torchvision", "swin3d_?") == [f"torchvision:swin3d_{c}" for c in "bst"]


@pytest.mark.slow
@pytest.mark.parametrize("name", CUTS)
def test_each_placement_is_cut_wherever_it_means_something(name):
    _, survey = sketch(f"torchvision:{name}")
    assert tuple(cut_at(survey, placement) for placement in PLACEMENTS) == CUTS[name]


def cut_at(survey: Any, placement: str) -> int:
    file = rules_for("eca", placement, None, None, "identity")
    try:
        plan = plan_rules(survey, file, init="identity", where=placement)
    except RuleError as error:
        if "matches nothing" in error.what or "cannot be rewritten" in error.what:
            return 0
        raise
    return sum(1 + len(cut.shared) for cut in plan.cuts)


# Network -> the sizes of its inputs, small.
OPERATED: dict[str, Any] = {
    "deeplabv3_mobilenet_v3_large": ((3, 64, 96),),
    "fcn_resnet50": ((3, 40, 56),),
    "lraspp_mobilenet_v3_large": ((3, 64, 96),),
    "raft_small": ((3, 128, 136), (3, 128, 136)),
    "swin_t": ((3, 64, 96),),
    "quantized_resnet18": ((3, 64, 96),),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATED)
def test_outputs_of_every_kind_stay_what_they_were(name):
    torch.manual_seed(0)
    model = attnsurgeon.load_model(f"torchvision:{name}").eval()
    randomise_norms(model)
    sizes = OPERATED[name]
    size = sizes[0] if len(sizes) == 1 else sizes
    operated = attnsurgeon.insert(model, "se", "residual-branch", input_size=size).model
    x = [torch.randn(2, *one) for one in sizes]
    before = outputs(model, x)
    assert all(map(torch.equal, outputs(operated, x), before))
    for _, module in inserted(operated):
        for parameter in module.parameters():
            parameter.data.add_(0.3)
    assert not all(map(torch.equal, outputs(operated, x), before))
    new = tuple(f"{path}." for path, _ in inserted(operated))
    assert [k for k in operated.state_dict() if not k.startswith(new)] == [*model.state_dict()]


def outputs(model: nn.Module, x: list[Tensor]) -> list[Tensor]:
    with torch.no_grad():
        return list(tensors_in(model(*x)))


def test_a_forward_of_two_images_is_given_two():
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1))

        def forward(self, first: Tensor, second: Tensor) -> Tensor:
            return self.encoder(torch.cat([first, second])).mean((2, 3))

    model = Pair().eval()
    operation = attnsurgeon.insert(model, "eca", {"site": "conv"})
    pair = torch.randn(2, 3, 16, 24), torch.randn(2, 3, 16, 24)
    assert torch.equal(operation.model(*pair), model(*pair))
    assert [cut.site.layout for cut in operation.plan] == ["NCHW"]
