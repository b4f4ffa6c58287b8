"""The closed vocabulary: what is of it, what is not, and that nothing is run to find out."""

from __future__ import annotations

import inspect
import sys
from typing import Any

import pytest
import torch

from attnsurgeon.errors import ModelError
from attnsurgeon.models import load_model
from attnsurgeon.models.bounded import out_of_size
from attnsurgeon.models.plain_arguments import DEEPEST, MOST_NUMBER, not_plain
from attnsurgeon.models.vocabulary import code_place, objection, reserved


@pytest.mark.parametrize(
    ("spec", "given"),
    [
        ("resnet50", {}),
        ("resnet50.a1_in1k", {"num_classes": 10, "in_chans": 1, "drop_path_rate": 0.1}),
        ("timm:convnext_atto", {"depths": (1, 1, 2, 1), "dims": [8, 16, 24, 32]}),
        ("vit_tiny_patch16_224", {"img_size": (96, 64), "class_token": True, "act_layer": "silu"}),
        (
            "test_resnet",
            {"act_layer": None, "output_stride": 16, "block_args": {"attn_layer": "se"}},
        ),
        ("test_resnet", {"features_only": True, "out_indices": (1, 2)}),
        ("torchvision:resnet50", {"weights": None, "num_classes": 3, "zero_init_residual": True}),
        ("torchvision:googlenet", {"init_weights": True, "aux_logits": False}),
        ("torchvision:fasterrcnn_resnet50_fpn", {"weights_backbone": None, "min_size": 320}),
        ("torchvision:vit_b_16", {"image_size": 96}),
    ],
)
def test_registered_names_and_plain_arguments_are_of_it(spec, given):
    assert objection(spec, given) is None


@pytest.mark.parametrize(
    ("spec", "given", "why"),
    [
        ("own.py:make", {}, "code of its own"),
        ("package.module:make", {}, "code of its own"),
        ("torch.nn:Sequential", {}, "code of its own"),
        ("torchvision.models:resnet50", {}, "code of its own"),
        ("os:system", {"command": "ls"}, "code of its own"),
        ("resnet51", {}, "timm registers no such name"),
        ("timm:hf-hub:org/net", {}, "code of its own"),
        ("timm:local-dir:/tmp", {}, "code of its own"),
        ("hf-hub:org/net", {}, "an address"),
        ("torchvision:resnet51", {}, "torchvision registers no such name"),
        ("", {}, "code of its own"),
        ("a" * 100_000, {}, "a name of 100,000 characters"),
        ("resnet50", {"checkpoint": "a.pt"}, "checkpoint is for the one who loads it"),
        ("resnet50", {"checkpoint_path": "a"}, "checkpoint_path points to something outside"),
        ("resnet50", {"pretrained_cfg": {"a": 1}}, "pretrained_cfg points"),
        ("resnet50", {"colour": 1}, "takes no argument 'colour'"),
        ("resnet50", {"act_layer": "torch.nn.SiLU"}, "no single word"),
        ("resnet50", {"act_layer": "a/b"}, "no single word"),
        ("resnet50", {"num_classes": 10**9}, "beyond 1,048,576"),
        ("resnet50", {"drop_rate": float("nan")}, "beyond"),
        ("resnet50", {"act_layer": torch.nn.SiLU}, "is of type type"),
        ("torchvision:resnet50", {"weights": "DEFAULT"}, "weights points"),
        ("torchvision:resnet50", {"pretrained": True}, "pretrained is for the one"),
    ],
)
def test_everything_else_is_not_and_says_why(spec, given, why):
    assert why in (objection(spec, given) or "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spec", "given", "why"),
    [
        ("transformers:ResNetForImageClassification", {"depths": [1], "hidden_act": "relu"}, None),
        ("transformers:ViTModel", {"id2label": {"0": "a cat, 2/3"}, "dtype": "float16"}, None),
        (
            "transformers:DetrForObjectDetection",
            {"backbone_config": {"model_type": "timm_backbone", "backbone": "resnet18"}},
            None,
        ),
        ("transformers:org/net", {}, "an address or a folder"),
        ("transformers:AutoModel", {}, "registers no such class"),
        ("transformers:PreTrainedModel", {}, "registers no such class"),
        ("transformers:ViTModel", {"auto_map": {"AutoModel": "a.B"}}, "none that a file may give"),
        ("transformers:ViTModel", {"attn_implementation": "org/x"}, "none that a file may give"),
        ("transformers:ViTModel", {"dtype": "load"}, "dtype is 'load'"),
        (
            "transformers:DetrForObjectDetection",
            {"backbone_config": {"model_type": "timm_backbone", "backbone": "hf-hub:org/net"}},
            "timm does not know",
        ),
        (
            "transformers:DetrForObjectDetection",
            {"backbone_config": {"model_type": "resnet", "auto_map": {"AutoBackbone": "a.B"}}},
            "none that a file may give",
        ),
    ],
)
def test_configs_of_transformers_are_judged_part_by_part(spec, given, why):
    pytest.importorskip("transformers")
    found = objection(spec, given)
    assert found is None if why is None else why in (found or "")


@pytest.mark.parametrize(
    ("spec", "given", "why"),
    [
        ("Unet", {"encoder_name": "resnet18", "classes": 2, "decoder_channels": (8,) * 5}, None),
        ("Unet", {"encoder_name": "tu-test_resnet", "encoder_weights": None}, None),
        ("Unet", {"encoder_name": "tu-hf-hub:org/net"}, "no registered encoder"),
        ("Unet", {"encoder_name": "tu-../net"}, "no registered encoder"),
        ("Unet", {"encoder_weights": "imagenet"}, "encoder_weights points"),
        ("Unett", {}, "registers no such class"),
        ("from_pretrained", {}, "registers no such class"),
    ],
)
def test_segmenters_are_registered_classes_with_registered_encoders(spec, given, why):
    pytest.importorskip("segmentation_models_pytorch")
    found = objection(f"segmentation_models_pytorch:{spec}", given)
    assert found is None if why is None else why in (found or "")


@pytest.mark.slow
def test_models_of_ultralytics_are_those_it_ships_unless_a_file_comes_first(tmp_path, monkeypatch):
    pytest.importorskip("ultralytics")
    monkeypatch.chdir(tmp_path)
    assert objection("ultralytics:yolov8n", {"nc": 3}) is None
    assert objection("ultralytics:yolov8n.yaml", {}) is None
    (tmp_path / "yolov8.yaml").write_text("activation: boom()\n")
    assert "may hold code" in (objection("ultralytics:yolov8n.yaml", {}) or "")
    assert objection("ultralytics:yolov8n", {}) is None
    for name in ("yolov8.pt", "./yolov8n", f"{tmp_path}/yolov8.yaml", "https://a/yolov8.yaml", ""):
        assert "may hold code" in (objection(f"ultralytics:{name}", {}) or ""), name
    assert "takes no argument 'cfg'" in (objection("ultralytics:yolov8n", {"cfg": 1}) or "") or (
        "cfg points" in (objection("ultralytics:yolov8n", {"cfg": "a"}) or "")
    )


def test_code_is_found_without_being_imported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "found_only").mkdir()
    (tmp_path / "found_only" / "__init__.py").write_text("raise SystemExit('imported')\n")

    assert code_place("found_only.x:make") == str(tmp_path / "found_only" / "__init__.py")
    assert code_place("a/b.py:make") == str(tmp_path / "a" / "b.py")
    assert code_place("no_such_module_at_all:make") is None
    for odd in ("", ":", "\0.py:x", "~nobody_at_all/x.py:f", "..:x", "a b:c"):
        code_place(odd)
    assert "found_only" not in sys.modules


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (MOST_NUMBER, True),
        (MOST_NUMBER + 1, False),
        (-(10**40), False),
        (float("inf"), False),
        (True, True),
        ("gelu_pytorch-tanh", True),
        ("a.b", False),
        ("a:b", False),
        ("a" * 65, False),
        (nested(DEEPEST - 1), True),
        (nested(DEEPEST), False),
        (nested(100_000), False),
        ([0] * 200_000, False),
        ({"a": {"b": [1, "c", None]}}, True),
        ({"a b": 1}, False),
        ({"url": "word"}, False),
        ({"url": None}, True),
        ({1: 2}, False),
        (object(), False),
    ],
)
def test_a_plain_value_names_nothing_and_has_a_sound_size(value, plain):
    assert (not_plain("given", value) is None) == plain


@pytest.mark.slow
def test_a_network_is_weighed_without_memory():
    assert out_of_size("test_resnet", {"num_classes": 7}, None) is None
    assert out_of_size("test_resnet", {}, 1_000) is None
    assert "tensors" in (out_of_size("test_resnet", {"layers": [100_000, 1, 1, 1]}, None) or "")
    assert "numbers" in (out_of_size("test_resnet", {"num_classes": MOST_NUMBER}, 1_000) or "")
    with pytest.raises(ModelError, match="no network called"):
        out_of_size("test_resnett", {}, 1_000)


def test_every_argument_of_loading_itself_is_reserved():
    own = [n for n, p in inspect.signature(load_model).parameters.items() if n != "model_args"]
    assert len(own) >= 8
    for name in own:
        assert reserved({name: 1}) == f"its argument {name} is for the one who loads it to give"
    assert reserved({"num_classes": 10}) is None
