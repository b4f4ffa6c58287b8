"""Small networks of Hugging Face's transformers, of every family, with random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import transformers as hf

WIDE = (3, 64, 96)
SQUARE = (3, 64, 64)  # for those whose positions are counted


@dataclass(frozen=True)
class Family:
    """One family.

    Attributes:
        build: makes the network.
        auto: the name of the class that chooses it by its config.
        size: of its input.
        ways: technique -> residual branches cut so, counted by hand from the depths.
    """

    build: Callable[[], Any]
    auto: str
    size: tuple[int, int, int]
    ways: dict[str, int]


def _resnet(layer: str) -> Callable[[], Any]:
    return lambda: hf.ResNetForImageClassification(
        hf.ResNetConfig(
            depths=[2, 1], hidden_sizes=[16, 32], embedding_size=8, layer_type=layer, num_labels=5
        )
    )


def _convnext(version: str) -> Callable[[], Any]:
    config = getattr(hf, f"ConvNext{version}Config")
    model = getattr(hf, f"ConvNext{version}ForImageClassification")
    sizes = {"depths": [1, 2, 1, 1], "hidden_sizes": [8, 16, 24, 32], "image_size": 64}
    return lambda: model(config(num_labels=5, **sizes))


def _regnet(layer: str) -> Callable[[], Any]:
    return lambda: hf.RegNetForImageClassification(
        hf.RegNetConfig(
            depths=[1, 2],
            hidden_sizes=[16, 32],
            embedding_size=8,
            groups_width=8,
            layer_type=layer,
            num_labels=5,
        )
    )


def _mobilenet() -> Any:
    return hf.MobileNetV2ForImageClassification(
        hf.MobileNetV2Config(depth_multiplier=0.25, image_size=64, num_labels=5)
    )


def _swin() -> Any:
    return hf.SwinForImageClassification(
        hf.SwinConfig(
            image_size=64,
            embed_dim=16,
            depths=[2, 2],
            num_heads=[2, 4],
            window_size=4,
            num_labels=5,
        )
    )


def _tokens(name: str, **more: Any) -> Callable[[], Any]:
    config, model = getattr(hf, f"{name}Config"), getattr(hf, f"{name}ForImageClassification")
    sizes = {
        "image_size": 64,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
    }
    return lambda: model(config(num_labels=5, **sizes, **more))


def _segformer(task: str) -> Callable[[], Any]:
    model = getattr(hf, f"SegformerFor{task}")
    return lambda: model(
        hf.SegformerConfig(
            depths=[1, 1, 1, 1],
            hidden_sizes=[8, 16, 24, 32],
            num_attention_heads=[1, 2, 2, 4],
            decoder_hidden_size=16,
            num_labels=5,
        )
    )


def _detr(**backbone: Any) -> Callable[[], Any]:
    sizes = {
        f"{part}_{what}": value
        for part in ("encoder", "decoder")
        for what, value in [("layers", 1), ("attention_heads", 2), ("ffn_dim", 32)]
    }
    return lambda: hf.DetrForObjectDetection(
        hf.DetrConfig(
            use_pretrained_backbone=False,
            d_model=16,
            num_queries=5,
            num_labels=4,
            **sizes,
            **backbone,
        )
    )


def _own_backbone() -> dict[str, Any]:
    config = hf.ResNetConfig(
        depths=[1, 1, 1, 1],
        hidden_sizes=[16, 24, 32, 40],
        embedding_size=8,
        out_features=["stage4"],
    )
    return {"use_timm_backbone": False, "backbone": None, "backbone_config": config}


_IMAGES = "AutoModelForImageClassification"
_MAPS = "AutoModelForSemanticSegmentation"
_BOXES = "AutoModelForObjectDetection"

FAMILIES = {
    "resnet": Family(_resnet("bottleneck"), _IMAGES, WIDE, {"retype": 3}),
    "resnet-basic": Family(_resnet("basic"), _IMAGES, WIDE, {"retype": 3}),
    "convnext": Family(_convnext(""), _IMAGES, WIDE, {"retype": 5}),
    "convnextv2": Family(_convnext("V2"), _IMAGES, WIDE, {"retype": 5}),
    "regnet-x": Family(_regnet("x"), _IMAGES, WIDE, {"retype": 3}),
    "regnet-y": Family(_regnet("y"), _IMAGES, WIDE, {"retype": 3}),
    "mobilenet-v2": Family(_mobilenet, _IMAGES, WIDE, {"retype": 10}),
    # The windows' branch of a layer is made in a forward that decides by sizes: it is cut at the
    # drop-path behind it.
    "swin": Family(_swin, _IMAGES, WIDE, {"input-hook": 4, "retype": 4}),
    "vit": Family(_tokens("ViT"), _IMAGES, SQUARE, {"output-hook": 2, "retype": 2}),
    "beit": Family(
        _tokens("Beit", use_relative_position_bias=True),
        _IMAGES,
        SQUARE,
        {"output-hook": 2, "retype": 2},
    ),
    "segformer": Family(
        _segformer("SemanticSegmentation"), _MAPS, WIDE, {"output-hook": 4, "retype": 4}
    ),
    "segformer-classifier": Family(
        _segformer("ImageClassification"), _IMAGES, WIDE, {"output-hook": 4, "retype": 4}
    ),
    # Backbone, encoder, decoder. The branches that attend to queries are not counted: what they
    # are added to does not depend on the image in the first layer of a decoder.
    "detr": Family(_detr(**_own_backbone()), _BOXES, WIDE, {"retype": 6, "output-hook": 1}),
    "detr-timm": Family(
        _detr(use_timm_backbone=True, backbone="resnet18"),
        _BOXES,
        WIDE,
        {"retype": 10, "output-hook": 1},
    ),
}
