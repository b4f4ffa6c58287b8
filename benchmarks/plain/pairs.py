"""Gates that look from position to position, or from channel to channel."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class NonLocal(nn.Module):
    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.inter = channels // 2
        self.g = nn.Conv2d(channels, self.inter, 1)
        self.theta = nn.Conv2d(channels, self.inter, 1)
        self.phi = nn.Conv2d(channels, self.inter, 1)
        self.out = nn.Conv2d(self.inter, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[0]
        g = self.g(x).view(n, self.inter, -1).permute(0, 2, 1)
        theta = self.theta(x).view(n, self.inter, -1).permute(0, 2, 1)
        phi = self.phi(x).view(n, self.inter, -1)
        weights = torch.matmul(theta, phi) / theta.shape[-1] ** 0.5
        y = torch.matmul(weights.softmax(dim=-1), g)
        y = y.permute(0, 2, 1).contiguous().reshape(n, self.inter, *x.shape[2:])
        return x + self.out(y)


class Generalized(nn.Module):
    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.heads, self.dim, self.stride = 8, channels // 8, 2
        self.embedded = channels // 2
        self.u = nn.Parameter(torch.zeros(channels))
        self.v = nn.Parameter(torch.zeros(channels))
        self.gamma = nn.Parameter(torch.zeros(1))
        self.query = nn.Conv2d(channels, channels, 1, bias=False)
        self.key = nn.Conv2d(channels, channels, 1, bias=False)
        self.value = nn.Conv2d(channels, channels, 1, bias=False)
        self.fc_y = nn.Linear(self.embedded, channels, bias=False)
        self.fc_x = nn.Linear(self.embedded, channels, bias=False)
        self.proj = nn.Conv2d(channels, channels, 1)
        self.down = nn.AvgPool2d(1, self.stride)

    def along(self, fc: nn.Linear, n: int, a: int, i: int, x: Tensor) -> Tensor:
        at = torch.linspace(0, a - 1, a).to(x).view(a, 1)
        to = torch.linspace(0, i - 1, i).to(x).view(i, 1) * self.stride
        diff = at.unsqueeze(1) - to.unsqueeze(0)
        waves = torch.tensor([1000.0]).to(x) ** (
            2 / self.embedded * torch.arange(self.embedded / 2).to(x)
        )
        waves = waves.view(1, 1, -1)
        embedding = torch.cat(((diff / waves).sin(), (diff / waves).cos()), dim=2)
        found = fc(embedding).view(1, a, i, self.heads, self.dim).permute(0, 3, 1, 2, 4)
        return found.repeat(n, 1, 1, 1, 1) / math.sqrt(2)

    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        seen = self.down(x)
        hk, wk = seen.shape[2:]
        query = self.query(x).view(n, self.heads, self.dim, h * w).permute(0, 1, 3, 2)
        key = self.key(seen).view(n, self.heads, self.dim, hk * wk)
        feat_x, feat_y = self.along(self.fc_x, n, w, wk, x), self.along(self.fc_y, n, h, hk, x)
        energy = torch.matmul(query + self.u.view(1, self.heads, 1, self.dim), key)
        energy = energy.view(n, self.heads, h, w, hk, wk)
        placed = (query + self.v.view(1, self.heads, 1, self.dim)).view(
            n, self.heads, h, w, self.dim
        )
        energy_x = torch.matmul(placed.permute(0, 1, 3, 2, 4), feat_x.permute(0, 1, 2, 4, 3))
        energy_x = energy_x.permute(0, 1, 3, 2, 4).unsqueeze(4)
        energy_y = torch.matmul(placed, feat_y.permute(0, 1, 2, 4, 3)).unsqueeze(5)
        energy = energy + (energy_x + energy_y)
        attention = F.softmax(energy.view(n, self.heads, h * w, hk * wk), 3)
        value = self.value(seen).view(n, self.heads, self.dim, hk * wk).permute(0, 1, 3, 2)
        out = torch.matmul(attention, value).permute(0, 1, 3, 2).contiguous()
        return self.gamma * self.proj(out.view(n, -1, h, w)) + x


class A2(nn.Module):
    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        m = channels // 2
        self.a = nn.Conv2d(channels, m, 1)
        self.b = nn.Conv2d(channels, m, 1)
        self.v = nn.Conv2d(channels, m, 1)
        self.expand = nn.Conv2d(m, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b, v = (layer(x).flatten(2) for layer in (self.a, self.b, self.v))
        descriptors = torch.bmm(a, F.softmax(b, dim=-1).permute(0, 2, 1))
        z = descriptors.matmul(F.softmax(v, dim=1))
        return x + self.expand(z.view(x.shape[0], -1, *x.shape[2:]))


class DANet(nn.Module):
    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.gamma_p = nn.Parameter(torch.zeros(1))
        self.query = nn.Conv2d(channels, channels // 8, 1)
        self.key = nn.Conv2d(channels, channels // 8, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma_c = nn.Parameter(torch.zeros(1))

    def in_our_order(self) -> list[Tensor]:
        layers = (self.query, self.key, self.value)
        inner = [p for layer in layers for p in layer.parameters()]
        return [self.gamma_p, *inner, self.gamma_c]

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        query = self.query(x).view(n, -1, w * h).permute(0, 2, 1)
        energy = torch.bmm(query, self.key(x).view(n, -1, w * h))
        attention = energy.softmax(-1)
        found = torch.bmm(self.value(x).view(n, -1, w * h), attention.permute(0, 2, 1))
        flat = x.view(n, c, -1)
        energy = torch.bmm(flat, flat.permute(0, 2, 1))
        energy = torch.max(energy, -1, keepdim=True)[0].expand_as(energy) - energy
        among = torch.bmm(energy.softmax(-1), flat)
        return self.gamma_p * found.view(n, c, h, w) + x + self.gamma_c * among.view(n, c, h, w)


class BAT(nn.Module):
    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        m, self.s, self.k = channels // 2, 7, 4

        def layer(width: int, out: int) -> nn.Module:
            return nn.Sequential(
                nn.Conv2d(width, out, 1), nn.BatchNorm2d(out), nn.ReLU(inplace=True)
            )

        self.conv1 = layer(channels, m)
        self.squeeze = layer(m, self.k)
        self.conv_p = nn.Conv2d(self.k, self.s * self.s * self.k, (self.s, 1))
        self.conv_q = nn.Conv2d(self.k, self.s * self.s * self.k, (1, self.s))
        self.mix = layer(m, m)
        self.conv2 = layer(m, channels)
        self.dropout = nn.Dropout2d(0.2)

    def resize(self, x: Tensor, t: int) -> Tensor:
        n, c, s, _ = x.shape
        if t <= 1:
            return x
        x = x.view(n * c, -1, 1, 1) * torch.eye(t, t, dtype=x.dtype, device=x.device)
        x = x.view(n * c, s, s, t, t)
        x = torch.cat(torch.split(x, 1, dim=1), dim=3)
        x = torch.cat(torch.split(x, 1, dim=2), dim=4)
        return x.view(n, c, s * t, s * t)

    def for_all(self, p: Tensor, channels: int) -> Tensor:
        n, k, s, _ = p.shape
        p = p.view(n, k, 1, s, s).expand(n, k, channels // k, s, s).contiguous()
        return p.view(n, channels, s, s)

    def forward(self, x: Tensor) -> Tensor:
        z = self.conv1(x)
        n, c, h, w = z.shape
        g = self.squeeze(z)
        p = self.conv_p(F.adaptive_max_pool2d(g, (self.s, 1))).view(n, self.k, self.s, self.s)
        q = self.conv_q(F.adaptive_max_pool2d(g, (1, self.s))).view(n, self.k, self.s, self.s)
        p, q = torch.sigmoid(p), torch.sigmoid(q)
        p = self.for_all(p / p.sum(dim=3, keepdim=True), c)
        q = self.for_all(q / q.sum(dim=2, keepdim=True), c)
        y = self.resize(p, h // self.s).matmul(z).matmul(self.resize(q, w // self.s))
        return self.dropout(self.conv2(self.mix(y))) + x


class External(nn.Module):
    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.linear_0 = nn.Conv1d(channels, 64, 1, bias=False)
        self.linear_1 = nn.Conv1d(64, channels, 1, bias=False)
        self.conv1 = nn.Conv2d(channels, channels, 1)
        self.conv2 = nn.Sequential(
            nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        z = self.conv1(x).view(n, c, h * w)
        attention = F.softmax(self.linear_0(z), dim=-1)
        attention = attention / (1e-9 + attention.sum(dim=1, keepdim=True))
        return self.conv2(self.linear_1(attention).view(n, c, h, w)) + x


class Polarized(nn.Module):
    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        m = channels // 2
        self.q_right = nn.Conv2d(channels, 1, 1, bias=False)
        self.v_right = nn.Conv2d(channels, m, 1, bias=False)
        self.up = nn.Conv2d(m, channels, 1, bias=False)
        self.q_left = nn.Conv2d(channels, m, 1, bias=False)
        self.v_left = nn.Conv2d(channels, m, 1, bias=False)
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        mask = self.q_right(x).view(n, 1, h * w).softmax(2)
        context = torch.matmul(self.v_right(x).view(n, -1, h * w), mask.transpose(1, 2))
        channel = x * torch.sigmoid(self.up(context.unsqueeze(-1)))
        query = self.pool(self.q_left(x)).flatten(2).permute(0, 2, 1)
        scores = torch.matmul(query, self.v_left(x).view(n, -1, h * w)).softmax(2)
        return x * torch.sigmoid(scores.view(n, 1, h, w)) + channel


class LKA(nn.Module):
    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.spatial = nn.Conv2d(channels, channels, 7, 1, 9, 3, groups=channels)
        self.conv1 = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        u = x.clone()
        return u * self.conv1(self.spatial(self.conv0(x)))


class ELA(nn.Module):
    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, 7, padding=3, groups=channels, bias=False)
        self.norm = nn.GroupNorm(16, channels)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        x_h = torch.mean(x, dim=3, keepdim=True).view(n, c, h)
        x_w = torch.mean(x, dim=2, keepdim=True).view(n, c, w)
        x_h = torch.sigmoid(self.norm(self.conv(x_h))).view(n, c, h, 1)
        x_w = torch.sigmoid(self.norm(self.conv(x_w))).view(n, c, 1, w)
        return x * x_h * x_w


class MLCA(nn.Module):
    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        t = int(abs(math.log2(channels) + 1) / 2)
        k = t if t % 2 else t + 1
        self.conv = nn.Conv1d(1, 1, k, padding=k // 2, bias=False)
        self.local = nn.Conv1d(1, 1, k, padding=k // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        local = F.adaptive_avg_pool2d(x, 5)
        whole = F.adaptive_avg_pool2d(local, 1)
        y_local = self.local(local.view(n, c, -1).transpose(-1, -2).reshape(n, 1, -1))
        y_whole = self.conv(whole.view(n, c, -1).transpose(-1, -2)).view(n, c, 1, 1)
        y_local = y_local.reshape(n, 25, c).transpose(-1, -2).reshape(n, c, 5, 5)
        gate = F.adaptive_avg_pool2d(y_whole.sigmoid(), 5) * 0.5 + y_local.sigmoid() * 0.5
        return x * F.adaptive_avg_pool2d(gate, (h, w))


class MCAGate(nn.Module):
    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(2))
        self.conv = nn.Conv2d(1, 1, (1, kernel), padding=(0, kernel // 2), bias=False)
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        n, c = x.shape[:2]
        means, spread = self.pool(x), x.view(n, c, -1).std(dim=2).reshape(n, c, 1, 1)
        weight = torch.sigmoid(self.weight)
        out = 0.5 * (means + spread) + weight[0] * means + weight[1] * spread
        out = self.conv(out.permute(0, 3, 2, 1).contiguous()).permute(0, 3, 2, 1).contiguous()
        return x * torch.sigmoid(out).expand_as(x)


class MCA(nn.Module):
    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        t = round(abs(math.log2(channels) - 1) / 1.5)
        self.h, self.w, self.c = MCAGate(3), MCAGate(3), MCAGate(t if t % 2 else t - 1)

    def forward(self, x: Tensor) -> Tensor:
        x_h = self.h(x.permute(0, 2, 1, 3).contiguous()).permute(0, 2, 1, 3).contiguous()
        x_w = self.w(x.permute(0, 3, 2, 1).contiguous()).permute(0, 3, 2, 1).contiguous()
        return 1 / 3 * (self.c(x) + x_h + x_w)


class EMA(nn.Module):
    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        c = channels // 32
        self.gn = nn.GroupNorm(c, c)
        self.conv1x1, self.conv3x3 = nn.Conv2d(c, c, 1), nn.Conv2d(c, c, 3, padding=1)
        self.pool_h, self.pool_w = nn.AdaptiveAvgPool2d((None, 1)), nn.AdaptiveAvgPool2d((1, None))
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        z = x.reshape(n * 32, -1, h, w)
        lines = self.conv1x1(torch.cat([self.pool_h(z), self.pool_w(z).permute(0, 1, 3, 2)], 2))
        x_h, x_w = torch.split(lines, [h, w], dim=2)
        x1 = self.gn(z * x_h.sigmoid() * x_w.permute(0, 1, 3, 2).sigmoid())
        x2 = self.conv3x3(z)
        from1 = self.pool(x1).reshape(n * 32, -1, 1).permute(0, 2, 1).softmax(-1)
        from2 = self.pool(x2).reshape(n * 32, -1, 1).permute(0, 2, 1).softmax(-1)
        scores = torch.matmul(from1, x2.flatten(2)) + torch.matmul(from2, x1.flatten(2))
        return (z * scores.reshape(n * 32, 1, h, w).sigmoid()).reshape(n, c, h, w)


PLAIN: dict[str, type[nn.Module]] = {
    "nl": NonLocal,
    "generalized": Generalized,
    "a2": A2,
    "bat": BAT,
    "danet": DANet,
    "external": External,
    "polarized": Polarized,
    "lka": LKA,
    "ela": ELA,
    "mlca": MLCA,
    "mca": MCA,
    "ema": EMA,
}
