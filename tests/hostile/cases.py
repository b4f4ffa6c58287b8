"""What a hostile folder or rule file may say of its network, and hostile files of a folder."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

Record = Any
TRAP = "open('{name}.ran', 'w').close()\nmake = lambda **given: None\nNet = make\n"
HUGE = 10**9


def write_traps(folder: Path) -> None:
    """Fill a directory with code and files that leave a mark when they are run."""
    (folder / "canarybird.py").write_text(TRAP.format(name="canarybird"))
    inside = folder / "hostile_inside" / "deeper"
    inside.mkdir(parents=True)
    for place in (inside.parent, inside):
        (place / "__init__.py").write_text(TRAP.format(name="package"))
    (inside / "x.py").write_text(TRAP.format(name="x"))
    model = folder / "canarybird_model"
    model.mkdir()
    (model / "config.json").write_text(
        json.dumps(
            {
                "architecture": "test_resnet",
                "model_type": "canarybird",
                "architectures": ["CanaryBird"],
                "auto_map": {"AutoConfig": "modeling.Config", "AutoModel": "modeling.Model"},
                "num_classes": 7,
            }
        )
    )
    (model / "modeling.py").write_text(TRAP.format(name="modeling"))
    pickled = b"cbuiltins\nexec\n(S\"open('pickle.ran','w').close()\"\ntR."
    for name in ("canarybird.pt", "canarybird.pth", "canarybird_model/pytorch_model.bin"):
        (folder / name).write_bytes(pickled)
    yolo = (
        "nc: 3\nscales: {n: [0.3, 0.25, 1024]}\n"
        "activation: \"__import__('canarybird') and torch.nn.SiLU()\"\n"
        "backbone:\n  - [-1, 1, Conv, [64, 3, 2]]\nhead:\n  - [[0], 1, Detect, [nc]]\n"
    )
    for name in ("yolov8.yaml", "yolov8n.yaml", "canarybird.yaml", "yolov8-canarybird.yaml"):
        (folder / name).write_text(yolo)


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


_ACT = "__import__('canarybird')"
_VIT = "transformers:ViTForImageClassification"
_RESNET = "transformers:ResNetForImageClassification"
_DETR = "transformers:DetrForObjectDetection"
_WRAPPED = "transformers:TimmWrapperForImageClassification"
_SMP = "segmentation_models_pytorch"
_YOLO = {
    "nc": 1,
    "activation": _ACT,
    "backbone": [[-1, 1, "Conv", [8, 3]]],
    "head": [[[0], 1, "Detect", ["nc"]]],
}

# Code: a module, a file, or a function that does what it is told.
CODE: list[tuple[str, dict[str, Any]]] = [
    ("canarybird:make", {}),
    ("canarybird.py:make", {}),
    ("./canarybird.py:make", {}),
    ("{traps}/canarybird.py:make", {}),
    ("../traps/canarybird.py:make", {}),
    ("hostile_inside.deeper.x:make", {}),
    ("hostile_inside/deeper/x.py:make", {}),
    ("hostile_inside:make", {}),
    ("{folder}/canarybird.py:make", {}),
    ("canarybird", {}),
    ("canarybird.py", {}),
    ("subprocess:call", {"args": ["touch", "sub.ran"]}),
    ("subprocess:Popen", {"args": ["touch", "sub.ran"]}),
    ("os:system", {"command": "touch os.ran"}),
    ("posix:system", {"command": "touch os.ran"}),
    ("os:mkdir", {"path": "made.ran"}),
    ("shutil:rmtree", {"path": "hostile_inside"}),
    ("pty:spawn", {"argv": ["touch", "pty.ran"]}),
    ("torch:os.popen", {"cmd": "touch os.ran"}),
    ("torch:os.system", {"command": "touch os.ran"}),
    ("torch:importlib._bootstrap._gcd_import", {"name": "canarybird"}),
    ("torch.nn:modules.module.torch.os.system", {"command": "touch os.ran"}),
    ("importlib:import_module", {"name": "canarybird"}),
    ("runpy:run_path", {"path_name": "canarybird.py"}),
    ("runpy:run_module", {"mod_name": "canarybird"}),
    ("builtins:exec", {"source": _ACT}),
    ("builtins:eval", {"source": _ACT}),
    ("builtins:__import__", {"name": "canarybird"}),
    ("builtins:open", {"file": "open.ran", "mode": "w"}),
    ("pickle:load", {"file": "canarybird.pt"}),
    ("<frozen os>:system", {"command": "touch os.ran"}),
    ("torch:load", {"f": "canarybird.pt", "weights_only": False}),
    ("torch.jit:load", {"f": "canarybird.pt"}),
    ("torch.hub:load", {"repo_or_dir": "{traps}", "model": "make", "source": "local"}),
    ("torch.utils.cpp_extension:load_inline", {"name": "canarybird", "cpp_sources": "int x;"}),
    ("torch.nn:Sequential", {}),
    ("torch.nn:Linear", {"in_features": HUGE, "out_features": HUGE}),
    ("timm:create_model", {"model_name": "local-dir:{traps}/canarybird_model"}),
    ("timm.models:load_checkpoint", {"checkpoint_path": "canarybird.pth"}),
    ("torchvision.models:get_model", {"name": "resnet18"}),
    ("torchvision.models.resnet:ResNet", {"block": "canarybird", "layers": [1, 1, 1, 1]}),
    ("ultralytics.nn.tasks:DetectionModel", {"cfg": _YOLO}),
    ("ultralytics.nn.tasks:parse_model", {"d": _YOLO, "ch": 3}),
    ("ultralytics:YOLO", {"model": "{traps}/canarybird.pt"}),
    ("ultralytics:YOLO", {"model": "http://127.0.0.1:9/canarybird.pt"}),
    ("ultralytics.engine.model:Model", {"model": "https://127.0.0.1:9/canarybird.pt"}),
    ("ultralytics.nn.autobackend:AutoBackend", {"model": "{traps}/canarybird.pt"}),
    ("transformers:AutoModel.from_pretrained", {"pretrained_model_name_or_path": "{traps}"}),
    ("transformers:pipeline", {"model": "{traps}/canarybird_model"}),
    ("transformers.dynamic_module_utils:get_class_from_dynamic_module", {}),
    (f"{_SMP}:from_pretrained", {"pretrained_model_name_or_path": "{traps}/canarybird_model"}),
    (f"{_SMP}:create_model", {"arch": "unet"}),
    (f"{_SMP}.canarybird:Unet", {}),
    (f"{_SMP}.encoders:get_encoder", {"name": "tu-local-dir:{traps}/canarybird_model"}),
    (f"{_SMP}:encoders.hf_hub_download", {"repo_id": "evil/canarybird", "filename": "x"}),
    ("attnsurgeon:load", {"path": "{folder}", "trust": True}),
    ("attnsurgeon.models:load_model", {"spec": "canarybird:make"}),
    ("attnsurgeon.models.checkpoint:read_checkpoint", {"path": "canarybird.pt"}),
    ("tests.saved.written.network:make", {}),
    ("__main__:_main", {}),
    ("sys:exit", {}),
    ("antigravity:geohash", {}),
    ("~nobody_at_all/canarybird.py:make", {}),
    ("\0.py:make", {}),
    ("a\0b:make", {}),
    (":", {}),
    ("", {}),
    (":make", {}),
    ("timm:", {}),
    ("  test_resnet", {}),
    ("test_resnet\n", {}),
    ("..:make", {}),
    ("a" * 100_000, {}),
    ("\u202etimm:test_resnet", {}),
]

# Addresses and folders, under the names of the libraries.
ADDRESSES: list[tuple[str, dict[str, Any]]] = [
    ("hf-hub:evil/canarybird", {}),
    ("hf_hub:evil/canarybird", {}),
    ("hf-hub:{traps}/canarybird_model", {}),
    ("timm:hf-hub:evil/canarybird", {}),
    ("timm:local-dir:{traps}/canarybird_model", {}),
    ("local-dir:{traps}/canarybird_model", {}),
    ("timm:canarybird_model", {}),
    ("timm:test_resnet/../canarybird", {}),
    ("torchvision:canarybird", {}),
    ("torchvision:../canarybird", {}),
    ("transformers:{traps}/canarybird_model", {}),
    ("transformers:canarybird_model", {}),
    ("transformers:./canarybird_model", {}),
    ("transformers:evil/canarybird", {}),
    ("transformers:AutoModel", {}),
    ("transformers:AutoConfig", {}),
    ("transformers:PreTrainedModel", {}),
    ("transformers:os", {}),
    ("transformers:__loader__", {}),
    ("ultralytics:{traps}/canarybird.yaml", {}),
    ("ultralytics:canarybird.yaml", {}),
    ("ultralytics:yolov8n.yaml", {}),
    ("ultralytics:yolov8n-canarybird.yaml", {}),
    ("ultralytics:http://127.0.0.1:9/canarybird.yaml", {}),
    ("ultralytics:canarybird.pt", {}),
    ("ultralytics:../traps/yolov8n", {}),
    ("ultralytics:rtdetr-l.pt", {}),
]

# Arguments of networks that are of the vocabulary.
ARGUMENTS: list[tuple[str, dict[str, Any]]] = [
    ("test_resnet", {"checkpoint": "{folder}/e.pt", "unsafe_pickle": True}),
    ("test_resnet", {"checkpoint": "canarybird.pt"}),
    ("test_resnet", {"spec": "canarybird:make"}),
    ("test_resnet", {"pretrained": True}),
    ("test_resnet", {"unsafe_pickle": True}),
    ("test_resnet", {"checkpoint_path": "{traps}/canarybird.pth"}),
    ("test_resnet", {"pretrained_cfg": {"file": "canarybird.pth"}}),
    ("test_resnet", {"pretrained_cfg": {"url": "http://127.0.0.1:9/canarybird.pth"}}),
    ("test_resnet", {"pretrained_cfg": "canarybird"}),
    ("test_resnet", {"pretrained_cfg_overlay": {"file": "canarybird.pth", "custom_load": True}}),
    ("test_resnet", {"pretrained_cfg_overlay": {"hf_hub_id": "evil/canarybird"}}),
    ("test_resnet", {"pretrained_strict": False, "cache_dir": "{traps}"}),
    ("test_resnet", {"features_only": True, "feature_cls": "canarybird.make"}),
    ("test_resnet", {"features_only": True, "out_indices": [HUGE]}),
    ("test_resnet", {"act_layer": "canarybird.make"}),
    ("test_resnet", {"act_layer": _ACT}),
    ("test_resnet", {"norm_layer": "canarybird:make"}),
    ("test_resnet", {"block": {"canarybird": "make"}}),
    ("test_resnet", {"model_cfg": {"a": 1}}),
    ("test_resnet", {"scriptable": True, "no_jit": "canarybird"}),
    ("test_resnet", {"pruned": True}),
    ("test_resnet", {"num_classes": HUGE}),
    ("test_resnet", {"num_classes": 1 << 20}),
    ("test_resnet", {"num_classes": -HUGE}),
    ("test_resnet", {"layers": [1_000_000] * 4}),
    ("test_resnet", {"layers": [100_000, 1, 1, 1]}),
    ("test_resnet", {"channels": [1 << 20] * 4}),
    ("test_resnet", {"stem_width": 10**30}),
    ("test_resnet", {"drop_rate": float("inf")}),
    ("test_resnet", {"drop_rate": float("nan")}),
    ("test_resnet", {"layers": deep(60)}),
    ("test_resnet", {"layers": [1] * 300_000}),
    ("test_resnet", {"global_pool": "a" * 1_000_000}),
    ("test_resnet", {"__class__": "canarybird"}),
    ("test_resnet", {"self": 1}),
    ("test_resnet", {"": 1}),
    ("test_resnet", {"a\nb": 1}),
    ("test_resnet", {f"a{i}": 1 for i in range(5_000)}),
    ("vit_tiny_patch16_224", {"img_size": 1 << 19}),
    ("vit_tiny_patch16_224", {"depth": 1_000_000}),
    ("vit_tiny_patch16_224", {"embed_dim": 1 << 20, "num_heads": 1}),
    ("efficientnet_b0", {"channel_multiplier": 1e6}),
    ("efficientnet_b0", {"depth_multiplier": 1e6}),
    ("vit_small_r26_s32_224", {"backbone": "local-dir:canarybird_model"}),
    ("torchvision:resnet18", {"weights": "DEFAULT"}),
    ("torchvision:resnet18", {"weights": "canarybird"}),
    ("torchvision:resnet18", {"pretrained": True}),
    ("torchvision:resnet18", {"num_classes": HUGE}),
    ("torchvision:resnet18", {"norm_layer": "canarybird"}),
    ("torchvision:fasterrcnn_resnet50_fpn", {"weights_backbone": "DEFAULT"}),
    ("torchvision:fasterrcnn_resnet50_fpn", {"pretrained_backbone": True}),
    ("torchvision:fasterrcnn_resnet50_fpn", {"backbone": "canarybird"}),
    (_VIT, {"auto_map": {"AutoModel": "canarybird.Model"}, "trust_remote_code": True}),
    (_VIT, {"trust_remote_code": True}),
    (_VIT, {"_attn_implementation": "evil/canarybird"}),
    (_VIT, {"attn_implementation": "evil/canarybird:make"}),
    (_VIT, {"_attn_implementation_internal": "evil/canarybird"}),
    (_VIT, {"experts_implementation": "evil/canarybird"}),
    (_VIT, {"quantization_config": {"quant_method": "canarybird"}}),
    (_VIT, {"kernel_config": {"canarybird": "evil/canarybird"}}),
    (_VIT, {"_name_or_path": "{traps}/canarybird_model"}),
    (_VIT, {"name_or_path": "evil/canarybird"}),
    (_VIT, {"hidden_act": "canarybird.make"}),
    (_VIT, {"hidden_act": _ACT}),
    (_VIT, {"dtype": "os"}),
    (_VIT, {"torch_dtype": "load"}),
    (_VIT, {"num_hidden_layers": HUGE}),
    (_VIT, {"num_hidden_layers": 1_000_000}),
    (_VIT, {"hidden_size": 1 << 20}),
    (_VIT, {"image_size": 1 << 20, "patch_size": 1}),
    (_VIT, {"id2label": {str(i): "x" for i in range(300_000)}}),
    (_VIT, {"id2label": [1, 2]}),
    (_VIT, {"per_layer_config": {"0": {"hidden_size": HUGE}}}),
    (_VIT, {"from_pretrained": "canarybird"}),
    (_VIT, {"save_pretrained": 1}),
    (_RESNET, {"depths": [1_000_000]}),
    (_RESNET, {"depths": [1_000_000, 1_000_000, 1_000_000, 1_000_000]}),
    (_RESNET, {"hidden_sizes": [1 << 20] * 4}),
    (_RESNET, {"stage_names": ["canarybird/make"]}),
    (_DETR, {"backbone": "evil/canarybird", "use_timm_backbone": False}),
    (_DETR, {"use_pretrained_backbone": True, "backbone": "resnet18"}),
    (_DETR, {"backbone_config": {"model_type": "timm_backbone", "backbone": "hf-hub:evil/c"}}),
    (_DETR, {"backbone_config": {"model_type": "resnet", "auto_map": {"AutoBackbone": "c.M"}}}),
    (_DETR, {"backbone_config": {"model_type": "canarybird"}}),
    (_DETR, {"backbone_config": {"model_type": ["resnet"]}}),
    (_DETR, {"backbone_config": {"model_type": "resnet", "depths": [1_000_000]}}),
    (_DETR, {"backbone_config": {"model_type": "resnet", "_name_or_path": "evil/canarybird"}}),
    (_WRAPPED, {"architecture": "local-dir:{traps}/canarybird_model"}),
    (_WRAPPED, {"architecture": "hf-hub:evil/canarybird"}),
    (_WRAPPED, {"architecture": "test_resnet", "model_args": {"pretrained": True}}),
    (_WRAPPED, {"architecture": "test_resnet", "model_args": {"checkpoint_path": "canarybird.pt"}}),
    ("transformers:RagModel", {"index_path": "canarybird.pt", "index_name": "custom"}),
    ("transformers:VisionEncoderDecoderModel", {"encoder": {"auto_map": {"AutoConfig": "c.C"}}}),
    (f"{_SMP}:Unet", {"encoder_name": "tu-hf-hub:evil/canarybird"}),
    (f"{_SMP}:Unet", {"encoder_name": "tu-local-dir:{traps}/canarybird_model"}),
    (f"{_SMP}:Unet", {"encoder_name": "canarybird"}),
    (f"{_SMP}:Unet", {"encoder_name": ["resnet18"]}),
    (f"{_SMP}:Unet", {"encoder_name": "resnet18", "encoder_weights": "imagenet"}),
    (f"{_SMP}:Unet", {"encoder_name": "resnet18", "activation": "canarybird.make"}),
    (f"{_SMP}:Unet", {"encoder_name": "resnet18", "checkpoint_path": "canarybird.pt"}),
    (f"{_SMP}:Unet", {"encoder_name": "resnet18", "decoder_channels": [1 << 20] * 5}),
    (f"{_SMP}:Unet", {"encoder_name": "resnet18", "classes": HUGE}),
    ("ultralytics:yolov8n", {"cfg": _YOLO}),
    ("ultralytics:yolov8n", {"cfg": "{traps}/canarybird.yaml"}),
    ("ultralytics:yolov8n", {"weights": "canarybird.pt"}),
    ("ultralytics:yolov8n", {"activation": _ACT}),
    ("ultralytics:yolov8n", {"nc": HUGE}),
    ("ultralytics:yolov8n", {"nc": 1 << 20}),
    ("ultralytics:yolov8n", {"nc": "canarybird.py"}),
    ("ultralytics:yolov8n", {"ch": 1 << 20}),
]

# Without weights to be held against, and without memory, this is a network like others.
LARGE_BUT_ONLY_SHAPES = [{"num_classes": 1 << 20}]


def at(*keys: Any, value: Any) -> Callable[[Record, Path, Path], None]:
    """Sets one part of the record."""

    def change(record: Record, folder: Path, traps: Path) -> None:
        for key in keys[:-1]:
            record = record[key]
        record[keys[-1]] = value

    return change


_SITE = ("operations", 0, "sites", 0)


def _adapter(record: Record, folder: Path, traps: Path) -> None:
    record["mode"] = "adapter"
    record["weights"]["file"] = "adapter.safetensors"
    record["base"]["form"] = {"dtypes": {}, "strides": {}}
    (folder / "model.safetensors").rename(folder / "adapter.safetensors")


def _adapter_of(spec: str, weights: str) -> Callable[[Record, Path, Path], None]:
    def change(record: Record, folder: Path, traps: Path) -> None:
        _adapter(record, folder, traps)
        record["source"] |= {"spec": spec, "weights": weights}

    return change


# Other parts of the record.
RECORDS: dict[str, Callable[[Record, Path, Path], None]] = {
    "an adapter of an address": _adapter_of("hf-hub:evil/canarybird", "pretrained"),
    "an adapter of code": _adapter_of("canarybird:make", "as built"),
    "an adapter of a checkpoint": _adapter_of("test_resnet", "checkpoint canarybird.pt"),
    "a mechanism by code": at(*_SITE, "attn", value="canarybird:make"),
    "a mechanism by path": at(*_SITE, "attn", value="../../canarybird"),
    "a mechanism with code": at(*_SITE, "args", value={"act_layer": _ACT}),
    "a mechanism of all memory": at(*_SITE, "args", value={"kernel_size": HUGE + 1}),
    "parameters of all memory": at(*_SITE, "params", value=10**15),
    "an input of all memory": at("operations", 0, "input_size", value=[3, 65536, 65536]),
    "a path by code": at(*_SITE, "path", value=_ACT),
    "a module path by code": at(*_SITE, "module_path", value="__class__.__init__.__globals__"),
    "an action by code": at(*_SITE, "action", value="canarybird"),
    "a dtype by code": at("base", "form", value={"dtypes": {"a": "os"}, "strides": {}}),
    "a file of weights elsewhere": at("weights", "file", value="../traps/canarybird.pt"),
    "a file of weights by its whole path": at("weights", "file", value="/etc/passwd"),
    "buffers elsewhere": at("buffers", value={"file": "/etc/passwd"}),
    "a source that is a list": at("source", value=["canarybird:make"]),
    "a spec that is a list": at("source", "spec", value=["canarybird:make"]),
    "a tuple for a spec": at("source", "spec", value={"tuple": ["canarybird:make"]}),
    "arguments that are a tuple": at("source", "model_args", value={"tuple": [1, 2]}),
}


def _write(name: str, content: bytes) -> Callable[[Path, Path], None]:
    return lambda folder, traps: _replace(folder / name, lambda file: file.write_bytes(content))


def _link(name: str, to: str) -> Callable[[Path, Path], None]:
    return lambda folder, traps: _replace(
        folder / name, lambda file: file.symlink_to(to.format(traps=traps))
    )


def _replace(file: Path, make: Callable[[Path], object]) -> None:
    file.unlink(missing_ok=True)
    make(file)


def _header_of(length: int) -> bytes:
    return struct.pack("<Q", length) + b"{" * 100


# Files of a folder that are not what they seem.
FILES: dict[str, Callable[[Path, Path], None]] = {
    "weights that are a pickle": _write(
        "model.safetensors", b"cbuiltins\nexec\n(S\"open('pickle.ran','w').close()\"\ntR."
    ),
    "weights that are a link to a secret": _link("model.safetensors", "/etc/passwd"),
    "weights that are a link to a trap": _link("model.safetensors", "{traps}/canarybird.pt"),
    "weights that are a link to a device": _link("model.safetensors", "/dev/zero"),
    "weights that are a link to themselves": _link("model.safetensors", "model.safetensors"),
    "weights that are a pipe": lambda folder, traps: _replace(
        folder / "model.safetensors", lambda file: os.mkfifo(file)
    ),
    "weights with a header of all memory": _write("model.safetensors", _header_of(1 << 62)),
    "a record that is a link to a secret": _link("surgery.json", "/etc/passwd"),
    "a record that is a link to a device": _link("surgery.json", "/dev/zero"),
    "a record that is a pipe": lambda folder, traps: _replace(
        folder / "surgery.json", lambda file: os.mkfifo(file)
    ),
    "a record that is deep": _write("surgery.json", b'{"a":' * 100_000),
    "a record that is deep in lists": _write("surgery.json", b"[" * 5_000_000),
    "a record of one long number": _write("surgery.json", b"9" * 4_000_000),
    "a record of many small lists": _write("surgery.json", b"[" + b"[]," * 2_700_000 + b"[]]"),
    "a record that is too large": _write("surgery.json", b" " * (1 << 27)),
    "a record of nothing": _write("surgery.json", b"\0" * 100),
}

GOOD_RULE = "version: 1\nname: a\nrules:\n  - {id: r, match: {site: stem}}\n"
# Rule files that YAML readers have been broken with.
TEXTS = {
    "a tag that calls": "!!python/object/apply:os.system ['touch os.ran']\n",
    "a tag that imports": "version: 1\nrules: !!python/module:canarybird {}\n",
    "a tag that makes": GOOD_RULE + "tests: !!python/object/new:canarybird.Net [1]\n",
    "a bomb of aliases": "a: &a [1,1,1,1,1,1,1,1,1]\n"
    + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [{','.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(9)
    ),
    "a file that is deep": "[" * 100_000,
    "a file that is long": "a: 1\n" * 400_000,
    "a test of no kind": GOOD_RULE + "tests: [{model: {a: 1}, expect: {r: {count: 1}}}]\n",
}
