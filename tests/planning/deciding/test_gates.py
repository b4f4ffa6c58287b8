"""Gates that are handed a second value: it is brought to them as the first one is."""

import timm
import torch

import attnsurgeon


def test_the_tokens_of_a_blocks_input_are_brought_into_their_map_like_those_of_its_branch():
    model = timm.create_model("vit_tiny_patch16_224", img_size=64).eval()
    operation = attnsurgeon.insert(model, "ran", "residual-branch")
    assert len(operation.plan) == 22  # behind the last attention the class token alone is used
    assert all("only tokens of no position" in refused.reason for refused in operation.plan.refused)
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(operation.model(x), model(x))
