"""Gradients of each image for itself, by torch.func, of networks with each mechanism."""

import pytest
import torch
from torch.func import functional_call, grad, vmap

from attnsurgeon.attention.gradients import equal_
from attnsurgeon.attention.registry import mechanisms
from tests.looking.operated import SIZE, operated

QUICK = ("triplet", "sa")  # whose functions keep most to themselves


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in mechanisms()]
)
def test_vmap_gives_each_image_the_gradients_that_it_has_alone(name):
    model = operated(name)
    learned = {key: value for key, value in model.named_parameters() if value.requires_grad}
    images = torch.randn(2, *SIZE, dtype=torch.float64)
    alone = [
        torch.autograd.grad(
            model(image[None]).square().mean(), [*learned.values()], materialize_grads=True
        )
        for image in images
    ]

    def loss(parameters, image):
        return functional_call(model, parameters, (image[None],)).square().mean()

    parameters = {key: value.detach() for key, value in learned.items()}
    found = vmap(grad(loss), in_dims=(None, 0))(parameters, images)
    for i, wanted in enumerate(alone):
        largest = max(value.abs().max().item() for value in wanted)
        for key, value in zip(parameters, wanted, strict=True):
            torch.testing.assert_close(found[key][i], value, rtol=1e-8, atol=1e-12 * largest)


def test_a_comparison_is_of_numbers_under_vmap_too():
    x, y = torch.tensor([[1.0, 2.0], [3.0, 3.0]]), torch.tensor([2.0, 3.0])
    expected = torch.tensor([[0.0, 1.0], [1.0, 1.0]])
    assert torch.equal(vmap(equal_)(x, y), expected)
    assert torch.equal(equal_(x, y[:, None]), expected)
    assert torch.equal(x, expected)  # in its own memory
