"""Batch-aware attention: while training, the samples of a batch are weighed against each other.

    Ac = batchnorm(W2 relu(W1 mean(x) + b1))
    Al = batchnorm(conv1(relu(conv3(relu(conv1(x))))))
    Ag = softmax(f(x) g(x)^T) h(x), over all pairs of positions
    a = (max(Ac) + max(Al) + max(Ag)) / 3, one number for each of the N samples
    y = x * N * softmax(a over the batch) while training, y = x in evaluation

Cheng et al., "BA^2M: A Batch Aware Attention Module for Image Classification", arXiv 2021,
https://arxiv.org/abs/2103.15099
"""

from __future__ import annotations

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn import functional as F

from attnsurgeon.attention.checks import hidden_width
from attnsurgeon.attention.identity import native
from attnsurgeon.attention.norms import ONE_VALUE, BatchNorm
from attnsurgeon.attention.pictures import multiplied
from attnsurgeon.attention.pooling import Mean
from attnsurgeon.attention.precision import wide, without_autocast
from attnsurgeon.attention.registry import mechanism
from attnsurgeon.attention.shapes import CONV


def top(z: Tensor) -> Tensor:
    """Returns each sample's largest value (N,), in float32 at least; equal ones share alike."""
    return z.flatten(1).to(wide(z)).amax(1)


def top_attended(f: Tensor, g: Tensor, h: Tensor) -> Tensor:
    """Returns each sample's largest value (N,) of the map in which all positions see each other.

    A maximum has the gradient of the one value that it is. So the map is only searched, by a
    kernel that keeps no scores, and that value is computed again from its own position.
    """
    with without_autocast(f):
        q, k, v = (
            z.flatten(2).transpose(-2, -1).to(wide(z)).contiguous() for z in (f, g, h)
        )  # (N, positions, m)
        length, width = q.shape[1:]
        with torch.no_grad():
            # Such kernels want widths that are multiples of 8; zeros change no score.
            q8, k8, v8 = (F.pad(z, (0, -width % 8)).unsqueeze(1) for z in (q, k, v))
            whole = F.scaled_dot_product_attention(q8, k8, v8, scale=1.0)[..., :width]
            place = whole.flatten(1).argmax(1, keepdim=True)  # (N, 1)
        # Products with ones and zeros, as the backward of indexing adds in no fixed order.
        there = (torch.arange(length, device=q.device) == place // width).to(q.dtype)
        channel = (torch.arange(width, device=q.device) == place % width).to(q.dtype)
        scores = (there.unsqueeze(1) @ q) @ k.transpose(-2, -1)  # (N, 1, positions)
        return ((scores.softmax(2) @ v).squeeze(1) * channel).sum(1)


class Score(nn.Module):
    """How much there is to attend to in each sample.

    Shape:
        x (N, C, ...) -> (N,)
    """

    def __init__(self, channels: int, *, rank: int, reduction: int) -> None:
        super().__init__()
        m, conv = hidden_width(channels, reduction), CONV[rank]
        self.pool = Mean(rank=rank)
        self.fc1 = nn.Linear(channels, m)
        self.fc2 = nn.Linear(m, channels, bias=False)
        self.channel_norm = BatchNorm(channels)
        self.reduce = conv(channels, m, 1)
        self.near = conv(m, m, 3, padding=1)
        self.point = conv(m, 1, 1, bias=False)
        self.local_norm = BatchNorm(1)
        self.query = conv(channels, m, 1, bias=False)
        self.key = conv(channels, m, 1, bias=False)
        self.value = conv(channels, m, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the mean of the maxima of three attention maps."""
        by_channel = self.channel_norm(self.fc2(self.fc1(self.pool(x)).relu()))  # (N, C)
        near = self.near(self.reduce(x).relu()).relu()
        local = self.local_norm(self.point(near))  # (N, 1, ...)
        whole = top_attended(self.query(x), self.key(x), self.value(x))  # (N,)
        return (top(by_channel) + top(local) + whole) / 3


@torch.fx.wrap
def weigh(score: Score, x: Tensor) -> Tensor:
    """Returns `x`, each sample times its share of the batch while training."""
    if not score.training:
        return x
    a = score(x)
    relative = (a - a.amax().detach()).exp()
    # Divided by the mean, not multiplied by N: equal scores give exactly 1 for every N.
    share = (relative / relative.mean()).to(x.dtype)
    return x * share.reshape(-1, *[1] * (x.dim() - 1))


def count(channels: int, rank: int, reduction: int) -> int:
    """Returns the number of parameters."""
    m = hidden_width(channels, reduction)
    channel_map = (channels * m + m) + m * channels + 2 * channels
    local_map = (channels * m + m) + (3**rank * m * m + m) + m + 2
    return channel_map + local_map + 3 * channels * m


@mechanism(
    "ba2m",
    kind="gate",
    ranks=(1, 2, 3),
    bottleneck=("score.fc1", "score.reduce", "score.near"),
    placement="residual-branch",
    picture=multiplied("samples", how="the weight of each sample, 1 in evaluation"),
    formula="[2Cm + m + 2C] + [Cm + 9m^2 + 3m + 2] + 3Cm, m = C//r; 9m^2 is 3m^2 at rank 1, 27m^2 "
    "at rank 3",
    count=count,
    identity=native(
        "score.channel_norm",
        "score.local_norm",
        "score.value",
        how="the last layers of the three maps start at zero, so all samples have weight 1",
    ),
    constraints=("C >= reduction",),
    limits=(
        "DDP: in eval mode it does not run, and DDP waits for its gradients; in training each "
        "process weighs its own images against each other",
    ),
    deviations=(
        "from the paper's text: no code was published, and the text leaves widths open; they are "
        "C//r with r = 16 here, in all three maps",
        "ReLUs stand between the layers of a map, which the text's equations do not show; without "
        "them the layers would be one linear map",
        "the weights are those of the text times N, so that they are 1 on the average and the "
        "size of the features does not depend on the batch",
        "in evaluation every weight is 1: the output for an image never depends on the others of "
        "its batch, and the module costs nothing",
        "in training on several devices, each weighs its own part of the batch",
        "the global map compares all positions with each other, so its time grows with the square "
        "of the map's size, though not its memory",
        "scores, softmax and weights are computed in float32 also for half-precision values",
        "the local map's last bias is kept as part of its norm; it adds the same to all samples' "
        "scores, so it cannot learn",
        "ranks 1 and 3 are not the authors': the 3x3 kernel becomes 3 or 3x3x3, and all positions "
        "see each other",
        ONE_VALUE,
    ),
    inert=("score.local_norm.bias",),
)
class BA2M(nn.Module):
    """Weighs the samples of a training batch by how much there is to attend to in each.

    Args:
        channels: C; also that of logits given as (N, C, 1, 1).
        rank: 1, 2 or 3.
        reduction: r, by which the layers are narrower.

    Shape:
        x (N, C, ...) -> (N, C, ...)
    """

    def __init__(self, channels: int, *, rank: int = 2, reduction: int = 16) -> None:
        super().__init__()
        self.score = Score(channels, rank=rank, reduction=reduction)

    def forward(self, x: Tensor) -> Tensor:
        """Returns `x` times the weights of its samples."""
        return weigh(self.score, x)
