"""Diffusion networks of diffusers: an image, a time step, a text."""

from typing import Any

import pytest
import torch

import attnsurgeon

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.slow

IMAGE = {"sample": torch.randn(2, 4, 32, 32), "timestep": torch.tensor([1, 2])}
TEXT = {"encoder_hidden_states": torch.randn(2, 7, 32)}


def small(kind: Any, **more: Any) -> Any:
    torch.manual_seed(0)
    channels = {"in_channels": 4, "out_channels": 4, "block_out_channels": (32, 64, 64)}
    return kind(sample_size=32, norm_num_groups=8, **channels, **more)


def conditioned():
    return small(
        diffusers.UNet2DConditionModel,
        layers_per_block=2,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=8,
    )


def unconditioned():
    return small(
        diffusers.UNet2DModel,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    )


# Residual blocks on the way down, at the bottom and on the way up; four sums in each transformer
# (self-attention, cross-attention, feed-forward, all), one in each attention.
NETWORKS = {
    "text": (conditioned, IMAGE | TEXT, (6 + 2 + 9) + 4 * (4 + 1 + 6), 9),
    "no-text": (unconditioned, IMAGE, (3 + 2 + 6) + (2 + 1 + 4), 6),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_branch_and_skip_is_cut_and_starts_as_it_was(name):
    build, example, branches, skips = NETWORKS[name]
    for where, count in {"residual-branch": branches, "skip": skips, "stage": 3}.items():
        net = build()
        operation = attnsurgeon.insert(net, "eca", where, example=example)
        assert len(operation.plan) == count, where
        assert operation.verify().ok, where


@pytest.mark.parametrize("name", NETWORKS)
def test_stages_are_the_encoders_and_the_decoder_has_one_value_at_each_resolution(name):
    build, example, _, _ = NETWORKS[name]
    sites = attnsurgeon.find_sites(build(), example=example)
    assert [s.stage for s in sites if "stage" in s.roles] == [1, 2, 3]
    assert [s.path.partition(":")[0] for s in sites if "head" in s.roles] == ["mid_block.resnets.1"]
    assert [s.stage for s in sites if "decoder" in s.roles] == [3, 2, 1]
