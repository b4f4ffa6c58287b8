"""Residual and other blocks between a stem and a classifier."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

C = 5


def conv_bn(inside: int, outside: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(inside, outside, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outside))


class Net(nn.Module):
    """A stem, the given blocks, and a classifier; the part that all small networks share."""

    def __init__(self, *blocks: nn.Module, width: int = C) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, C, 3, padding=1)
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(width, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.blocks(self.stem(x)).mean((2, 3)))


class Plain(nn.Module):
    """conv-norm-relu-conv-norm, plus the input, and a functional relu."""

    def __init__(self, width: int = C, out: int | None = None, stride: int = 1) -> None:
        super().__init__()
        out = out or width
        self.conv1 = nn.Conv2d(width, 7, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(7)
        self.conv2 = nn.Conv2d(7, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        changed = stride != 1 or out != width
        self.down = conv_bn(width, out, 1, stride) if changed else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.down(x))


class InPlace(Plain):
    """`out += shortcut` and an in-place activation."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += x
        return self.relu(out)


class Dropped(InPlace):
    """In-place methods whose results are thrown away: only the changed tensor is used."""

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn1(self.conv1(x))
        self.relu(out)
        out = self.bn2(self.conv2(out))
        out.add_(x)
        out.relu_()
        return out


class PreActivated(nn.Module):
    """norm-relu-conv twice, then the sum with nothing after it."""

    def __init__(self) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(C), nn.Conv2d(C, 7, 3, padding=1)
        self.bn2, self.conv2 = nn.BatchNorm2d(7), nn.Conv2d(7, C, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(F.relu(self.bn1(x)))
        return self.conv2(F.relu(self.bn2(out))) + x


class SharedRelu(nn.Module):
    """A bottleneck whose one ReLU module runs three times."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(C, 2, 1, bias=False), nn.BatchNorm2d(2)
        self.conv2, self.bn2 = nn.Conv2d(2, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3)
        self.conv3, self.bn3 = nn.Conv2d(3, C, 1, bias=False), nn.BatchNorm2d(C)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return self.relu(out + x)


class MaybeShortcut(Plain):
    """An optional argument that is left at None."""

    def forward(self, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + (x if shortcut is None else shortcut))


class Variadic(Plain):
    """`forward(*args, **kwargs)`, as decorated layers have it."""

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Tensor:
        return super().forward(*args, **kwargs)


class ListOfChunks(nn.Module):
    """YOLO's C2f: list() of a chunked tensor grows by one block after another."""

    def __init__(self) -> None:
        super().__init__()
        self.cv1, self.m = nn.Conv2d(C, 14, 1), nn.ModuleList([Plain(7), Plain(7)])
        self.cv2 = nn.Conv2d(28, C, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.cv1(x).chunk(2, 1))
        parts.extend(m(parts[-1]) for m in self.m)
        return self.cv2(torch.cat(parts, 1))


class FunctionalDropout(Plain):
    """`F.dropout(training=self.training)`: two graphs, one for each mode."""

    def forward(self, x: Tensor) -> Tensor:
        out = F.dropout(F.relu(self.bn1(self.conv1(x))), 0.3, training=self.training)
        return F.relu(self.bn2(self.conv2(out)) + x)


class NoiseInTraining(Plain):
    """In training, an addition of noise comes before the residual addition."""

    def forward(self, x: Tensor) -> Tensor:
        start = x
        if self.training:
            start = x + torch.randn_like(x)
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(start)))))
        return F.relu(out + x)


class DropPath(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        return x * x.new_empty(x.shape[0], 1, 1, 1).bernoulli_(0.6) / 0.6


class ScaledAndDropped(Plain):
    """A learned scale and drop-path stand between the branch and the addition."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((C, 1, 1), 0.1))
        self.drop_path = DropPath()

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return x + self.drop_path(out * self.gamma)


class DictItems(nn.ModuleDict):
    """DenseNet's block: a ModuleDict that walks over its own items."""

    def __init__(self) -> None:
        super().__init__({f"layer{i}": conv_bn(C + 2 * i, 2) for i in range(3)})

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        parts = [x]
        for _, layer in self.items():
            parts.append(F.relu(layer(torch.cat(parts, 1))))
        return torch.cat(parts, 1)


class Excite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(C, 2, 1), nn.Conv2d(2, C, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.expand(F.relu(self.reduce(x.mean((2, 3), keepdim=True))))
        return x * gate.sigmoid()


class Excited(Plain):
    """Squeeze-and-excite is there already, and its last product ends the branch."""

    def __init__(self) -> None:
        super().__init__()
        self.se = Excite()

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(self.se(out) + x)


class HasAttn(Plain):
    """A child called `attn` is there already, and a class attribute `attn_1`."""

    attn_1 = "taken"

    def __init__(self) -> None:
        super().__init__()
        self.attn = Excite()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.attn(x))


class Buffered(Plain):
    """A registered buffer shifts the input; a plain tensor attribute scales the branch."""

    offset: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("offset", torch.linspace(0, 1, C).view(C, 1, 1))
        self.table = torch.linspace(1, 2, C).view(C, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x + self.offset)))))
        return F.relu(out * self.table + x)


class Assigning(Plain):
    """Assigns to a slice of a value."""

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        out[:, 0] = 0
        return F.relu(out + x)


class Shuffled(nn.Module):
    """Half of the channels pass a branch; then the channels are shuffled (ShuffleNet)."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.branch, self.last = conv_bn(C, 6, 1), conv_bn(3, 3), conv_bn(6, C, 1)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.wide(x).chunk(2, 1)
        out = torch.cat([left, F.relu(self.branch(right))], 1)
        n, c, h, w = out.shape
        out = out.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.last(out)


class ChannelsLast(nn.Module):
    """ConvNeXt's block: the branch is (N, H, W, C) inside, the addition is (N, C, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(C, C, 3, padding=1, groups=C)
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(C), nn.Linear(C, 17), nn.Linear(17, C)

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm(self.conv(x).permute(0, 2, 3, 1))
        out = self.fc2(F.gelu(self.fc1(out)))
        return x + out.permute(0, 3, 1, 2)


class Scaled(Plain):
    """The branch is scaled by a constant before it is added (Inception-ResNet, ESRGAN)."""

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return out * 0.2 + x


class Hooked(Plain):
    """Carries hooks of its own, one of which changes what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.conv2.register_forward_hook(shifted)
        self.bn1.register_forward_pre_hook(halved)


def shifted(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return output + 1


def halved(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (args[0] / 2,)
