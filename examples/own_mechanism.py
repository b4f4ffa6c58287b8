"""Insert attention of your own: a class, as you found or wrote it, from end to end.

Efficient multi-scale attention is in many detectors and not in the catalogue. Nothing has to be
registered: the width comes from the site, what its forward returns says that it is a new map, and
a blend of weight 0 leaves the outputs bit-equal at first.
"""

import tempfile

import timm
import torch
from torch import Tensor, nn

import attnsurgeon


class EMA(nn.Module):
    """Efficient multi-scale attention: Ouyang et al., ICASSP 2023, https://arxiv.org/abs/2305.13563"""

    def __init__(self, channels: int, groups: int = 8) -> None:
        super().__init__()
        width = channels // groups
        self.groups = groups
        self.along = nn.Conv2d(width, width, 1)
        self.near = nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.GroupNorm(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        part = x.reshape(n * self.groups, c // self.groups, h, w)
        means = torch.cat((part.mean(3), part.mean(2)), 2).unsqueeze(3)  # of rows, of columns
        rows, columns = self.along(means).sigmoid().split((h, w), 2)
        crossed, near = self.norm(part * rows * columns.mT), self.near(part)
        gate = projected(crossed, near) + projected(near, crossed)
        return (part * gate.sigmoid()).reshape(x.shape)


def projected(of: Tensor, onto: Tensor) -> Tensor:
    """Weighs the channels of a map by how strong those of another are: one number a position."""
    weights = of.mean((2, 3)).softmax(1)
    return torch.einsum("nc,nchw->nhw", weights, onto).unsqueeze(1)


@torch.no_grad()
def main() -> None:
    model, x = timm.create_model("test_resnet").eval(), torch.rand(2, 3, 160, 160)
    operation = attnsurgeon.insert(model, EMA, "residual-branch", attn_args={"groups": 4})
    assert torch.equal(operation.model.eval()(x), model(x))
    assert operation.verify().ok  # it learns, acts, and copies of the network compute the same

    added, sites = operation.cost.delta, len(operation.plan)
    print(f"{sites} sites, +{added.params:,} parameters, +{added.macs_percent:.1f} % MACs")
    with tempfile.TemporaryDirectory() as folder:
        operation.save(f"{folder}/out")
        loaded = attnsurgeon.load(f"{folder}/out", attn=EMA).eval()  # or trust=True
    assert torch.equal(loaded(x), model(x))
    attnsurgeon.remove(loaded)
    assert list(loaded.state_dict()) == list(model.state_dict())


if __name__ == "__main__":
    main()
