"""Further kinds: restorers, readers of text, matchers, heads that attend, clips and sounds."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.nets.families.parts import Block, Classifier, ResNet, cbr, twice, up


def _stage(inside: int, outside: int, stride: int = 1) -> nn.Module:
    return nn.Sequential(Block(inside, outside, stride), Block(outside, outside))


# Segmentation.


class Ocr(nn.Module):
    """Yuan et al.: regions that a first prediction marks are what every position then asks."""

    def __init__(self) -> None:
        super().__init__()
        self.body = ResNet(1, 2, 1, 1, spread=(1, 1, 2, 4))
        self.pixels, self.soft = cbr(40, 32), nn.Sequential(cbr(40, 40), nn.Conv2d(40, 5, 1))
        self.query, self.key = cbr(32, 16, kernel=1), nn.Linear(32, 16)
        self.join, self.last = cbr(64, 32, kernel=1), nn.Conv2d(32, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)[-1]
        soft, pixels = self.soft(y), self.pixels(y)
        regions = soft.flatten(2).softmax(2) @ pixels.flatten(2).transpose(1, 2)
        asked = self.query(pixels).flatten(2).transpose(1, 2) @ self.key(regions).transpose(1, 2)
        context = (asked.softmax(2) @ regions).transpose(1, 2).view_as(pixels)
        return up(self.last(self.join(torch.cat((context, pixels), 1))), x)


class Dpt(nn.Module):
    """Ranftl et al.: tokens of several depths are laid out at several scales and fused."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 24, 16, 16)
        self.blocks = nn.ModuleList(Mlp(24) for _ in range(3))
        self.wide = nn.ConvTranspose2d(24, 16, 4, 4)
        self.same, self.low = nn.Conv2d(24, 16, 1), nn.Conv2d(24, 16, 3, 2, 1)
        self.fuse = nn.ModuleList(Fusing(16) for _ in range(3))
        self.out = nn.Sequential(cbr(16, 8), nn.Conv2d(8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        t, maps = self.patch(x), []
        side = t.shape[2:]
        t = t.flatten(2).transpose(1, 2)
        for block in self.blocks:
            t = block(t)
            maps.append(t.transpose(1, 2).unflatten(2, side))
        low, same, wide = self.low(maps[2]), self.same(maps[1]), self.wide(maps[0])
        y = self.fuse[0](up(low, same), same)
        y = self.fuse[1](up(y, wide), wide)
        return up(self.out(y), x)


class Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.one = nn.LayerNorm(width), nn.Linear(width, 2 * width)
        self.two = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.two(F.gelu(self.one(self.norm(x))))


class Fusing(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.two = Block(width, width), Block(width, width)

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        return self.two(x + self.one(other))


class FlatAspp(nn.Module):
    """D-LinkNet, ResUNet++: an ASPP between encoder and decoder, no module around either."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = cbr(3, 8, 2)
        self.e1, self.e2, self.e3 = _stage(8, 8), _stage(8, 16, 2), _stage(16, 32, 2)
        self.near = cbr(32, 16, kernel=1)
        self.far = nn.ModuleList(cbr(32, 16, spread=i) for i in (2, 4, 6))
        self.pooled, self.join = cbr(32, 16, kernel=1), cbr(80, 32, kernel=1)
        self.d2, self.d1 = twice(48, 16), twice(24, 8)
        self.score = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.e1(self.stem(x))
        two = self.e2(one)
        y = self.e3(two)
        whole = up(self.pooled(F.adaptive_avg_pool2d(y, 1)), y)
        y = self.join(torch.cat([self.near(y), *(f(y) for f in self.far), whole], 1))
        y = self.d2(torch.cat([up(y, two), two], 1))
        y = self.d1(torch.cat([up(y, one), one], 1))
        return up(self.score(y), x)


class FastScnn(nn.Module):
    """Poudel et al.: a short way of high resolution and a deep one meet once."""

    def __init__(self) -> None:
        super().__init__()
        self.learn = nn.Sequential(cbr(3, 8, 2), cbr(8, 12, 2), cbr(12, 16, 2))
        self.deep = nn.Sequential(_stage(16, 24, 2), _stage(24, 32, 2))
        self.high, self.low = nn.Conv2d(16, 32, 1), nn.Conv2d(32, 32, 1)
        self.classify = nn.Sequential(cbr(32, 32), nn.Conv2d(32, 5, 1))

    def forward(self, x: Tensor) -> Tensor:
        high = self.learn(x)
        y = F.relu(self.high(high) + self.low(up(self.deep(high), high)))
        return up(self.classify(y), x)


class PanopticFpn(nn.Module):
    """Kirillov et al.: each level of a pyramid is raised to a quarter, and all are summed."""

    def __init__(self) -> None:
        super().__init__()
        self.body = ResNet()
        self.lateral = nn.ModuleList(nn.Conv2d(w, 24, 1) for w in (16, 24, 32, 40))
        self.raised = nn.ModuleList(cbr(24, 16) for _ in range(4))
        self.score = nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.body(x)
        y = self.lateral[3](maps[3])
        rows = [y]
        for i in (2, 1, 0):
            y = self.lateral[i](maps[i]) + up(y, maps[i])
            rows.insert(0, y)
        total = self.raised[0](rows[0])
        for i in (1, 2, 3):
            total = total + up(self.raised[i](rows[i]), total)
        return up(self.score(total), x)


# Detection.


class RtDetr(nn.Module):
    """Zhao et al.: attention on the deepest map, a pyramid up and down, queries that ask it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = ResNet()
        self.l3, self.l4, self.l5 = (cbr(w, 24, kernel=1) for w in (24, 32, 40))
        self.attend = nn.MultiheadAttention(24, 2, batch_first=True)
        self.mlp = Mlp(24)
        self.up4, self.up3 = cbr(48, 24), cbr(48, 24)
        self.down4, self.down5 = cbr(24, 24, 2), cbr(24, 24, 2)
        self.pan4, self.pan5 = cbr(48, 24), cbr(48, 24)
        self.queries = nn.Parameter(torch.zeros(1, 6, 24))
        self.ask = nn.MultiheadAttention(24, 2, batch_first=True)
        self.boxes = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        _, c3, c4, c5 = self.body(x)
        c3, c4, c5 = self.l3(c3), self.l4(c4), self.l5(c5)
        t = c5.flatten(2).transpose(1, 2)
        t = self.mlp(t + self.attend(t, t, t)[0])
        c5 = t.transpose(1, 2).unflatten(2, c5.shape[2:])
        p4 = self.up4(torch.cat((up(c5, c4), c4), 1))
        p3 = self.up3(torch.cat((up(p4, c3), c3), 1))
        n4 = self.pan4(torch.cat((self.down4(p3), p4), 1))
        n5 = self.pan5(torch.cat((self.down5(n4), c5), 1))
        rows = torch.cat([m.flatten(2).transpose(1, 2) for m in (p3, n4, n5)], 1)
        queries = self.queries.expand(len(x), -1, -1)
        return self.boxes(self.ask(queries, rows, rows)[0])


class NanoDet(nn.Module):
    """A pyramid that only adds, with a further level, and heads of their own weights."""

    def __init__(self) -> None:
        super().__init__()
        self.body = ResNet()
        self.l3, self.l4, self.l5 = (cbr(w, 16, kernel=1) for w in (24, 32, 40))
        self.heads = nn.ModuleList(
            nn.Sequential(cbr(16, 16), cbr(16, 16), nn.Conv2d(16, 9, 1)) for _ in range(3)
        )

    def forward(self, x: Tensor) -> Tensor:
        _, c3, c4, c5 = self.body(x)
        p3, p4, p5 = self.l3(c3), self.l4(c4), self.l5(c5)
        p4 = p4 + up(p5, p4)
        p3 = p3 + up(p4, p3)
        p4 = p4 + F.interpolate(p3, size=p4.shape[2:], mode="bilinear")
        p5 = p5 + F.interpolate(p4, size=p5.shape[2:], mode="bilinear")
        made = [head(p) for head, p in zip(self.heads, (p3, p4, p5), strict=True)]
        return torch.cat([y.flatten(2) for y in made], 2).transpose(1, 2)


class DbNet(nn.Module):
    """Liao et al., text: levels are laid side by side at a quarter, and two heads rise."""

    def __init__(self) -> None:
        super().__init__()
        self.body = ResNet()
        self.lateral = nn.ModuleList(nn.Conv2d(w, 16, 1) for w in (16, 24, 32, 40))
        self.smooth = nn.ModuleList(cbr(16, 8) for _ in range(4))
        self.shrunk, self.border = self._head(), self._head()

    @staticmethod
    def _head() -> nn.Module:
        raised = nn.Sequential(nn.ConvTranspose2d(8, 8, 2, 2), nn.BatchNorm2d(8), nn.ReLU())
        return nn.Sequential(cbr(32, 8), raised, nn.ConvTranspose2d(8, 1, 2, 2), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        maps = [lateral(y) for lateral, y in zip(self.lateral, self.body(x), strict=True)]
        for i in (2, 1, 0):
            maps[i] = maps[i] + up(maps[i + 1], maps[i])
        y = torch.cat([up(s(m), maps[0]) for s, m in zip(self.smooth, maps, strict=True)], 1)
        return torch.cat((self.shrunk(y), self.border(y)), 1)


class Crnn(nn.Module):
    """Shi et al., text: the later poolings halve the height alone, and columns are a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Sequential(cbr(3, 8), nn.MaxPool2d(2), cbr(8, 16), nn.MaxPool2d(2))
        self.two = nn.Sequential(*twice(16, 24), nn.MaxPool2d((2, 1)))
        self.three = nn.Sequential(*twice(24, 32), nn.MaxPool2d((2, 1)))
        self.last = cbr(32, 40)
        self.rnn, self.fc = nn.LSTM(40, 20, batch_first=True), nn.Linear(20, 11)

    def forward(self, x: Tensor) -> Tensor:
        y = self.last(self.three(self.two(self.one(x)))).mean(2)
        return self.fc(self.rnn(y.transpose(1, 2))[0])


# Restoration.


class NafBlock(nn.Module):
    """Chen et al.: halves are multiplied in place of an activation; two scaled residuals."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(1, width), nn.GroupNorm(1, width)
        self.one, self.deep = (
            nn.Conv2d(width, 2 * width, 1),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=2 * width),
        )
        self.sca, self.two = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)
        self.three, self.four = nn.Conv2d(width, 2 * width, 1), nn.Conv2d(width, width, 1)
        self.beta = nn.Parameter(torch.zeros(1, width, 1, 1))
        self.gamma = nn.Parameter(torch.zeros(1, width, 1, 1))

    @staticmethod
    def gate(x: Tensor) -> Tensor:
        one, two = x.chunk(2, 1)
        return one * two

    def forward(self, x: Tensor) -> Tensor:
        y = self.gate(self.deep(self.one(self.norm1(x))))
        y = x + self.two(y * self.sca(F.adaptive_avg_pool2d(y, 1))) * self.beta
        return y + self.four(self.gate(self.three(self.norm2(y)))) * self.gamma


class NafNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.intro, self.ending = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)
        self.enc1, self.enc2 = NafBlock(8), NafBlock(16)
        self.down1, self.down2 = nn.Conv2d(8, 16, 2, 2), nn.Conv2d(16, 32, 2, 2)
        self.middle = nn.Sequential(NafBlock(32), NafBlock(32))
        self.up2 = nn.Sequential(nn.Conv2d(32, 64, 1, bias=False), nn.PixelShuffle(2))
        self.up1 = nn.Sequential(nn.Conv2d(16, 32, 1, bias=False), nn.PixelShuffle(2))
        self.dec2, self.dec1 = NafBlock(16), NafBlock(8)

    def forward(self, x: Tensor) -> Tensor:
        one = self.enc1(self.intro(x))
        two = self.enc2(self.down1(one))
        y = self.middle(self.down2(two))
        y = self.dec2(self.up2(y) + two)
        y = self.dec1(self.up1(y) + one)
        return self.ending(y) + x


class Edsr(nn.Module):
    """Lim et al.: blocks without norms in one long shortcut, then a shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 8, 3, padding=1)
        self.body = nn.Sequential(*(Scaled(8) for _ in range(3)), nn.Conv2d(8, 8, 3, padding=1))
        shuffle = nn.Sequential(nn.Conv2d(8, 32, 3, padding=1), nn.PixelShuffle(2))
        self.tail = nn.Sequential(shuffle, nn.Conv2d(8, 3, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(x)
        return self.tail(self.body(x) + x)


class Scaled(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.two = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * self.two(F.relu(self.one(x)))


# Several images.


class Pwc(nn.Module):
    """Sun et al., flow: one pyramid for both images; each level matches and hands a flow up."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.c2, self.c3 = (
            nn.Sequential(cbr(i, o, 2), cbr(o, o)) for i, o in ((3, 8), (8, 16), (16, 24))
        )
        self.m3, self.m2 = twice(48, 16), twice(2 * 16 + 2, 16)
        self.f3, self.f2 = (nn.Conv2d(16, 2, 3, padding=1) for _ in range(2))
        self.raise3 = nn.ConvTranspose2d(2, 2, 4, 2, 1)

    def forward(self, one: Tensor, two: Tensor) -> Tensor:
        one2 = self.c2(self.c1(one))
        two2 = self.c2(self.c1(two))
        one3, two3 = self.c3(one2), self.c3(two2)
        flow = self.raise3(self.f3(self.m3(torch.cat((one3, two3), 1))))
        return self.f2(self.m2(torch.cat((one2, two2, flow), 1)))


# Mixers.


class EdgeNeXt(nn.Module):
    """Maaz et al.: stages of convolution encoders, with attention over channels at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.downs = nn.ModuleList(
            [nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 16, 2, 2), nn.Conv2d(16, 24, 2, 2)]
        )
        self.stages = nn.ModuleList(nn.Sequential(Encoder(w), Transposed(w)) for w in (8, 16, 24))
        self.norm, self.fc = nn.LayerNorm(24), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        for down, stage in zip(self.downs, self.stages, strict=True):
            x = stage(down(x))
        return self.fc(self.norm(x.mean((2, 3))))


class Encoder(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.deep, self.norm = (
            nn.Conv2d(width, width, 7, padding=3, groups=width),
            nn.LayerNorm(width),
        )
        self.one, self.two = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.two(F.gelu(self.one(self.norm(self.deep(x).permute(0, 2, 3, 1)))))
        return x + y.permute(0, 3, 1, 2)


class Transposed(nn.Module):
    """Attention of channels with channels (XCA)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        t = x.flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.norm(t)).transpose(1, 2).chunk(3, 1)
        shares = (F.normalize(q, dim=2) @ F.normalize(k, dim=2).transpose(1, 2)).softmax(2)
        t = t + self.out((shares @ v).transpose(1, 2))
        return t.transpose(1, 2).view_as(x)


class MetaStage(nn.Module):
    """Yu et al.: a patch embedding of its own, then blocks that mix by pooling."""

    def __init__(self, inside: int, outside: int, patch: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(inside, outside, patch + 1, patch, patch // 2)
        self.blocks = nn.Sequential(Pooling(outside), Pooling(outside))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.embed(x))


class Pooling(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(1, width), nn.GroupNorm(1, width)
        self.one, self.two = nn.Conv2d(width, 2 * width, 1), nn.Conv2d(2 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + (F.avg_pool2d(y, 3, 1, 1) - y)
        return x + self.two(F.gelu(self.one(self.norm2(x))))


def meta_former() -> nn.Module:
    args = ((3, 8, 4), (8, 16, 2), (16, 24, 2))
    return Classifier(24, stages=nn.Sequential(*(MetaStage(*a) for a in args)))


# Clips, sounds, volumes.


class Factored(nn.Module):
    """Tran et al.: a spatial convolution, then one over time, in a residual block."""

    def __init__(self, inside: int, outside: int, stride: int = 1) -> None:
        super().__init__()
        self.one, self.two = self._pair(inside, outside, stride), self._pair(outside, outside)
        conv = nn.Conv3d(inside, outside, 1, stride, bias=False)
        self.short = nn.Sequential(conv, nn.BatchNorm3d(outside)) if stride > 1 else nn.Sequential()

    @staticmethod
    def _pair(inside: int, outside: int, stride: int = 1) -> nn.Module:
        space = nn.Conv3d(inside, 12, (1, 3, 3), (1, stride, stride), (0, 1, 1), bias=False)
        time = nn.Conv3d(12, outside, (3, 1, 1), (stride, 1, 1), (1, 0, 0), bias=False)
        return nn.Sequential(space, nn.BatchNorm3d(12), nn.ReLU(), time, nn.BatchNorm3d(outside))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.two(F.relu(self.one(x))) + self.short(x))


class R2Plus1d(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        space = nn.Conv3d(3, 8, (1, 7, 7), (1, 2, 2), (0, 3, 3), bias=False)
        self.stem = nn.Sequential(space, nn.BatchNorm3d(8), nn.ReLU())
        self.layer1 = nn.Sequential(Factored(8, 8), Factored(8, 8))
        self.layer2 = nn.Sequential(Factored(8, 16, 2), Factored(16, 16))
        self.layer3 = nn.Sequential(Factored(16, 24, 2), Factored(24, 24))
        self.fc = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layer3(self.layer2(self.layer1(self.stem(x)))).mean((2, 3, 4)))


class ShiftBlock(Block):
    """Lin et al., TSM: some channels come from the frame before, some from the one behind."""

    def forward(self, x: Tensor) -> Tensor:
        clip = x.unflatten(0, (-1, 4))
        back, ahead, still = clip.split([2, 2, clip.shape[2] - 4], 2)
        back = F.pad(back[:, 1:], (0, 0, 0, 0, 0, 0, 0, 1))
        ahead = F.pad(ahead[:, :-1], (0, 0, 0, 0, 0, 0, 1, 0))
        y = torch.cat((back, ahead, still), 2).flatten(0, 1)
        return F.relu(self.two(self.one(y)) + self.short(x))


class TasNet(nn.Module):
    """Luo and Mesgarani: a learned filter bank, dilated blocks that make masks, and back again."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Conv1d(1, 16, 16, 8, bias=False)
        self.enter = nn.Sequential(nn.GroupNorm(1, 16), nn.Conv1d(16, 12, 1))
        self.blocks = nn.ModuleList(Dilated(12, 2**i) for i in range(4))
        self.masks, self.decoder = nn.Conv1d(12, 32, 1), nn.ConvTranspose1d(16, 1, 16, 8)

    def forward(self, x: Tensor) -> Tensor:
        w = self.encoder(x)
        y = self.enter(w)
        for block in self.blocks:
            y = block(y)
        one, two = self.masks(F.relu(y)).chunk(2, 1)
        made = [self.decoder(w * torch.sigmoid(mask)) for mask in (one, two)]
        return torch.cat(made, 1)


class Dilated(nn.Module):
    def __init__(self, width: int, spread: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(width, 24, 1), nn.PReLU(), nn.GroupNorm(1, 24),
            nn.Conv1d(24, 24, 3, padding=spread, dilation=spread, groups=24), nn.PReLU(),
            nn.GroupNorm(1, 24), nn.Conv1d(24, width, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Cnn14(nn.Module):
    """Kong et al., PANNs: blocks of two convolutions that end with a pooling, on a spectrogram."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.block1, self.block2, self.block3 = (
            Pooled(i, o) for i, o in ((1, 8), (8, 16), (16, 24))
        )
        self.fc1, self.fc2 = nn.Linear(24, 24), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block3(self.block2(self.block1(self.norm(x))))
        x = x.mean(3)
        return self.fc2(F.relu(self.fc1(x.max(2).values + x.mean(2))))


class Pooled(nn.Module):
    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.one, self.two = cbr(inside, outside), cbr(outside, outside)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(self.two(self.one(x)), 2)


class NnUNet(nn.Module):
    """Isensee et al.: strided convolutions begin the stages; every level of the decoder scores."""

    def __init__(self) -> None:
        super().__init__()
        self.e1, self.e2, self.e3 = (
            self._twice(1, 8, 1),
            self._twice(8, 16, 2),
            self._twice(16, 24, 2),
        )
        self.t2, self.t1 = nn.ConvTranspose3d(24, 16, 2, 2), nn.ConvTranspose3d(16, 8, 2, 2)
        self.d2, self.d1 = self._twice(32, 16, 1), self._twice(16, 8, 1)
        self.s2, self.s1 = nn.Conv3d(16, 2, 1), nn.Conv3d(8, 2, 1)

    @staticmethod
    def _twice(inside: int, outside: int, stride: int) -> nn.Module:
        layers: list[nn.Module] = []
        for i, s in ((inside, stride), (outside, 1)):
            conv = nn.Conv3d(i, outside, 3, s, 1)
            layers += [conv, nn.InstanceNorm3d(outside, affine=True), nn.LeakyReLU(0.01)]
        return nn.Sequential(*layers)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        one = self.e1(x)
        two = self.e2(one)
        y2 = self.d2(torch.cat((self.t2(self.e3(two)), two), 1))
        y1 = self.d1(torch.cat((self.t1(y2), one), 1))
        return self.s1(y1), self.s2(y2)


class PointNet(nn.Module):
    """Qi et al.: every point alone, then their maximum; no resolution goes down."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(self._layer(i, o) for i, o in ((3, 8), (8, 16), (16, 32))))
        self.fc = nn.Linear(32, 5)

    @staticmethod
    def _layer(inside: int, outside: int) -> nn.Module:
        return nn.Sequential(nn.Conv1d(inside, outside, 1), nn.BatchNorm1d(outside), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layers(x).max(2).values)


class SwinUnetr(nn.Module):
    """Hatamizadeh et al.: stages of attention; convolutions stand where each crosses over."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 2, 2)
        self.s1, self.s2 = Merging(8), Merging(16)
        self.enc0, self.enc1, self.enc2 = Block(3, 8), Block(8, 8), Block(16, 16)
        self.bottom = Block(32, 32)
        self.t2, self.t1, self.t0 = (
            nn.ConvTranspose2d(i, o, 2, 2) for i, o in ((32, 16), (16, 8), (8, 8))
        )
        self.d2, self.d1, self.d0 = Block(32, 16), Block(16, 8), Block(16, 8)
        self.out = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        h0 = self.patch(x)
        h1 = self.s1(h0)
        h2 = self.s2(h1)
        y = self.d2(torch.cat((self.t2(self.bottom(h2)), self.enc2(h1)), 1))
        y = self.d1(torch.cat((self.t1(y), self.enc1(h0)), 1))
        return self.out(self.d0(torch.cat((self.t0(y), self.enc0(x)), 1)))


class Merging(nn.Module):
    """Two blocks of tokens, then four neighbours become one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Mlp(width), Mlp(width))
        self.norm, self.reduce = nn.LayerNorm(4 * width), nn.Linear(4 * width, 2 * width)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        t = self.blocks(x.flatten(2).transpose(1, 2)).view(n, h, w, c)
        parts = [t[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
        return self.reduce(self.norm(torch.cat(parts, -1))).permute(0, 3, 1, 2)


class ClipTokens(nn.Module):
    """A block of tokens of a clip, whose sides are halved first where it is told so (MViT)."""

    def __init__(self, c_in: int, c: int, stride: int) -> None:
        super().__init__()
        self.norm, self.norm2 = nn.LayerNorm(c_in), nn.LayerNorm(c)
        self.q = nn.Conv3d(c_in, c, 3, (1, stride, stride), 1)
        self.kv, self.proj, self.skip = nn.Linear(c_in, 2 * c), nn.Linear(c, c), nn.Linear(c_in, c)
        self.mlp = nn.Sequential(nn.Linear(c, 2 * c), nn.GELU(), nn.Linear(2 * c, c))
        self.pool = nn.MaxPool3d((1, stride, stride), ceil_mode=True)

    def forward(self, x, sides):
        y = self.norm(x)
        k, v = self.kv(y).chunk(2, -1)
        q = self.q(y.mT.unflatten(2, sides))
        less = q.shape[2:]
        q = q.flatten(2).mT
        kept = self.pool(self.skip(x).mT.unflatten(2, sides)).flatten(2).mT
        x = kept + self.proj((q @ k.mT).softmax(-1) @ v + q)
        return x + self.mlp(self.norm2(x)), less


class ClipTransformer(nn.Module):
    """Tokens of a clip at three resolutions; its time is halved by the patches alone."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv3d(3, 8, (3, 7, 7), (2, 4, 4), (1, 3, 3))
        widths = [(8, 8, 1), (8, 16, 2), (16, 16, 1), (16, 24, 2)]
        self.blocks = nn.ModuleList(ClipTokens(*w) for w in widths)
        self.norm, self.head = nn.LayerNorm(24), nn.Linear(24, 5)

    def forward(self, x):
        x = self.patches(x)
        sides = x.shape[2:]
        x = x.flatten(2).mT
        for block in self.blocks:
            x, sides = block(x, sides)
        return self.head(self.norm(x).mean(1))
