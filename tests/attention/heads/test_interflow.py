"""Interflow against its equation by plain loops, its two modes, and its start."""

import pytest
import torch

from attnsurgeon.attention.registry import lookup
from attnsurgeon.errors import MechanismError
from tests.attention.cases import make, params, stir
from tests.attention.loops import linear, means

STAGES = (5, 7, 11)
SIZES = [(8, 6), (4, 3), (1, 1)]
MODES = ("soft", "hard")


def interflow(**args):
    return make("interflow", 13, classes=4, stages=STAGES, **args)


def votes(batch=2, **kwargs):
    """Returns the network's own scores and the maps of the earlier stages."""
    maps = [torch.randn(batch, c, *s, **kwargs) for c, s in zip(STAGES, SIZES, strict=True)]
    return [torch.randn(batch, 4, **kwargs), *maps]


@pytest.mark.parametrize("mode", MODES)
def test_the_votes_of_all_stages_are_weighed(mode):
    module = stir(interflow(mode=mode, weights=(0.1, -0.2, 0.3, 0.7)).double())
    logits, *maps = votes(dtype=torch.float64)
    expected = torch.zeros(2, 4, dtype=torch.float64)
    for n in range(2):
        cast = [
            linear(layer, means(x[n])) for layer, x in zip(module.classifiers, maps, strict=True)
        ]
        cast.append(logits[n].tolist())
        for weight, vote in zip(module.weights.tolist(), cast, strict=True):
            for c in range(4):
                expected[n, c] += weight * vote[c]
    torch.testing.assert_close(module(logits, *maps), expected, rtol=0, atol=1e-12)


def test_maps_of_clips_are_averaged_over_time_too():
    flat, deep = interflow(), interflow(rank=3)
    deep.load_state_dict(flat.state_dict())
    logits, *maps = votes()
    clips = [x[:, :, None].expand(-1, -1, 3, -1, -1) for x in maps]
    torch.testing.assert_close(deep(logits, *clips), flat(logits, *maps))


def test_parameters_for_a_resnet50():
    args = {"classes": 1000, "stages": (256, 512, 1024)}
    assert lookup("interflow").params(2048, **args) == 257_000 + 513_000 + 1_025_000 + 4
    assert lookup("interflow").params(2048, mode="hard", **args) == 1_795_000
    assert params(interflow()) == (6 + 8 + 12) * 4 + 4
    assert params(interflow(mode="hard")) == (6 + 8 + 12) * 4


def test_soft_weights_learn_and_hard_ones_are_fixed():
    assert interflow().weights.requires_grad
    hard = interflow(mode="hard")
    assert torch.equal(hard.weights, torch.full((4,), 0.25))
    assert "weights" not in dict(hard.named_parameters())
    assert "weights" in hard.state_dict()


@pytest.mark.parametrize("mode", MODES)
def test_weights_may_be_given(mode):
    module = interflow(mode=mode, weights=[1, 2, 3, 4])
    assert torch.equal(module.weights, torch.tensor([1.0, 2.0, 3.0, 4.0]))


def test_soft_weights_start_like_those_of_a_convolution():
    drawn = torch.cat([interflow().weights.detach() for _ in range(200)])
    assert drawn.abs().max() <= 0.5  # 1 / sqrt(n)
    assert drawn.std().item() == pytest.approx(1 / 12**0.5, rel=0.1)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_the_identity_start_is_the_networks_own_vote(mode, dtype):
    module = interflow(mode=mode, weights=(0.2, 0.3, 0.4, 0.1), init="identity")
    assert module.weights[-1] == 1
    logits, *maps = votes(dtype=dtype)
    for scale in (1e-4, 1, 1e3):
        assert torch.equal(module.to(dtype)(scale * logits, *maps), scale * logits)
    with torch.autocast("cpu", torch.bfloat16):
        y = module.float()(logits, *(x.float() for x in maps))
    assert y.dtype == dtype
    assert torch.equal(y, logits)


def test_at_the_identity_start_soft_weights_are_one_hot_and_hard_ones_stay():
    assert interflow(init="identity").weights.tolist() == [0, 0, 0, 1]
    hard = interflow(mode="hard", weights=(0.5, 0.25, 2.0, 4.0), init="identity")
    assert hard.weights.tolist() == [0.5, 0.25, 2.0, 1]
    assert not any(p.any() for p in hard.classifiers.parameters())


def test_a_plan_gives_classes_and_stages():
    card = lookup("interflow")
    args = card.args_at((7, 7), {"mode": "hard"}, classes=10, stages=(3, 5))
    assert args == {"classes": 10, "stages": (3, 5), "mode": "hard"}
    assert card.inputs({}) == ("logits", "stages")


def test_symbolic_tracing_keeps_every_map():
    module = interflow()
    traced = torch.fx.symbolic_trace(module)
    given = votes()
    torch.testing.assert_close(traced(*given), module(*given), rtol=0, atol=0)


@pytest.mark.parametrize("given", [0, 2, 4])
def test_another_number_of_maps_is_refused(given):
    logits, *maps = votes()
    with pytest.raises(MechanismError, match=f"there are {given} maps for the classifiers of 3"):
        interflow()(logits, *[*maps, maps[-1]][:given])


def test_another_number_of_weights_is_refused():
    with pytest.raises(MechanismError, match=r"weights=\(1.0, 2.0\) are not those of 4 votes"):
        interflow(weights=(1.0, 2.0))


@pytest.mark.parametrize("missing", ["stages", "classes"])
def test_what_is_missing_is_named(missing):
    args = {"classes": 4, "stages": STAGES}
    del args[missing]
    with pytest.raises(MechanismError, match=f"interflow: {missing} is missing"):
        make("interflow", 13, **args)


def test_it_says_its_mode():
    assert "mode=hard" in repr(interflow(mode="hard"))
