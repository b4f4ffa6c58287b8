"""Maps of a single position: what is said of stages that no longer show at a small input."""

import pytest
import timm
import torch

import attnsurgeon
from attnsurgeon.errors import RuleError
from attnsurgeon.sites.parts import small_maps
from tests.surgery import surveyed

NOTE = "behind layer3.1.act2 every map is a single position"


def meta(name):
    with torch.device("meta"):
        return timm.create_model(name)


@pytest.mark.parametrize(("side", "said"), [(32, True), (48, False), (64, False)])
def test_a_plan_says_where_the_last_maps_have_one_position(side, said):
    """layer4 of a ResNet makes 1x1 of 32x32 pixels."""
    made = attnsurgeon.plan(meta("resnet18"), "se", "stage", input_size=(3, side, side))
    assert [note.startswith(NOTE) for note in made.notes] == [True] * said


@pytest.mark.parametrize(
    "name", ["mobilenetv3_small_050", "seresnet18", "eca_resnext26ts", "vgg11"]
)
def test_layers_on_pooled_vectors_are_no_maps_that_a_larger_input_would_show(name):
    assert small_maps(surveyed(meta(name), (3, 224, 224))) == ""


@pytest.mark.parametrize(
    ("name", "side", "lost"),
    [("resnet18", 32, "layer4.0.conv1"), ("mobilenetv3_small_050", 224, "conv_head")],
)
def test_a_head_that_takes_the_classifier_away_leaves_no_layer_out(name, side, lost):
    model, size = meta(name), (3, side, side)
    with pytest.raises(RuleError, match=f"{lost} works between the last map and the classifier"):
        attnsurgeon.plan(model, "csra", init="paper", input_size=size)
    assert len(attnsurgeon.plan(model, "csra", input_size=size)) == 1  # the identity keeps both
    assert (
        len(attnsurgeon.plan(meta("resnet18"), "csra", init="paper", input_size=(3, 64, 64))) == 1
    )
