"""PEFT's adapters on operated networks: right, or refused by name."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn

import attnsurgeon
from attnsurgeon.errors import ModelError
from attnsurgeon.splicing.history import inserted
from tests.training.test_trainers import active, fresh, gates, images, operated, outputs

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # its own, of its future
peft = pytest.importorskip("peft")


def adapted(model: nn.Module, targets: list[str], **how: Any) -> Any:
    return peft.get_peft_model(model, peft.LoraConfig(target_modules=targets, r=2, **how)).eval()


def trained(model: Any) -> Any:
    """After one step that moves whatever PEFT lets learn, from adapters that are not nothing."""
    dice = torch.Generator().manual_seed(5)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.3, generator=dice)
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 1e-3)
    model(images()).square().sum().backward()
    optimiser.step()
    return model


@pytest.mark.parametrize(
    ("attn", "how", "held"),
    [
        ("sk", {"attn_args": {"groups": 1}}, "conv2"),
        ("we", {}, "conv2"),
        ("aw", {"attn_args": {"reduction": 1}}, "conv2"),
        ("csra", {}, "fc"),
    ],
    ids=["sk", "we", "aw", "csra"],
)
def test_on_a_layer_that_holds_attention_they_are_refused(attn, how, held):
    where = "classifier" if attn == "csra" else "block-conv"
    model = attnsurgeon.insert(fresh(), attn, where, input_size=(3, 13, 11), **how).model
    expected = outputs(copy.deepcopy(model))
    with pytest.raises(ModelError, match=rf"holds attention \({attn} for .*{held}") as caught:
        adapted(copy.deepcopy(model), [held])
    assert "exclude_modules" in str(caught.value)
    free = adapted(model, ["conv1", held], exclude_modules=rf".*{held}")
    assert torch.equal(outputs(free), expected)
    expected = outputs(trained(free))
    merged = free.merge_and_unload()  # which asks every layer whether it is an adapter
    assert gates(merged) == gates(model)
    torch.testing.assert_close(outputs(merged), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ModelError, match="holds attention"):
        adapted(pickle.loads(pickle.dumps(merged)), [held])


@pytest.mark.parametrize("attn", ["eca", "dia", "aff"])
def test_beside_the_attention_they_learn_and_are_merged(attn):
    how = {"attn_args": {"reduction": 2}} if attn in ("dia", "aff") else {}
    where = "residual-add" if attn == "aff" else "residual-branch"
    base = fresh()
    model = attnsurgeon.insert(base, attn, where, input_size=(3, 13, 11), **how).model
    for _, part in inserted(model):
        for parameter in part.parameters():
            nn.init.uniform_(parameter, -0.5, 0.5, generator=torch.Generator().manual_seed(2))
    before, paths = outputs(model), gates(model)
    assert not torch.equal(before, outputs(base))
    made = adapted(model, ["conv1", "conv2", "fc"])
    assert torch.equal(outputs(made), before)
    expected = outputs(trained(made))
    assert not torch.allclose(expected, before, atol=0.1)
    merged = made.merge_and_unload()
    assert gates(merged) == paths
    torch.testing.assert_close(outputs(merged), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("attn", "where", "read", "how"),
    [
        ("s2", "residual-branch", ["squeeze", "share"], {}),
        ("external", "residual-branch", ["query", "out"], {}),
        ("polarized", "residual-branch", ["spatial_value"], {}),
        ("lambda", "block-conv", ["place"], {"init": "paper", "attn_args": {"heads": 1}}),
    ],
)
def test_a_layer_of_the_attention_whose_weights_are_read_takes_no_adapter(attn, where, read, how):
    """Around it an adapter would learn nothing, and change the outputs once it is merged."""
    made = attnsurgeon.insert(fresh(), attn, where, input_size=(3, 13, 11), **how).model
    for name in read:
        layers = [part for path, part in made.named_modules() if path.endswith(f".{name}")]
        assert layers
        assert all(type(layer).__name__ in ("Linear", "Conv2d") for layer in layers)
        with pytest.raises(ModelError, match="is never called: the attention that it is of reads"):
            adapted(copy.deepcopy(made), [name])


@pytest.mark.parametrize(
    "attn",
    ["s2", "external", "polarized", "se", "cbam", "gc", "nl", "a2", "ema"],
)
def test_around_any_other_layer_of_the_attention_it_is_merged_into_the_same(attn):
    model = attnsurgeon.insert(fresh(), attn, "residual-branch", input_size=(3, 13, 11)).model
    active(model)
    first = gates(model)[0]
    layers = {
        path: layer
        for path, layer in model.named_modules()
        if path.startswith(first) and isinstance(layer, (nn.Linear, nn.Conv2d))
    }
    refused = 0
    for path in layers:
        try:
            made = adapted(copy.deepcopy(model), [path])
        except ModelError:
            refused += 1
            continue
        for name, parameter in made.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, generator=torch.Generator().manual_seed(5))
        expected = outputs(made)
        torch.testing.assert_close(outputs(made.merge_and_unload()), expected, rtol=1e-3, atol=1e-4)
    assert refused == {"s2": 2, "external": 2, "polarized": 1}.get(attn, 0)
    assert refused < len(layers) or attn == "external"


def test_what_replaced_a_convolution_takes_no_adapter():
    how: dict[str, Any] = {"attn_args": {"groups": 1}, "init": "paper"}
    model = attnsurgeon.insert(fresh(), "sk", "block-conv", input_size=(3, 13, 11), **how).model
    with pytest.raises(ValueError, match="instead of Conv2d"):
        adapted(model, ["conv2"])


def test_gates_are_trained_and_saved_whole_beside_adapters(tmp_path):
    model = operated()
    before = outputs(model)
    made = adapted(model, ["conv1"], modules_to_save=["attn", "fc"])
    assert torch.equal(outputs(made), before)
    trained(made)
    names = [n for n, p in made.named_parameters() if p.requires_grad and ".attn." in n]
    assert len(names) == 3
    expected = outputs(made)
    made.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(operated(), tmp_path).eval()
    assert torch.equal(outputs(again), expected)
    merged = again.merge_and_unload()
    assert gates(merged) == gates(operated())
    torch.testing.assert_close(outputs(merged), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("saved", ["attn", "attention"])
def test_attention_that_several_sites_share_is_refused(saved):
    model = operated("dia", attn_args={"reduction": 2})
    made = adapted(model, ["fc"], modules_to_save=[saved])
    with pytest.raises(ModelError, match=r"of a chain .*(copied|replaced)") as caught:
        outputs(made)
    assert "modules_to_save" in str(caught.value)
