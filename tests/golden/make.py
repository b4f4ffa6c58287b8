"""Makes vectors from authors' own modules: `python -m tests.golden.make FOLDER`.

FOLDER has a clone of each repository, named OWNER+NAME, with the commit that is named here checked
out. Nothing of it is copied: a file is run as it is, and what it imports beside torch and does not
use in its module is replaced by empty names. Vectors that are there already are left.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import types
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.golden.fill import fill

HERE = Path(__file__).parent


class Nothing(nn.Module):
    """Whatever a file wants of a package that is not there: a base, a decorator, an initialiser."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    @staticmethod
    def register() -> Any:
        return lambda made: made


class Registry:
    """One that a class is written into by a decorator, and that remembers nothing."""

    @staticmethod
    def register_module() -> Any:
        """Returns the decorator."""
        return lambda made: made


class Absent(types.ModuleType):
    """A package that is not there."""

    __path__: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # Python itself asks, as for the file
            raise AttributeError(name)
        return Nothing


@dataclass(frozen=True)
class Origin:
    """One vector: where the module is, how its authors build it, and what we call the same.

    Attributes:
        source: OWNER/NAME of the repository.
        commit: of that repository.
        file, name: of the class.
        args: it is built with.
        config: our name and arguments.
        package: that the file belongs to, where it imports from its own.
        absent: modules that the file imports and that need not be there.
        given: module -> names of it that are there, as what they stand for.
        around: what the authors' networks have around their module.
        positive: whether the inputs are above zero, as behind a ReLU.
        second: of a module of two inputs, the shape of the other.
    """

    source: str
    commit: str
    file: str
    name: str
    args: dict[str, Any]
    config: dict[str, Any]
    package: str = ""
    absent: tuple[str, ...] = ()
    given: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    around: Callable[[nn.Module], nn.Module] | None = None
    note: str = ""
    shape: tuple[int, ...] = field(default=(2, 64, 14, 10))
    second: tuple[int, ...] = ()
    positive: bool = False


class Gated(nn.Module):
    """The gated skip alone, of a module that returns its mask as well."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor, signal: Tensor) -> Tensor:
        return self.module(x, signal)[0]


class SignalFirst(nn.Module):
    """A module that wants the signal first."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor, signal: Tensor) -> Tensor:
        return self.module(signal, x)


_NO_CODE = "a third party's, as the authors published no code"
_ELSEWHERE = "a third party's, as the authors' code is for"
_GRID = {
    "source": "ozan-oktay/Attention-Gated-Networks",
    "commit": "eee4881fdc31920efd873773e0b744df8dacbfb6",
    "file": "models/layers/grid_attention_layer.py",
    "absent": ("models", "models.networks_other"),
    "around": Gated,
}
_VOVNET = {
    "source": "youngwanLEE/vovnet-detectron2",
    "commit": "b81c813cbf6e7253655c20a16b83038988b881d9",
    "file": "vovnet/vovnet.py",
    "absent": (
        "detectron2",
        "detectron2.layers",
        "detectron2.modeling",
        "detectron2.modeling.backbone",
        "detectron2.modeling.backbone.build",
        "detectron2.modeling.backbone.fpn",
    ),
}
_GCT = {
    "source": "z-x-yang/GCT",
    "commit": "68983edd87f8cfbe709b1b51214c69eb9c81abd7",
    "file": "PyTorch/GCT.py",
    "name": "GCT",
}
_GC = {
    "source": "xvjiarui/GCNet",
    "commit": "029db5407dc27147eb1d41f62b09dfed8ec88837",
    "file": "mmdet/ops/gcb/context_block.py",
    "name": "ContextBlock",
    "absent": ("mmcv", "mmcv.cnn"),
}


def _gc(config: dict[str, Any], **args: Any) -> Origin:
    args = {"inplanes": 64, "ratio": 1 / 16, **args}
    return Origin(**_GC, args=args, config={"attn": "gc", "channels": 64, **config})


_NL = {
    "source": "AlexHex7/Non-local_pytorch",
    "commit": "ec15789af4533448169f3dc36abe542badd34221",
    "name": "NONLocalBlock2D",
    "note": f"{_ELSEWHERE} Caffe2",
}
_DANET = {
    "source": "junfu1115/DANet",
    "commit": "b0a0fa008148f102321cdaa7ca38fb0ddd0239d1",
    "file": "encoding/nn/da_att.py",
    "args": {"in_dim": 64},
}
_EANET = {
    "source": "MenghaoGuo/EANet",
    "commit": "59c03cb0a286d3a29a797f8ea07fb89d7af56b60",
    "file": "model_torch.py",
    "name": "External_attention",
    "given": {
        "bn_lib.nn.modules": {"SynchronizedBatchNorm2d": nn.BatchNorm2d},
        "settings": {"BN_MOM": 0.1},
    },
    "absent": ("bn_lib", "bn_lib.nn"),
}
_TIMM = {
    "source": "huggingface/pytorch-image-models",
    "commit": "d08d5a039222684f3173af23c146099c4ed7084b",
    "package": "timm.layers",
    "shape": (2, 64, 8, 16),
}
_POLARIZED = {
    "source": "DeLightCMU/PSA",
    "commit": "20e307ad708ae6a39239aa50ffa32e0c36c92894",
    "file": "semantic-segmentation/network/PSA.py",
    "args": {"inplanes": 64, "planes": 64},
}


_GENERALIZED = {
    "source": "open-mmlab/mmcv",
    "commit": "a8073c74bf83d62ec36a103f835faa4837fb6585",
    "file": "mmcv/cnn/bricks/generalized_attention.py",
    "name": "GeneralizedAttention",
    "absent": ("mmengine",),
    "given": {
        "mmengine.model": {"kaiming_init": lambda layer, **how: None},
        "mmengine.registry": {"MODELS": Registry},
    },
    "shape": (2, 64, 9, 14),
}


def _generalized(attention_type: str, **args: Any) -> Origin:
    called = {"num_heads": 8, "attention_type": attention_type, **args}
    ours = {"heads" if name == "num_heads" else name: value for name, value in called.items()}
    return Origin(
        **_GENERALIZED,
        args={"in_channels": 64, **called},
        config={"attn": "generalized", "channels": 64, **ours},
    )


def _nl(form: str, file: str) -> Origin:
    config = {"attn": "nl", "channels": 64, "form": form, "scale": False}
    args = {"in_channels": 64, "sub_sample": False, "bn_layer": False}
    return Origin(**_NL, file=f"lib/non_local_{file}.py", args=args, config=config)


def _acon(name: str, config: dict[str, Any]) -> Origin:
    return Origin(
        source="nmaac/acon",
        commit="99fd67928a6ffb0543b54614303caada96c756f5",
        file="acon.py",
        name=name,
        args={"width": 64},
        config={"attn": "acon", "channels": 64, **config},
    )


def _dyrelu(form: str) -> Origin:
    return Origin(
        source="Islanna/DynamicReLU",
        commit="0ba5a33821024d5e7d098f2343e3bb10a4fe4bb9",
        file="dyrelu.py",
        name=f"DyReLU{form}",
        args={"channels": 64, "reduction": 4},
        config={"attn": "dyrelu", "channels": 64, "form": form, "reduction": 4},
        note="a third party's, as the authors published no code of it alone",
    )


def _splat(config: dict[str, Any], **more: Any) -> Origin:
    return Origin(
        source="zhanghang1989/ResNeSt",
        commit="1dfb3e8867e2ece1c28a65c9db1cded2818a2031",
        file="resnest/torch/models/splat.py",
        name="SplAtConv2d",
        args={
            "in_channels": 64,
            "channels": 64,
            "kernel_size": 3,
            "padding": 1,
            "bias": False,
            "norm_layer": nn.BatchNorm2d,
            **config,
        },
        config={"attn": "splat", "channels": 64, **config},
        **more,
    )


class ConvModule(nn.Sequential):
    """What mmcv calls so: a convolution, with a norm and a ReLU where these are asked for."""

    def __init__(
        self, in_channels: int, out_channels: int, *, norm_cfg: Any, act_cfg: Any, **more: Any
    ) -> None:
        kernel = more["kernel_size"]
        layers: list[nn.Module] = [
            nn.Conv2d(in_channels, out_channels, kernel, bias=norm_cfg is None)
        ]
        layers += [nn.BatchNorm2d(out_channels)] if norm_cfg else []
        layers += [nn.ReLU()] if act_cfg else []
        super().__init__(*layers)


class Windows(nn.Module):
    """What is written for a GPU alone: windows by weights (N, 1, shared, k k, H, W)."""

    def __init__(self, *channels: int, kernel_size: int, padding: int, **more: Any) -> None:
        super().__init__()
        self.unfold = nn.Unfold(kernel_size, padding=padding)

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        """Returns the sums."""
        n, _, shared, taps, height, width = weight.shape
        windows = self.unfold(x).view(n, -1, shared, taps, height, width)
        return (windows * weight).sum(3).view(x.shape)


class Alone(nn.Module):
    """A block of a network, of which only what takes the place of its middle is left.

    Its input is above zero, so that the ReLUs before and behind it change nothing.
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        for name in ("bn1", "conv3", "bn3"):
            setattr(block, name, nn.Identity())
        block.conv1, block.downsample = Copy(1.0), Copy(0.0)
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        """Returns what the middle makes of `x`."""
        return self.block(x)


class Copy(nn.Module):
    """Another tensor of the same values, times a number."""

    def __init__(self, times: float) -> None:
        super().__init__()
        self.times = times

    def forward(self, x: Tensor) -> Tensor:
        """Returns it."""
        return self.times * x


class Multiplied(nn.Module):
    """A value times the gates of channels that a method of a block finds."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        for name in ("conv1", "bn1", "conv2", "bn2", "conv3", "bn3"):
            setattr(block, name, nn.Identity())
        self.block: Any = block

    def forward(self, x: Tensor) -> Tensor:
        """Returns `x` times its gates."""
        return x * self.block.chan_att(x)


class Routed(nn.Module):
    """A convolution of several kernels, and the layer that its network routes images by."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv: Any = conv
        self.routing = nn.Linear(conv.in_channels, conv.num_experts)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the convolution of `x`."""
        return self.conv(x, self.routing(x.mean((2, 3))).sigmoid())


class Added(nn.Module):
    """A block that a network adds to what it was made from."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        """Returns `x` plus what the block makes of it."""
        return x + self.inner(x)


ORIGINS = {
    "ese": Origin(
        **_VOVNET, name="eSEModule", args={"channel": 64}, config={"attn": "ese", "channels": 64}
    ),
    "gct": Origin(**_GCT, args={"num_channels": 64}, config={"attn": "gct", "channels": 64}),
    "gct_l1": Origin(
        **_GCT,
        args={"num_channels": 64, "mode": "l1"},
        config={"attn": "gct", "channels": 64, "norm": "l1"},
    ),
    "gc": _gc({}),
    "gc_r4": _gc({"reduction": 4}, ratio=1 / 4),
    "gc_mean": _gc({"pool": "mean"}, pooling_type="avg"),
    "gc_scale": _gc({"fusion": "scale"}, fusion_types=("channel_mul",)),
    "nl": _nl("embedded", "embedded_gaussian"),
    "nl_gaussian": _nl("gaussian", "gaussian"),
    "nl_dot": _nl("dot", "dot_product"),
    "nl_concatenation": _nl("concatenation", "concatenation"),
    "a2": Origin(
        source="nguyenvo09/Double-Attention-Network",
        commit="c378693ff6c0407e9e460570b168c22e642b3f54",
        file="double_attention_layer.py",
        name="DoubleAttentionLayer",
        args={"in_channels": 64, "c_m": 32, "c_n": 32, "reconstruct": True},
        config={"attn": "a2", "channels": 64},
        around=Added,
        note=_NO_CODE,
    ),
    "danet_position": Origin(
        **_DANET,
        name="PAM_Module",
        config={"attn": "danet", "channels": 64, "form": "position"},
    ),
    "danet_channel": Origin(
        **_DANET,
        name="CAM_Module",
        config={"attn": "danet", "channels": 64, "form": "channel"},
        shape=(2, 64, 5, 3),
    ),
    "external": Origin(
        **_EANET,
        args={"c": 48},
        config={"attn": "external", "channels": 48, "relu": True},
        shape=(2, 48, 14, 10),
    ),
    "lka": Origin(
        source="Visual-Attention-Network/VAN-Classification",
        commit="e19779b53a1b0828b51ecb4412d577541aee83a7",
        file="models/van.py",
        name="LKA",
        args={"dim": 64},
        config={"attn": "lka", "channels": 64},
        absent=("timm.models.layers", "timm.models.registry"),
    ),
    "lka_projections": Origin(
        source="Visual-Attention-Network/VAN-Classification",
        commit="e19779b53a1b0828b51ecb4412d577541aee83a7",
        file="models/van.py",
        name="Attention",
        args={"d_model": 64},
        config={"attn": "lka", "channels": 64, "projections": True},
        absent=("timm.models.layers", "timm.models.registry"),
    ),
    "mlca": Origin(
        source="wandahangFY/MLCA",
        commit="afbeb47a0f140b7ac446405218ac5d993931db28",
        file="MLCA.py",
        name="MLCA",
        args={"in_size": 64},
        config={"attn": "mlca", "channels": 64},
    ),
    "mca": Origin(
        source="ndsclark/MCANet",
        commit="9766391107871a79f70e9f22932ec74ba871af91",
        file="ImageNet/mca_module.py",
        name="MCALayer",
        args={"inp": 64},
        config={"attn": "mca", "channels": 64},
    ),
    "ema": Origin(
        source="YOLOonMe/EMA-attention-module",
        commit="afc37ecf52454c03421a86105fc5c16eb4ea1ad3",
        file="EMA_attention_module",
        name="EMA",
        args={"channels": 64, "factor": 8},
        config={"attn": "ema", "channels": 64, "groups": 8},
    ),
    "polarized": Origin(**_POLARIZED, name="PSA_p", config={"attn": "polarized", "channels": 64}),
    "polarized_sequential": Origin(
        **_POLARIZED,
        name="PSA_s",
        config={"attn": "polarized", "channels": 64, "form": "sequential"},
    ),
    "acon": _acon("MetaAconC", {}),
    "acon_c": _acon("AconC", {"form": "c"}),
    "frelu": Origin(
        source="wandahangFY/MLCA",
        commit="afbeb47a0f140b7ac446405218ac5d993931db28",
        file="utils/activations.py",
        name="FReLU",
        args={"c1": 64},
        config={"attn": "frelu", "channels": 64},
        note=f"{_ELSEWHERE} MegEngine",
    ),
    "dyrelu_a": _dyrelu("A"),
    "dyrelu_b": _dyrelu("B"),
    "involution": Origin(
        source="d-li14/involution",
        commit="21c3158fcbb4ecda8ed4626fcae8b01be511a598",
        file="cls/mmcls/models/utils/involution_naive.py",
        name="involution",
        args={"channels": 64, "kernel_size": 7, "stride": 1},
        config={"attn": "involution", "channels": 64},
        absent=("mmcv",),
        given={"mmcv.cnn": {"ConvModule": ConvModule}},
    ),
    "cot": Origin(
        source="JDAI-CV/CoTNet",
        commit="895e02467d5691c5227f501732dc84390706a25f",
        file="models/cotnet.py",
        name="CotLayer",
        package="models",
        args={"dim": 64, "kernel_size": 3},
        config={"attn": "cot", "channels": 64},
        absent=(
            "config",
            "models",
            "models.helpers",
            "models.registry",
            "models.resnet",
            "models.layers.activations",
            "models.layers.tbconv",
            "models.layers.kerv2d",
            "cupy_layers",
        ),
        given={
            "models.layers": {"get_act_layer": lambda name: nn.SiLU},
            "cupy_layers.aggregation_zeropad": {"LocalConvolution": Windows},
        },
    ),
    "splat": _splat({}),
    "odconv": Origin(
        source="OSVAI/ODConv",
        commit="0901cc1ccd75757b40420447db20603d30bd2f74",
        file="modules/odconv.py",
        name="ODConv2d",
        args={"in_planes": 64, "out_planes": 64, "kernel_size": 3, "padding": 1},
        config={"attn": "odconv", "channels": 64},
    ),
    "dyconv": Origin(
        source="kaijieshi7/Dynamic-convolution-Pytorch",
        commit="4befa50c97de72cd093316edb29522e8ebd8fc5e",
        file="dynamic_conv.py",
        name="Dynamic_conv2d",
        args={"in_planes": 64, "out_planes": 64, "kernel_size": 3, "padding": 1, "bias": False},
        config={"attn": "dyconv", "channels": 64, "temperature": 34.0},
        note=_NO_CODE,
    ),
    "gc_both": _gc({"fusion": "both"}, fusion_types=("channel_mul", "channel_add")),
    "attention_gate": Origin(
        **_GRID,
        name="GridAttentionBlock2D",
        args={"in_channels": 64, "gating_channels": 128, "sub_sample_factor": (2, 2)},
        config={"attn": "attention-gate", "channels": 64, "signal_channels": 128},
        second=(2, 128, 7, 5),
    ),
    # As in their network for CT; a signal of another size than the windows of an odd map.
    "attention_gate3d": Origin(
        **_GRID,
        name="GridAttentionBlock3D",
        args={"in_channels": 32, "gating_channels": 64, "inter_channels": 32},
        config={
            **{"attn": "attention-gate", "channels": 32, "rank": 3},
            **{"signal_channels": 64, "reduction": 1},
        },
        shape=(2, 32, 6, 9, 7),
        second=(2, 64, 3, 5, 4),
    ),
    "attention_gate_raised": Origin(
        source="LeeJunHyun/Image_Segmentation",
        commit="5e9da9395c52b119d55dfc6532c34ac0e88f446e",
        file="network.py",
        name="Attention_block",
        args={"F_g": 48, "F_l": 64, "F_int": 32},
        config={
            **{"attn": "attention-gate", "channels": 64},
            **{"signal": "raised", "signal_channels": 48},
        },
        around=SignalFirst,
        second=(2, 48, 14, 10),
        note="a third party's form, for two dimensions",
    ),
    # timm adds logits of distance to what is scaled already, unless scale_pos_embed.
    "bot": Origin(
        **_TIMM,
        file="timm/layers/bottleneck_attn.py",
        name="BottleneckAttn",
        args={"dim": 64, "feat_size": (8, 16), "scale_pos_embed": True},
        config={"attn": "bot", "channels": 64, "size": [8, 16]},
        note=f"{_ELSEWHERE} TensorFlow",
    ),
    "halo": Origin(
        **_TIMM,
        file="timm/layers/halo_attn.py",
        name="HaloAttn",
        args={"dim": 64, "block_size": 8, "halo_size": 3, "scale_pos_embed": True},
        config={"attn": "halo", "channels": 64},
        note=_NO_CODE,
    ),
    "halo_narrow": Origin(
        **_TIMM,
        file="timm/layers/halo_attn.py",
        name="HaloAttn",
        args={"dim": 64, "num_heads": 4, "block_size": 4, "halo_size": 1, "scale_pos_embed": True},
        config={"attn": "halo", "channels": 64, "heads": 4, "block": 4, "halo": 1},
        note=_NO_CODE,
    ),
    "lambda": Origin(
        **_TIMM,
        file="timm/layers/lambda_layer.py",
        name="LambdaLayer",
        args={"dim": 64, "r": 23},
        config={"attn": "lambda", "channels": 64},
        note=_NO_CODE,
    ),
    "lambda_whole": Origin(
        **_TIMM,
        file="timm/layers/lambda_layer.py",
        name="LambdaLayer",
        args={"dim": 64, "r": None, "feat_size": (8, 16)},
        config={"attn": "lambda", "channels": 64, "scope": None, "size": [8, 16]},
        note=_NO_CODE,
    ),
    "condconv": Origin(
        **_TIMM,
        file="timm/layers/cond_conv2d.py",
        name="CondConv2d",
        args={"in_channels": 64, "out_channels": 64, "padding": 1, "num_experts": 8},
        config={"attn": "condconv", "channels": 64},
        around=Routed,
        note=f"{_ELSEWHERE} TensorFlow",
    ),
    "ge_windows": Origin(
        **{**_TIMM, "shape": (2, 64, 9, 14)},
        file="timm/layers/gather_excite.py",
        name="GatherExcite",
        args={"channels": 64, "extent": 4, "use_mlp": False},
        config={"attn": "ge", "channels": 64, "extent": 4},
        note=f"{_ELSEWHERE} Caffe",
    ),
    "ge_theta": Origin(
        **{**_TIMM, "shape": (2, 64, 9, 14)},
        file="timm/layers/gather_excite.py",
        name="GatherExcite",
        args={"channels": 64, "extent": 4, "use_mlp": False, "extra_params": True},
        config={"attn": "ge", "channels": 64, "extent": 4, "gather": "theta"},
        note=f"{_ELSEWHERE} Caffe",
    ),
    "gsop": Origin(
        source="ZilinGao/Global-Second-order-Pooling-Convolutional-Networks",
        commit="662a6996623f8e2783291fc5efaa16cc30d227ac",
        file="torchvision/models/resnet.py",
        package="gsop",
        name="Bottleneck",
        args={"inplanes": 64, "planes": 16, "attention": "1", "att_dim": 24},
        config={"attn": "gsop", "channels": 64, "hidden": 24},
        around=Multiplied,
        shape=(2, 64, 9, 6),
    ),
    "sk": Origin(
        source="implus/PytorchInsight",
        commit="2864528f8b83f52c3df76f7c3804aa468b91e5cf",
        file="classification/models/imagenet/resnet_sk.py",
        package="insight",
        name="Bottleneck",
        args={"inplanes": 64, "planes": 64},
        config={"attn": "sk", "channels": 64},
        around=Alone,
        shape=(2, 64, 9, 6),
        positive=True,
    ),
    "iaff": Origin(
        source="YimianDai/open-aff",
        commit="0bcfd8a1b010a66075db6232b1141b35f0f07532",
        file="aff_pytorch/aff_net/fusion.py",
        name="iAFF",
        args={"channels": 64, "r": 4},
        config={"attn": "iaff", "channels": 64, "reduction": 4},
        shape=(2, 64, 9, 6),
        second=(2, 64, 9, 6),
    ),
    "we": Origin(
        source="Ridwan230/pytorch-classification-weight-excitation",
        commit="a4dc7f0f6e944f0ff69695514754f31bae98aa09",
        file="models/layers.py",
        name="Conv2d",
        args={
            **{"in_channels": 64, "out_channels": 64, "kernel_size": 3},
            **{"padding": 1, "bias": False},
        },
        config={"attn": "we", "channels": 64},
        shape=(2, 64, 9, 6),
    ),
    "nl_pooled": Origin(
        **_NL,
        file="lib/non_local_embedded_gaussian.py",
        args={"in_channels": 64},
        config={
            **{"attn": "nl", "channels": 64, "scale": False},
            **{"subsample": "after", "norm": True},
        },
        shape=(2, 64, 9, 6),
    ),
    "splat_single": _splat({"radix": 1}, shape=(2, 64, 9, 6)),
    "bat": Origin(
        source="BA-Transform/BAT-Image-Classification",
        commit="89488d3a25ca85801ab752cbca5782bc186e0ebe",
        file="model_zoo/non_local.py",
        name="BATBlock",
        args={"in_channels": 64, "s": 7},
        config={"attn": "bat", "channels": 64},
        shape=(2, 64, 14, 14),
    ),
    "bat_timm": Origin(
        **_TIMM,
        file="timm/layers/non_local_attn.py",
        name="BatNonLocalAttn",
        args={"in_channels": 64, "block_size": 4},
        config={
            **{"attn": "bat", "channels": 64, "reduction": 4, "block": 4},
            **{"groups": 2, "bias": False},
        },
        note="a third party's form, which knows maps that are not square",
    ),
    "generalized": _generalized("1111"),
    "generalized_saliency": _generalized("0010"),
    "generalized_strides": _generalized("1101", num_heads=9, kv_stride=3, q_stride=2),
}


def theirs(origin: Origin, folder: Path) -> nn.Module:
    """Returns the authors' module."""
    file = folder / origin.source.replace("/", "+") / origin.file
    for name in origin.absent:
        sys.modules.setdefault(name, Absent(name))
    for name, values in origin.given.items():
        sys.modules[name] = Absent(name)
        vars(sys.modules[name]).update(values)
    if origin.package and origin.package not in sys.modules:
        package = types.ModuleType(origin.package)
        package.__path__ = [str(file.parent)]
        sys.modules[origin.package] = package
    full = f"{origin.package}.theirs".removeprefix(".")
    loader = SourceFileLoader(full, str(file))  # some files have no ending
    spec = importlib.util.spec_from_loader(full, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    made = getattr(module, origin.name)(**origin.args)
    for parameter in made.parameters():  # none is a view of another
        parameter.data = parameter.data.clone()
    return made if origin.around is None else origin.around(made)


def drawn(key: str, shape: tuple[int, ...]) -> Tensor:
    """Returns normal numbers that only depend on a word and a shape."""
    state = np.random.RandomState(zlib.crc32(key.encode()) & 0x7FFFFFFF)
    return torch.tensor(state.standard_normal(shape).astype("f4"))


def vector(origin: Origin, folder: Path) -> tuple[dict[str, Tensor], int]:
    """Returns inputs, output and gradients of the authors' module, and its parameters, counted."""
    module = fill(theirs(origin, folder))
    shapes = [shape for shape in (origin.shape, origin.second) if shape]
    given = [drawn(f"input{i}", shape) for i, shape in enumerate(shapes)]
    given = [(x.abs() if origin.positive else x).requires_grad_() for x in given]
    y = module(*given)
    y.backward(drawn("cot0", tuple(y.shape)))
    found = {"output0": y.detach()}
    for i, x in enumerate(given):
        assert x.grad is not None
        found |= {f"input{i}": x.detach(), f"grad{i}": x.grad}
    return found, sum(p.numel() for p in module.parameters())


def main(folder: Path) -> None:
    """Writes the vectors that are not there yet."""
    index = json.loads((HERE / "index.json").read_text(encoding="utf-8"))
    for name, origin in ORIGINS.items():
        if name in index:
            continue
        tensors, params = vector(origin, folder)
        save_file({key: t.contiguous() for key, t in tensors.items()}, HERE / f"{name}.safetensors")
        index[name] = {
            "config": origin.config,
            "shape": list(origin.shape),
            "params": params,
            "source": origin.source,
            "note": origin.note,
        }
    (HERE / "index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
