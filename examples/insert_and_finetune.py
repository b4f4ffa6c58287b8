"""Put attention into a trained network, keep its accuracy, then train the attention alone.

A small ResNet learns scikit-learn's bundled digits; ECA goes in with bit-equal outputs; then only
the new parameters learn, and the backbone stays what it was to the bit.
"""

import timm
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import attnsurgeon


def digits() -> tuple[Tensor, Tensor]:
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
    return nn.functional.interpolate(images, size=(32, 32)), torch.tensor(data.target)


def train(model: nn.Module, optimiser: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    model.train()
    for batch in torch.randperm(len(x)).split(64):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
        optimiser.step()


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    return float((model.eval()(x).argmax(1) == y).float().mean())


def main() -> None:
    torch.manual_seed(0)
    x, y = digits()
    train_x, train_y, test_x, test_y = x[:1200], y[:1200], x[1200:], y[1200:]

    model = timm.create_model("test_resnet", in_chans=1, num_classes=10)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(4):
        train(model, optimiser, train_x, train_y)
    before = accuracy(model, test_x, test_y)

    operation = attnsurgeon.insert(model, "se", "residual-branch", input_size=(1, 32, 32))
    operated = operation.model
    with torch.no_grad():
        assert torch.equal(operated.eval()(test_x), model.eval()(test_x))
    print(
        f"accuracy {before:.3f}, and the same logits to the bit with {len(operation.plan)} SE gates"
    )

    attnsurgeon.freeze_backbone(operated)
    optimiser = torch.optim.AdamW(attnsurgeon.param_groups(operated, lr=1e-3))
    for _ in range(2):
        train(operated, optimiser, train_x, train_y)
    after = accuracy(operated, test_x, test_y)
    kept = model.state_dict()
    assert all(
        torch.equal(value, kept[key]) for key, value in operated.state_dict().items() if key in kept
    )
    assert after >= before - 0.02, (before, after)
    print(
        f"accuracy {after:.3f} after two epochs of the attention alone; the backbone is unchanged"
    )


if __name__ == "__main__":
    main()
