"""Whole networks of unusual shape."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.nets.blocks import C, Plain, conv_bn


class Twice(nn.Module):
    """One block object that runs twice in a row."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.fc = nn.Conv2d(3, C, 3), Plain(), nn.Linear(C, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.block(self.block(self.stem(x))).mean((2, 3)))


class TwoNames(nn.Module):
    """One block is registered under two names and runs under both."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.fc = nn.Conv2d(3, C, 3), Plain(), nn.Linear(C, 7)
        self.second = self.first

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.second(self.first(self.stem(x))).mean((2, 3)))


class TwoResolutions(nn.Module):
    """One block object that sees two resolutions, as detection heads do."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.lower = nn.Conv2d(3, C, 3), nn.Conv2d(C, C, 3, stride=2)
        self.head = Plain()

    def forward(self, x: Tensor) -> list[Tensor]:
        high = self.stem(x)
        return [self.head(high), self.head(self.lower(high))]


class Containers(nn.Module):
    """Dicts and lists in, tuples out, between the blocks of one network."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.fc = nn.Conv2d(3, C, 3), DictBlock(), nn.Linear(C, 7)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        made = self.block({"x": self.stem(x), "scales": [torch.ones(1, device=x.device)]})
        return {"logits": self.fc(made[0].mean((2, 3))), "map": made[1]}


class DictBlock(Plain):
    def forward(self, given: dict) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        x, (scale,) = given["x"], given["scales"]
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x * scale)))))
        return F.relu(out + x), out


class Checkpointed(nn.Module):
    """Runs its block under torch.utils.checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Plain()

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.block, x, use_reentrant=False)  # type: ignore[return-value]


class Volume(nn.Module):
    """Three spatial axes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv3d(3, C, 3, padding=1), nn.Conv3d(C, C, 3, padding=1)
        self.bn, self.fc = nn.BatchNorm3d(C), nn.Linear(C, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.fc((x + F.relu(self.bn(self.conv(x)))).mean((2, 3, 4)))


class Line(nn.Module):
    """One spatial axis."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv1d(3, C, 3, padding=1), nn.Conv1d(C, C, 3, padding=1)
        self.bn, self.fc = nn.BatchNorm1d(C), nn.Linear(C, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.fc((x + F.relu(self.bn(self.conv(x)))).mean(2))


class AdditiveUNet(nn.Module):
    """Down twice and up twice; the skips are added, and are no residual additions."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.middle = conv_bn(3, C), Plain()
        self.down1, self.down2 = conv_bn(C, C, 3, 2), conv_bn(C, C, 3, 2)
        self.out1, self.out2 = conv_bn(C, C), conv_bn(C, 2)

    def forward(self, x: Tensor) -> Tensor:
        one = F.relu(self.enter(x))
        two = F.relu(self.down1(one))
        three = self.middle(F.relu(self.down2(two)))
        up = F.relu(self.out1(F.interpolate(three, size=two.shape[2:]) + two))
        return self.out2(F.interpolate(up, size=one.shape[2:]) + one)


class TopDown(nn.Module):
    """A feature pyramid: lateral convolutions and upsampled sums, out as a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = conv_bn(3, C), Plain(C, 11, 2), Plain(11, 13, 2)
        self.lateral1, self.lateral2 = nn.Conv2d(11, C, 1), nn.Conv2d(13, C, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        one = self.one(self.stem(x))
        low = self.lateral2(self.two(one))
        return {"p2": low, "p1": self.lateral1(one) + F.interpolate(low, size=one.shape[2:])}


class Alone(nn.Module):
    """Everything stands in the forward of the network itself."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv1, self.conv2 = (
            nn.Conv2d(3, C, 3, padding=1), nn.Conv2d(C, 7, 3, padding=1), nn.Conv2d(7, C, 1),
        )  # fmt: skip
        self.norm, self.fc = nn.BatchNorm2d(C), nn.Linear(C, 11)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.relu(x + self.norm(self.conv2(F.relu(self.conv1(x)))))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


class FeaturesAndHead(Alone):
    """forward() in two public methods, which others call one by one."""

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return F.relu(x + self.norm(self.conv2(F.relu(self.conv1(x)))))

    def forward_head(self, x: Tensor) -> Tensor:
        return self.fc(x.mean((2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


class Listed(nn.Module):
    """Its block hangs in a plain Python list, where nothing can find it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fc = nn.Conv2d(3, C, 3), nn.Linear(C, 7)
        self.hidden = [Plain()]

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.hidden:
            x = block(x)
        return self.fc(x.mean((2, 3)))


class Wrapped(nn.Module):
    """Hands unknown attributes on to the network inside."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def __getattr__(self, name: str):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("module"), name)

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)


class KeywordOnly(Plain):
    """Arguments in an order that generated code cannot write down."""

    def forward(self, x: Tensor | None = None, *, sign: float) -> Tensor:  # type: ignore[override]
        assert x is not None
        return super().forward(x * sign)


class Signed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.fc = nn.Conv2d(3, C, 3), KeywordOnly(), nn.Linear(C, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.block(self.stem(x), sign=-1.0).mean((2, 3)))


class ToHeight(Plain):
    """Takes a size as an int, behind a variadic signature."""

    def forward(self, *args) -> Tensor:  # type: ignore[override]
        x, height = args
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + x).narrow(2, 0, height - 2)


class Resized(nn.Module):
    """Tells its block a size that changes with the input."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.fc = nn.Conv2d(3, C, 3, padding=1), ToHeight(), nn.Linear(C, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.block(self.stem(x), x.shape[2]).mean((2, 3)))


class ReluFirst(Plain):
    """Changes its argument in place, and the caller goes on with it."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv2(F.relu(self.bn1(self.conv1(self.relu(x))))))


class Borrowed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.fc = nn.Conv2d(3, C, 3), ReluFirst(), nn.Linear(C, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.fc((self.block(x) + x).mean((2, 3)))


class Detector(nn.Module):
    """Goes down, up again and down a second time; returns a list of boxes beside its maps.

    Its one activation stands in every unit.
    """

    class Unit(nn.Module):
        one = nn.SiLU()

        def __init__(self, ins: int, outs: int, stride: int = 1) -> None:
            super().__init__()
            self.conv = nn.Conv2d(ins, outs, 3, stride, 1)
            self.act = self.one

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.conv(x))

    def __init__(self) -> None:
        super().__init__()
        unit = Detector.Unit
        self.down1, self.down2, self.down3 = unit(3, 4, 2), unit(4, 6, 2), unit(6, 8, 2)
        self.up = nn.Upsample(scale_factor=2)
        self.mixed, self.again = unit(14, 6), unit(6, 8, 2)
        self.boxes = nn.ModuleList([nn.Conv2d(6, 16, 1), nn.Conv2d(8, 16, 1)])
        self.weigh = nn.Conv2d(4, 1, 1)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        if isinstance(x, dict):  # a batch with labels, in training
            return self.forward(x["image"])["boxes"].mean()
        return self.predict(x, *args, **kwargs)

    def predict(self, x: Tensor, embed: bool = False) -> Any:
        low = self.down2(self.down1(x))
        deep = self.down3(low)
        if embed:
            return deep
        mixed = self.mixed(torch.cat([self.up(deep), low], 1))
        maps = [mixed, self.again(mixed)]
        sides = [box(m).flatten(2) for box, m in zip(self.boxes, maps, strict=True)]
        boxes = torch.cat(sides, 2).view(len(x), 4, 4, -1).softmax(1)  # 4 sides x all positions
        return {"maps": maps, "boxes": self.weigh(boxes)}
