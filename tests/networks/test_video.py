"""Three-dimensional networks are operated with every gate that is defined for three axes."""

import pytest
import torch
import torchvision

import attnsurgeon
from attnsurgeon.attention.registry import mechanisms
from attnsurgeon.checks.verify import randomise_norms

GATES_3D = [
    name
    for name, card in mechanisms().items()
    if card.kind == "gate"
    and 3 in card.ranks
    and "skip" not in card.placement  # these have no decoder
]
# Eight blocks; two of each width, as the paper's R3D-18 has them.
WIDTHS = [64, 64, 128, 128, 256, 256, 512, 512]


@pytest.mark.parametrize("name", ["r3d_18", "mc3_18", "r2plus1d_18"])
def test_the_eight_branches_of_a_video_resnet_are_found(name):
    with torch.device("meta"):
        model = torchvision.models.get_model(name, weights=None)

    branches = attnsurgeon.find_sites(model).where(site="residual-branch")

    assert [site.channels for site in branches] == WIDTHS
    assert {site.layout for site in branches} == {"NCDHW"}


@pytest.mark.slow
@pytest.mark.parametrize("gate", GATES_3D)
@pytest.mark.parametrize("name", ["r3d_18", "mc3_18", "r2plus1d_18"])
def test_a_video_resnet_computes_the_same_after_surgery(name, gate):
    late_branches = {"site": "residual-branch", "stage": [-2, -1]}
    assert_unchanged(name, gate, late_branches, cuts=4, size=(3, 8, 48, 64))


@pytest.mark.slow
@pytest.mark.parametrize("gate", ["se", "cbam", "simam"])
def test_a_video_inception_computes_the_same_after_surgery(gate):
    assert_unchanged("s3d", gate, "head", cuts=1, size=(3, 16, 224, 224))  # it takes no smaller


def assert_unchanged(name, gate, where, cuts, size):
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None).eval()
    randomise_norms(model)

    operation = attnsurgeon.insert(model, gate, where, input_size=size)

    x = torch.randn(1, *size)
    with torch.no_grad():
        assert torch.equal(operation.model(x), model(x))
    assert len(operation.plan) == cuts
    assert set(model.state_dict()) <= set(operation.model.state_dict())


def test_a_gate_tied_to_two_axes_is_refused_with_the_reason():
    gates = {name: card for name, card in mechanisms().items() if card.kind == "gate"}
    flat = [name for name, card in gates.items() if 3 not in card.ranks]
    for name in flat:
        with pytest.raises(attnsurgeon.SurgeonError, match="not defined for rank 3"):
            attnsurgeon.create_attention(name, 64, rank=3)
        assert mechanisms()[name].rank_reason
