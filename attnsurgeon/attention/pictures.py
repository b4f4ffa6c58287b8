"""What a mechanism does to an input, as named tensors: the pictures, and what a card says of them.

    channel    (N, C)        what each channel is multiplied by
    spatial    (N, H, W)     what each position is multiplied by
    both       (N, C, H, W)  what each value is multiplied by, where that is no such product
    samples    (N,)          what each sample is multiplied by
    branches   (N, M, C)     the share of each of M branches in each channel
    fusion     (N, M, C, H, W), what each of the M terms of an addition is multiplied by
    classes    (N, K, H, W)  where each class looks: weights of the positions
    stages     (M,)          the weight of each stage's vote, the oldest first
    attention  (N, H, W)     the weights with which one position looks at all others
    weights    of the convolution's weight (C, C_in / groups, ...), what that is multiplied by
    tokens     (N, T) or (N, C, T), of a row of tokens, those of no position (class, registers)
    blend      ()            the weight with which the mechanism is blended in
    change     (N,)          |y - x| / |x|, x what would go on without the site, y what does

(H, W) is (L,) of a signal and (D, H, W) of a clip.
"""

from __future__ import annotations

NAMES = (
    "channel",
    "spatial",
    "both",
    "samples",
    "branches",
    "fusion",
    "classes",
    "stages",
    "attention",
    "weights",
    "tokens",
    "blend",
    "change",
)
