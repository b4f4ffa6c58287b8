"""The whole loop: load, look, insert, train, look again, switch off, save, share, take out.

A small network learns scikit-learn's handwritten digits, is operated without losing what it has
learned, trains on with its attention, and goes through every station that a network of yours would.
"""

import tempfile
from pathlib import Path

import timm
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import attnsurgeon

CLASSES = 10


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """1,797 digits of 8 x 8, as images of 3 x 32 x 32: to learn from, and to be asked about."""
    read = load_digits()
    images = torch.tensor(read.images, dtype=torch.float32).div(16)[:, None].expand(-1, 3, -1, -1)
    images = F.interpolate(images, size=(32, 32), mode="bilinear")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    images, labels = images[order], torch.tensor(read.target)[order]
    return images[:1400], labels[:1400], images[1400:], labels[1400:]


def train(model: nn.Module, optimizer: torch.optim.Optimizer, epochs: int) -> None:
    model.train()
    for _ in range(epochs):
        for x, y in zip(images.split(100), labels.split(100), strict=True):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()


@torch.no_grad()
def accuracy(model: nn.Module) -> float:
    return (model.eval()(asked).argmax(1) == answers).float().mean().item()


torch.manual_seed(0)
images, labels, asked, answers = digits()

with tempfile.TemporaryDirectory() as name:
    here = Path(name)

    # A network that somebody has trained, and its checkpoint.
    trained = timm.create_model("test_resnet", num_classes=CLASSES)
    train(trained, torch.optim.AdamW(trained.parameters(), lr=3e-3), epochs=3)
    torch.save({"epoch": 3, "state_dict": trained.state_dict()}, here / "digits.pth")

    # Load it, look, and ask for the price before anything is cut.
    model = attnsurgeon.load_model(
        "test_resnet", checkpoint=here / "digits.pth", num_classes=CLASSES
    )
    sites = attnsurgeon.find_sites(model, input_size=(3, 32, 32))
    print(sites.where(site="residual-branch"))
    price = attnsurgeon.estimate(model, "eca", "residual-branch", input_size=(3, 32, 32))
    assert price.delta.params < 100

    # Insert. It answers as before, to the bit, and all that was promised is checked.
    operation = attnsurgeon.insert(model, "eca", "residual-branch", input_size=(3, 32, 32))
    assert torch.equal(operation.model.eval()(asked), model.eval()(asked))
    assert operation.verify().ok
    operation.save(here / "digits-eca")

    # Train: what is new first, then all of it, and keep what a trainer keeps.
    model = attnsurgeon.load(here / "digits-eca")
    attnsurgeon.freeze_backbone(model)
    train(model, torch.optim.AdamW(attnsurgeon.param_groups(model, lr=1e-2)), epochs=1)
    attnsurgeon.unfreeze(model)
    train(model, torch.optim.AdamW(attnsurgeon.param_groups(model, lr=1e-3)), epochs=1)
    torch.save({"epoch": 2, "model": model.state_dict()}, here / "last.pth")

    # Look again: the gates have moved, and every one of them runs.
    status = attnsurgeon.status(model, input_size=(3, 32, 32))
    print(status)
    assert all(site.runs == 1 for site in status.sites)

    # Switch off what stands in the last stage, for as long as a question takes.
    whole = accuracy(model)
    with attnsurgeon.disabled(model, "layer4"):
        without = accuracy(model)
    print(f"{whole:.3f} of the digits are read right, {without:.3f} without the last stage's gates")
    assert accuracy(model) == whole > 0.9

    # The trained weights go into a copy of the folder, which is saved again, complete.
    again = attnsurgeon.load(here / "digits-eca", checkpoint=here / "last.pth")
    attnsurgeon.save(again, here / "digits-trained")
    again = attnsurgeon.load(here / "digits-trained")
    assert torch.equal(again.eval()(asked), model.eval()(asked))

    # A second operation, and out with the first one.
    both = attnsurgeon.insert(again, "se", stage=-1, input_size=(3, 32, 32)).model
    attnsurgeon.remove(both, [site.module_path for site in status.sites])
    assert {site.attn for site in attnsurgeon.status(both, run=False).sites} == {"se"}

    # All of it out: the keys are those of the network that was loaded, in their order.
    attnsurgeon.remove(both)
    assert list(both.state_dict()) == list(trained.state_dict())
