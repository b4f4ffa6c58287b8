"""The equation of every mechanism, written down plainly: what its speed is measured against.

Each is built like the code that its authors published, step by step, with the copies and the
full-size temporaries that such code has, and without the mistakes. Parameters come in the order in
which the mechanism itself has them, so that they can be carried over one by one; where they do not,
`in_our_order` says it, with a list where one of ours stands for several.
"""

from __future__ import annotations

from torch import nn

from benchmarks.plain import (
    activations,
    channels,
    convs,
    heads,
    linked,
    mixers,
    pairs,
    positions,
    relative,
    values,
    weights,
)

PLAIN: dict[str, type[nn.Module]] = {
    **channels.PLAIN,
    **positions.PLAIN,
    **mixers.PLAIN,
    **pairs.PLAIN,
    **convs.PLAIN,
    **weights.PLAIN,
    **activations.PLAIN,
    **values.PLAIN,
    **heads.PLAIN,
    **linked.PLAIN,
    **relative.PLAIN,
}
