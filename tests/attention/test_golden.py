"""Every mechanism against input/output vectors of its authors' own implementation."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from attnsurgeon.attention.registry import create_attention, mechanisms
from tests.attention.arranged import FILL
from tests.attention.cases import make, params
from tests.golden.fill import fill
from tests.golden.make import ORIGINS

FOLDER = Path(__file__).parents[1] / "golden"
INDEX = json.loads((FOLDER / "index.json").read_text())

OURS: dict[str, str] = {"spanet": "spa"}  # what a vector calls otherwise than the catalogue


def mechanism_of(name) -> str:
    attn: str = str(INDEX[name]["config"]["attn"])
    return OURS.get(attn, attn)


# Vectors whose mechanism is not in the catalogue yet. A mechanism that arrives has to leave here.
WAITING: set[str] = set()
KNOWN = [name for name in INDEX if mechanism_of(name) in mechanisms()]
GATES = [name for name in KNOWN if mechanisms()[mechanism_of(name)].kind == "gate"]
SIGHTED = [name for name in GATES if mechanism_of(name) == "attention-gate"]
GATES = [name for name in GATES if name not in SIGHTED]
CONVS = [name for name in KNOWN if mechanisms()[mechanism_of(name)].kind == "conv"]
WEIGHTS = [name for name in KNOWN if mechanisms()[mechanism_of(name)].kind == "weight"]
FUSIONS = [name for name in KNOWN if mechanisms()[mechanism_of(name)].kind == "fusion"]
LINKED = [name for name in KNOWN if mechanisms()[mechanism_of(name)].kind == "linked"]
ACTIVATIONS = [name for name in KNOWN if mechanisms()[mechanism_of(name)].kind == "activation"]
HEADS = [name for name in KNOWN if mechanisms()[mechanism_of(name)].kind == "head"]


def arguments(name):
    """Returns mechanism and arguments; a group count given as a rule of C is worked out."""
    config = dict(INDEX[name]["config"])
    if config.get("groups") == "C//4":
        config["groups"] = config["channels"] // 4
    del config["attn"]
    return mechanism_of(name), config


def cotangent(shape, index=0):
    seed = zlib.crc32(f"cot{index}".encode()) & 0x7FFFFFFF
    return torch.tensor(np.random.RandomState(seed).standard_normal(tuple(shape)).astype("f4"))


def compare(module, vectors):
    """Compares one module of one input and one output with its vectors."""
    x = vectors["input0"].requires_grad_()
    y = module(x)
    y.backward(cotangent(y.shape))
    torch.testing.assert_close(y, vectors["output0"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(x.grad, vectors["grad0"], rtol=1e-4, atol=1e-5)


def test_every_vector_is_compared_or_named_as_waiting():
    assert set(INDEX) - set(KNOWN) == WAITING


@pytest.mark.parametrize("name", GATES + HEADS + ACTIVATIONS)
def test_outputs_and_gradients_are_the_authors(name):
    attn, args = arguments(name)
    module = FILL.get(attn, fill)(make(attn, **args))
    vectors = load_file(FOLDER / f"{name}.safetensors")
    assert list(vectors["input0"].shape) == INDEX[name]["shape"]
    compare(module, vectors)


@pytest.mark.parametrize("name", CONVS)
def test_replaced_convolutions_are_the_authors(name):
    attn, args = arguments(name)
    channels = args.pop("channels")
    conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
    module = fill(create_attention(attn, conv=conv, **args))
    assert params(module) == mechanisms()[attn].params(conv, **args) == INDEX[name]["params"]
    compare(module, load_file(FOLDER / f"{name}.safetensors"))


@pytest.mark.parametrize("name", WEIGHTS)
def test_convolutions_with_a_weight_an_image_are_the_authors(name):
    attn, args = arguments(name)
    channels = args.pop("channels")
    conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
    module = FILL.get(attn, fill)(create_attention(attn, conv=conv, **args))
    added = mechanisms()[attn].params(conv, **args)
    assert params(module) == params(conv) + added == INDEX[name]["params"]
    compare(module, load_file(FOLDER / f"{name}.safetensors"))


@pytest.mark.parametrize("name", FUSIONS + SIGHTED)
def test_mechanisms_of_two_values_and_their_gradients_are_the_authors(name):
    attn, args = arguments(name)
    vectors = load_file(FOLDER / f"{name}.safetensors")
    assert list(vectors["input0"].shape) == INDEX[name]["shape"]
    first, second = (vectors[f"input{i}"].requires_grad_() for i in range(2))
    y = fill(make(attn, **args))(first, second)
    y.backward(cotangent(y.shape))
    torch.testing.assert_close(y, vectors["output0"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(first.grad, vectors["grad0"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(second.grad, vectors["grad1"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", LINKED)
def test_places_of_a_chain_are_the_authors_one_after_the_other(name):
    attn, args = arguments(name)
    vectors = load_file(FOLDER / f"{name}.safetensors")
    module = fill(make(attn, **args))
    inputs = [vectors[f"input{i}"].requires_grad_() for i in range(2)]
    outputs = [module(x) for x in inputs]
    sum((y * cotangent(y.shape, i)).sum() for i, y in enumerate(outputs)).backward()
    for i, (x, y) in enumerate(zip(inputs, outputs, strict=True)):
        torch.testing.assert_close(y, vectors[f"output{i}"], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(x.grad, vectors[f"grad{i}"], rtol=1e-4, atol=1e-5)
    module.reset()
    with pytest.raises(AssertionError, match="not close"):  # the second place is not the first
        torch.testing.assert_close(module(inputs[1]), vectors["output1"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", GATES + SIGHTED + FUSIONS + LINKED + HEADS + ACTIVATIONS)
def test_the_parameters_are_as_many_as_the_authors(name):
    attn, args = arguments(name)
    assert params(make(attn, **args)) == INDEX[name]["params"]
    assert mechanisms()[attn].params(**args) == INDEX[name]["params"]


def test_the_index_says_of_a_vector_what_the_script_makes_it_from():
    for name, origin in ORIGINS.items():
        entry = INDEX[name]
        assert (entry["source"], entry["config"]) == (origin.source, origin.config)
        assert entry["shape"] == list(origin.shape)


def test_the_comparison_can_fail():
    vectors = load_file(FOLDER / "se.safetensors")
    with pytest.raises(AssertionError, match="not close"):
        compare(fill(make("se", 64, reduction=8)), vectors)
