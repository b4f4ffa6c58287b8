"""Records written by hand: what a report is made of, with every part that it can have."""

from __future__ import annotations

import copy
from typing import Any

ECA = {
    "name": "eca",
    "title": "Efficient channel attention",
    "kind": "gate",
    "ranks": (2, 3),
    "paper": "https://arxiv.org/abs/1910.03151",
    "venue": "CVPR 2020",
    "equation": "gate = sigmoid(conv1d_k(mean(x)))\ny = x * gate",
    "placement": "residual-branch",
    "formula": "k",
    "identity": "native",
    "identity_how": "conv starts at zero and the gate is 2 * sigmoid",
    "pictures": ["channel"],
    "pictures_how": "the gate of each channel",
    "constraints": ("kernel_size is odd",),
    "deviations": (
        "k follows the paper's formula; the authors' trained ResNets set 3, 5, 5, 7 by stage "
        "(kernel_size=...), where the formula gives 5, 5, 5, 7",
        "the gate is a sigmoid as in the authors' code",
    ),
    "unmoved": (),
    "inert": (),
    "lighter": "",
    "rank_reason": "",
    "resolution_free": True,
    "spatial": False,
    "args": {"kernel_size": None},
    "required": [],
    "meanings": {"kernel_size": "k, odd; None for the paper's function of C."},
}


def site(path: str, channels: int, side: int, params: int, **more: Any) -> dict[str, Any]:
    """A site as `Cut.record` writes it."""
    block = path.rpartition(".")[0]
    return {
        "path": path,
        "channels": channels,
        "layout": "NCHW",
        "module_path": f"{block}.attn",
        "params": params,
        "attn": "eca",
        "args": {},
        "init": "identity",
        "action": "insert-after",
        "rule": "bottleneck",
        "technique": "retype",
        "shared": [],
        "note": "",
        "resolution": [side, side],
        "macs": 0,
        "activations": 0,
        **more,
    }


VERIFIED: dict[str, Any] = {
    "init": "identity",
    "identity": True,
    "max_abs_diff": 0.0,
    "relative_diff": 0.0,
    "top1_agreement": 1.0,
    "values_checked": 214,
    "values_equal": 214,
    "sizes": ((2, 3, 96, 64), (2, 3, 64, 128)),
    "missing_keys": (),
    "unexpected_keys": (),
    "reordered": False,
    "dead": (),
    "still": (),
    "stuck": None,
    "excused": (),
    "round_trip": None,
    "notes": (),
    "ok": True,
    "problems": [],
}

# Figures of resnet50 with ECA, of whose 86 parameters 13 * 5 + 3 * 7 = 86 are the kernels.
OPERATION: dict[str, Any] = {
    "model": "resnet50",
    "model_args": {},
    "weights": "pretrained",
    "stripped": [],
    "attn": "eca",
    "where": "bottleneck",
    "init": "identity",
    "mechanisms": [ECA],
    "input_size": [3, 224, 224],
    "sites": [
        site(f"layer{stage}.{block}.bn3", 128 * 2**stage, 112 // 2**stage, 7 if stage == 4 else 5)
        for stage, blocks in [(1, 3), (2, 4), (3, 6), (4, 3)]
        for block in range(blocks)
    ],
    "refused": [],
    "notes": [],
    "cost": {
        "before": {"params": 25_557_032, "macs": 4_111_512_576, "activations": 11_114_984},
        "after": {"params": 25_557_118, "macs": 4_122_684_416, "activations": 11_130_088},
        "delta": {
            "params": 86,
            "macs": 11_171_840,
            "activations": 15_104,
            "params_percent": 100 * 86 / 25_557_032,
            "macs_percent": 100 * 11_171_840 / 4_111_512_576,
            "activations_percent": 100 * 15_104 / 11_114_984,
        },
        "per_site": [],
        "uncounted": ["relu", "add", "max_pool2d"],
        "uncounted_calls": {"relu": 49, "add": 16, "max_pool2d": 1},
        "notes": ["counted inside the inserted modules, one operation an element: mul, sigmoid"],
    },
    "latency": None,
    "verification": VERIFIED,
    "output": None,
    "load": None,
}


def operation(**changes: Any) -> dict[str, Any]:
    """The operation above, with parts replaced; `verification` is updated, not replaced."""
    record = copy.deepcopy(OPERATION)
    verification = changes.pop("verification", {})
    record.update(changes)
    record["verification"] = (
        None if verification is None else {**record["verification"], **verification}
    )
    return record


def _seconds(q1: float, median: float, q3: float) -> dict[str, float]:
    figures = {"median": median, "q1": q1, "q3": q3, "low": q1, "high": q3}
    return {f"{name}_seconds": figure for name, figure in figures.items()}


MEASURED: dict[str, Any] = {
    "forward": {
        "before": _seconds(0.05, 0.0531, 0.06),
        "after": _seconds(0.05, 0.0552, 0.06),
        "ratio": {"median": 1.0396, "q1": 1.01, "q3": 1.07, "low": 1.025, "high": 1.051},
        "pairs": 40,
        "warm_up_pairs": 2,
        "interval_known": True,
        "undecided": False,
    },
    "training_step": {
        "before": _seconds(0.14, 0.159, 0.17),
        "after": _seconds(0.15, 0.1685, 0.19),
        "ratio": {"median": 1.06, "q1": 0.98, "q3": 1.12, "low": 0.99, "high": 1.11},
        "pairs": 20,
        "warm_up_pairs": 2,
        "interval_known": True,
        "undecided": True,
    },
    "training_memory": {
        "before_bytes": 86_121_984,
        "after_bytes": 102_503_424,
        "delta_bytes": 16_381_440,
        "delta_percent": 100 * 16_381_440 / 86_121_984,
        "counts": "saved tensors",
    },
    "no_training_step": None,
    "batch": 1,
    "device": "cpu",
    "dtype": "float32",
    "threads": 2,
    "limit_seconds": 60.0,
}


def troubled() -> dict[str, Any]:
    """Everything that can be wrong or odd with an operation, at once."""
    record = operation(
        weights="checkpoint r50.pth (moving average)",
        stripped=["model_ema", "module."],
        model_args={"num_classes": 10},
        attn="eca+se",
        where="mine.yaml",
        init="paper",
        mechanisms=[
            ECA,
            {**ECA, "name": "se", "title": "Squeeze-and-excitation", "venue": "CVPR 2018",
             "lighter": "a larger reduction"},
        ],
        sites=[
            site("layer1.0.bn3", 256, 56, 5),
            site("layer1.1.bn3", 256, 56, 5, technique="output-hook", note="a norm"),
            site("layer1.2.conv3", 64, 56, 8_208, attn="se", args={"reduction": 4}, init="paper",
                 action="insert-before", shared=["layer1.2.conv3#2"]),
        ],
        refused=[
            {"path": f"layer4.{block}.bn3", "rule": "late", "reason": "it rebuilds itself"}
            for block in range(3)
        ],
        latency=MEASURED,
        verification={
            "init": "paper",
            "identity": False,
            "max_abs_diff": 3.25,
            "relative_diff": 0.417,
            "top1_agreement": 0.5,
            "values_equal": 3,
            "missing_keys": ("fc.weight",),
            "unexpected_keys": ("stray",),
            "reordered": True,
            "dead": ("layer1.0.attn", "layer1.1.attn", "a", "b"),
            "still": ("layer1.2.attn",),
            "stuck": ("layer1.2.attn.fc1.weight",),
            "excused": ("layer1.2.attn.fc1.bias",),
            "round_trip": False,
            "notes": ("checked at one input size, the only one that the network takes",),
        },
    )  # fmt: skip
    record["cost"]["delta"]["params_percent"] = 178.9
    return record


def place(path: str, roles: list[str], channels: int, side: int, stage: int, **more: Any) -> Any:
    """A site as `site_record` writes it."""
    return {
        "path": path,
        "owner": path.rpartition(".")[0],
        "type": "BatchNorm2d",
        "roles": roles,
        "channels": channels,
        "shape": (2, channels, side, side),
        "layout": "NCHW",
        "stride": 224 / side,
        "stage": stage,
        "block": None,
        "calls": 1,
        "kernel": None,
        "conv_stride": None,
        "groups": None,
        "depthwise": None,
        "branch": None,
        "follows": (),
        "precedes": (),
        "index": 0,
        "resolution": (side, side),
        **more,
    }


NETWORK: dict[str, Any] = {
    "model": "twostage",
    "input_size": [3, 224, 224],
    "why_real": None,
    "sites": [
        place("stem.conv", ["conv"], 64, 112, 0, type="Conv2d", kernel=(7, 7),
              conv_stride=(2, 2), groups=1, depthwise=False),
        place("stem.norm", ["norm", "stem"], 64, 112, 0),
        *(
            made
            for stage, blocks in [(1, 2), (2, 3)]
            for block in range(blocks)
            for made in (
                place(f"layer{stage}.{block}.conv2", ["conv"], 64 * stage, 56 // stage, stage,
                      type="Conv2d", kernel=(3, 3), conv_stride=(1, 1), groups=64 * stage,
                      depthwise=True),
                place(f"layer{stage}.{block}.bn2", ["norm", "residual-branch"], 64 * stage,
                      56 // stage, stage, branch=("1x1", "dw3x3")),
                place(f"layer{stage}.{block}:add",
                      ["residual-add", "residual-block"] + ["stage"] * (block == blocks - 1),
                      64 * stage, 56 // stage, stage, type="add"),
            )
        ),
    ],
    "refused": [{"path": "pos:add", "reason": "one term is a parameter"}],
}  # fmt: skip


def module(path: str, kind: str, shape: list[int], params: int, macs: int, **more: Any) -> Any:
    """A module as `modules_record` writes it."""
    about = {"path": path, "type": kind, "shape": shape, "params": params, "macs": macs}
    return {**about, "calls": 1, "attn": None, **more}


NETWORK["modules"] = [
    module("", "TwoStage", [1000], 11_689_512, 1_814_073_344),
    module("stem", "Sequential", [64, 112, 112], 9_536, 119_214_080),
    module("stem.conv", "Conv2d", [64, 112, 112], 9_408, 118_013_952),
    module("stem.norm", "BatchNorm2d", [64, 112, 112], 128, 1_605_632),
    *(
        made
        for stage, blocks in [(1, 2), (2, 3)]
        for made in (
            module(f"layer{stage}", "Sequential", [64 * stage, 56, 56], 999 * blocks, 10_000_000),
            *(
                made
                for block in range(blocks)
                for made in (
                    module(f"layer{stage}.{block}", "Block", [64 * stage, 56, 56], 999, 5_000_000),
                    module(f"layer{stage}.{block}.conv2", "Conv2d", [64 * stage, 56, 56], 576, 0),
                    module(f"layer{stage}.{block}.bn2", "BatchNorm2d", [64 * stage, 56, 56], 99, 0),
                    module(f"layer{stage}.{block}.attn", "ECA", [64 * stage, 56, 56], 3, 131,
                           attn="eca"),
                )
            ),
        )
    ),
    module("drop", "Dropout", [1000], 0, 0),
]  # fmt: skip
