"""BA2M against its equations by plain loops, and what it does to a batch in each mode."""

import math

import pytest
import torch

from attnsurgeon.attention.gates.ba2m import top_attended
from attnsurgeon.attention.registry import lookup
from attnsurgeon.errors import MechanismError
from tests.attention.cases import FORMATS, IDENTITY_IN_EVAL, gradients, make, params, stir
from tests.attention.gates.sites import RESNET50, RESNET50_BRANCHES
from tests.attention.loops import linear, means, relu


def over_batch(norm, samples):
    """Returns the batch norm, in training mode, of lists of values a channel, one a sample."""
    found = [[[0.0] * len(channel) for channel in sample] for sample in samples]
    for c in range(len(samples[0])):
        values = [v for sample in samples for v in sample[c]]
        mean = sum(values) / len(values)
        variance = sum((v - mean) ** 2 for v in values) / len(values)
        for n, sample in enumerate(samples):
            for p, v in enumerate(sample[c]):
                scaled = (v - mean) / (variance + norm.eps) ** 0.5
                found[n][c][p] = scaled * norm.weight[c].item() + norm.bias[c].item()
    return found


def local_map(score, image):
    """Returns the values before the norm of the local map of (C, H, W), position by position."""
    _, height, width = image.shape
    thin = {
        (h, w): relu(linear(score.reduce, image[:, h, w].tolist()))
        for h in range(height)
        for w in range(width)
    }
    kernels, biases = score.near.weight.tolist(), score.near.bias.tolist()
    found = []
    for h, w in thin:
        near = []
        for kernel, bias in zip(kernels, biases, strict=True):
            total = bias
            for i in range(3):
                for j in range(3):
                    for c, value in enumerate(thin.get((h + i - 1, w + j - 1), [])):
                        total += kernel[c][i][j] * value
            near.append(total)
        found += linear(score.point, relu(near))
    return found


def global_map(score, image):
    """Returns all values of the global map of (C, H, W)."""
    places = image.flatten(1).T.tolist()
    f, g, h = (
        [linear(layer, z) for z in places] for layer in (score.query, score.key, score.value)
    )
    found = []
    for query in f:
        logits = [sum(a * b for a, b in zip(query, key, strict=True)) for key in g]
        parts = [math.exp(logit) for logit in logits]
        for channel in range(len(h[0])):
            found.append(sum(p * v[channel] for p, v in zip(parts, h, strict=True)) / sum(parts))
    return found


def weights(score, x):
    """Returns each sample's weight, by loops."""
    hidden = [relu(linear(score.fc1, means(image))) for image in x]
    channel = over_batch(score.channel_norm, [[[v] for v in linear(score.fc2, z)] for z in hidden])
    local = over_batch(score.local_norm, [[local_map(score, image)] for image in x])
    a = []
    for n, image in enumerate(x):
        maxima = max(v for [v] in channel[n]), max(local[n][0]), max(global_map(score, image))
        a.append(sum(maxima) / 3)
    parts = [math.exp(v) for v in a]
    return [len(x) * part / sum(parts) for part in parts]


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("size", [(4, 3), (1, 1)])
def test_samples_of_a_training_batch_are_weighed_against_each_other(size, last):
    ba2m = stir(make("ba2m", 6, reduction=2).double().train())
    x = torch.randn(3, 6, *size, dtype=torch.float64)
    expected = torch.stack([w * v for w, v in zip(weights(ba2m.score, x), x, strict=True)])
    x = x.contiguous(memory_format=FORMATS[2]) if last else x
    torch.testing.assert_close(ba2m(x), expected, rtol=0, atol=1e-12)


def test_the_weights_are_1_on_the_average_and_differ():
    ba2m = stir(make("ba2m", 32).double().train())
    x = torch.randn(5, 32, 7, 5, dtype=torch.float64)
    share = (ba2m(x) / x).flatten(1)
    torch.testing.assert_close(share, share[:, :1].expand_as(share))
    assert share[:, 0].mean().item() == pytest.approx(1, abs=1e-12)
    assert share[:, 0].std() > 1e-3


@pytest.mark.parametrize("init", ["paper", "identity"])
def test_evaluation_depends_on_no_batch_and_training_does(init):
    ba2m, x = stir(make("ba2m", 32, init=init)), torch.randn(4, 32, 7, 5)
    alone = torch.cat([ba2m.eval()(image) for image in x.split(1)])
    assert torch.equal(alone, x)
    assert torch.equal(ba2m(x), x)
    first, second = (ba2m.train()(batch) for batch in (x, torch.cat((x[:1], x[2:], x[:1]))))
    assert not torch.allclose(first[0], second[0], atol=1e-3)


def test_those_that_rest_in_evaluation_are_known_to_the_contract():
    assert lookup("ba2m").name in IDENTITY_IN_EVAL
    assert any("in evaluation every weight is 1" in text for text in lookup("ba2m").deviations)


@pytest.mark.parametrize("batch", [1, 2, 3, 49, 107])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_equal_scores_weigh_exactly_1_in_a_batch_of_any_size(batch, dtype):
    ba2m, x = make("ba2m", 16, init="identity").to(dtype), torch.randn(batch, 16, 3, 2, dtype=dtype)
    assert torch.equal(ba2m.train()(x), x)


def test_a_single_image_is_trained_on_as_it_is():
    ba2m, x = stir(make("ba2m", 16)), torch.randn(1, 16, 5, 3)
    assert torch.equal(ba2m.train()(x), x)


def test_logits_are_features_of_one_position():
    ba2m, logits = stir(make("ba2m", 1000)), torch.randn(4, 1000, 1, 1)
    y = ba2m.train()(logits)
    assert y.shape == logits.shape
    assert not torch.allclose(y, logits, atol=1e-3)


def test_the_scores_learn_while_training_and_rest_in_evaluation():
    ba2m, x = stir(make("ba2m", 16, reduction=2)), torch.randn(4, 16, 5, 3)
    trained, resting = (gradients(ba2m.train(mode), x)[1][1:] for mode in (True, False))
    names = [name for name, _ in ba2m.named_parameters()]
    for name, grad in zip(names, trained, strict=True):
        assert (grad.abs().max() > 1e-6) == (name not in lookup("ba2m").inert), name
    assert not any(grad.any() for grad in resting)


def by_definition(f, g, h):
    """Returns the largest value of the global map from all of it."""
    q, k, v = (z.flatten(2).mT for z in (f, g, h))
    return ((q @ k.mT).softmax(2) @ v).flatten(1).amax(1)


@pytest.mark.parametrize("size", [(5, 4), (1, 1), (2, 3, 4)])
def test_the_largest_value_of_the_global_map_has_the_gradients_of_the_whole_map(size):
    maps = torch.randn(3, 4, 6, *size, dtype=torch.float64).requires_grad_()
    ours, theirs = top_attended(*maps), by_definition(*maps)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    weights = torch.tensor([1.0, -2, 3, 5], dtype=torch.float64)
    ours, theirs = (torch.autograd.grad(z @ weights, maps)[0] for z in (ours, theirs))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_nothing_is_kept_of_the_scores_of_all_positions():
    kept, ba2m = [], make("ba2m", 32)
    x = torch.randn(1, 32, 24, 20, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()), lambda t: t):
        ba2m(x)
    assert max(kept) <= x.numel()
    assert x.numel() < (24 * 20) ** 2


def test_large_scores_stay_finite():
    ba2m = make("ba2m", 16).half().train()
    torch.nn.init.constant_(ba2m.score.channel_norm.weight, 3e4)
    y = ba2m(torch.randn(4, 16, 5, 3).half())
    assert y.isfinite().all()


@pytest.mark.parametrize(("rank", "expected"), [(2, 1_826), (3, 1_826 + 18 * 4**2)])
def test_parameters_of_one_site(rank, expected):
    assert lookup("ba2m").params(64, rank=rank) == expected
    assert params(make("ba2m", 64, rank=rank)) == expected


def test_total_of_a_resnet50_by_its_layers():
    added = 0
    for c in RESNET50_BRANCHES:
        m = c // 16
        channel = (c * m + m) + m * c + 2 * c
        local = (c * m + m) + (9 * m * m + m) + m + 2
        added += channel + local + 3 * c * m
    assert RESNET50 + added == RESNET50 + sum(lookup("ba2m").params(c) for c in RESNET50_BRANCHES)
    assert added == 8_286_176


def test_a_reduction_that_leaves_nothing_is_refused():
    with pytest.raises(MechanismError, match="the largest that works here is reduction=8"):
        make("ba2m", 8)
