"""A convolution -> others whose outputs have the size of its own, whatever their kernels."""

from __future__ import annotations

from torch import nn

from attnsurgeon.attention.shapes import CONV, CONVOLUTIONS, Conv
from attnsurgeon.errors import MechanismError


def alike(
    conv: Conv,
    inputs: int,
    outputs: int,
    *,
    kernel: tuple[int, ...] | None = None,
    dilation: tuple[int, ...] | None = None,
    groups: int = 1,
    bias: bool = False,
) -> Conv:
    """Returns a new convolution that makes maps of the size of those of `conv`, of its stride.

    Args:
        conv: the convolution to be like; nothing of it is kept.
        inputs, outputs: channels.
        kernel, dilation: along each axis; those of `conv` where they are None.
        groups, bias: as of torch's convolutions.
    """
    kernel = kernel or conv.kernel_size
    dilation = dilation or conv.dilation
    own = _reach(conv.kernel_size, conv.dilation)
    margin = tuple(
        both + new - old
        for both, new, old in zip(_padding(conv), _reach(kernel, dilation), own, strict=True)
    )
    return _conv(conv, inputs, outputs, kernel, conv.stride, margin, dilation, groups, bias)


def keeping(conv: Conv, channels: int, *, groups: int = 1) -> Conv:
    """Returns a new convolution with the kernel of `conv` that keeps channels and size."""
    margin = _reach(conv.kernel_size, conv.dilation)
    stride = (1,) * len(margin)
    return _conv(
        conv, channels, channels, conv.kernel_size, stride, margin, conv.dilation, groups, False
    )


def output_size(conv: Conv, size: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the size of the map that a convolution like `conv` makes of one of `size`."""
    shrunk = _reach(conv.kernel_size, conv.dilation)
    return tuple(
        (n + both - less - 1) // step + 1
        for n, both, less, step in zip(size, _padding(conv), shrunk, conv.stride, strict=True)
    )


def _conv(
    conv: Conv,
    inputs: int,
    outputs: int,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    margin: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
    bias: bool,
) -> Conv:
    """Returns the convolution that pads by half the margin on each side."""
    if conv.padding_mode != "zeros":
        raise MechanismError(
            f"the convolution pads with {conv.padding_mode!r}, and its substitute with zeros",
            "attention on its weight, as we and aw, leaves it as it is",
        )
    if any(both < 0 or both % 2 for both in margin):
        raise MechanismError(
            f"no padding gives a kernel of {kernel} the output size of this convolution",
            f"it has kernel {conv.kernel_size} and padding {conv.padding}; odd kernels with "
            "padding on both sides work",
        )
    padding = tuple(both // 2 for both in margin)
    make = CONV[len(kernel)]
    made = make(inputs, outputs, kernel, stride, padding, dilation, groups, bias)
    nn.init.kaiming_normal_(made.weight, mode="fan_out", nonlinearity="relu")
    return made


def _reach(kernel: tuple[int, ...], dilation: tuple[int, ...]) -> tuple[int, ...]:
    """Returns by how much the map shrinks along each axis without padding."""
    return tuple(d * (k - 1) for k, d in zip(kernel, dilation, strict=True))


def _padding(conv: Conv) -> tuple[int, ...]:
    """Returns how much is padded along each axis, both sides together."""
    if conv.padding == "same" or _pads_in_its_forward(conv):
        return _reach(conv.kernel_size, conv.dilation)
    if isinstance(conv.padding, str):  # "valid"
        return (0,) * len(conv.kernel_size)
    return tuple(2 * p for p in conv.padding)


def _pads_in_its_forward(conv: Conv) -> bool:
    """Whether it is a layer that states no padding and pads like TensorFlow, as timm has them.

    Such padding depends on the input's size and makes the output ceil(size / stride), which is
    also what half the kernel on each side makes.
    """
    ours = type(conv).forward not in [kind.forward for kind in CONVOLUTIONS]
    return ours and not any(conv.padding) and getattr(conv, "same_pad", True)
