"""Hugging Face's `from_pretrained` -> the operated network, once this module has been imported.

`save_pretrained` writes the record of the surgery with the config (`splicing/configs.py`). Here
the library is told, at the place it has for methods that change a network before its weights are
loaded (it knows them as quantisers), how the surgery is repeated. Nothing is quantised, and nothing
stays behind: the loaded network is like the one that was saved.

    import attnsurgeon.integrations.transformers
    model = AutoModelForImageClassification.from_pretrained("folder")
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from transformers.quantizers.auto import register_quantization_config, register_quantizer  # pyright: ignore[reportMissingImports]
from transformers.quantizers.base import HfQuantizer  # pyright: ignore[reportMissingImports]
from transformers.utils.quantization_config import QuantizationConfigMixin  # pyright: ignore[reportMissingImports]

from attnsurgeon.errors import ModelError
from attnsurgeon.splicing.configs import METHOD, recorded, without_guard, write_config
from attnsurgeon.splicing.history import history, inserted
from attnsurgeon.splicing.replay import not_repeatable, replan, replay
from attnsurgeon.splicing.splice import splice


@register_quantization_config(METHOD)
class Record(QuantizationConfigMixin):
    """What stands in a config: the operations, as plain values."""

    def __init__(
        self,
        operations: Sequence[Any] = (),
        version: str = "",
        quant_method: str = METHOD,
        **unknown: Any,
    ) -> None:
        self.quant_method = quant_method  # type: ignore[assignment]  # an enum of the library's own
        self.operations = operations
        self.version = version

    @property
    def dequantize(self) -> bool:
        """Asks the library to forget, after loading, that anything was special."""
        return True


@register_quantizer(METHOD)
class Surgeon(HfQuantizer):
    """Repeats the recorded surgery on a network without weights."""

    def update_attn_implementation(self, config: Any) -> Any:
        """Takes the guard away: the surgery is about to be repeated."""
        without_guard(config)
        return config

    def _process_model_before_weight_loading(self, model: Any, **kwargs: Any) -> None:
        found = recorded(model.config)
        if not found:
            raise ModelError(
                "the config says that this network was operated, and not how",
                "an argument of its attention could not be written down; use attnsurgeon.load on a"
                " folder of Operation.save",
            )
        operations = _as_seen_from(model, found)
        _repeat(model, operations)
        replaced = [p for o in operations for site in o["sites"] for p in site["replaced"]]
        for path in replaced:  # nothing is left there that could be initialised
            model.get_submodule(path)._is_hf_initialized = True

    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        for _, part in inserted(model):
            part._apply(lambda tensor: tensor)  # what stands in no file is made anew
        write_config(model, history(model))
        return model

    def is_serializable(self) -> bool:
        """The network can be saved again."""
        return True

    @property
    def is_trainable(self) -> bool:
        """It can be trained."""
        return True

    @property
    def is_qat_trainable(self) -> bool:
        """As a whole, without adapters."""
        return True


def _repeat(model: Any, operations: Sequence[Mapping[str, Any]]) -> None:
    """Replays on the empty network; of one that looks at values, along a copy with random ones."""
    explain = functools.partial(
        not_repeatable,
        what="the surgery that the config records",
        hint="load the class of network that was saved; `architectures` in config.json names it",
    )
    try:
        replay(model, operations, explain)
    except ModelError as error:
        if "meta device" not in error.what:
            raise
        with torch.device("cpu"):  # the library is about to build on meta
            along = type(model)(model.config)
            for operation in operations:
                plan = replan(along, operation, explain)
                splice(along, plan)
                splice(model, plan)


def _as_seen_from(model: Any, operations: Sequence[Mapping[str, Any]]) -> Sequence[Any]:
    """The records with the paths that this class of network has: with or without its head, the
    library loads one from a folder of the other.
    """
    names = {name for name, _ in model.named_modules()}
    inner = f"{model.base_model_prefix}."

    def fits(change: Callable[[str], str]) -> bool:
        hosts = [
            change(s["module_path"]).rpartition(".")[0] for o in operations for s in o["sites"]
        ]
        return names.issuperset(hosts)

    for change in (str, inner.__add__, lambda path: path.removeprefix(inner)):
        if fits(change):
            return [
                {**operation, "sites": [_moved(site, change) for site in operation["sites"]]}
                for operation in operations
            ]
    return operations


def _moved(site: Mapping[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    lists = {name: [change(path) for path in site[name]] for name in ("shared", "replaced")}
    return {
        **site,
        "path": change(site["path"]),
        "module_path": change(site["module_path"]),
        **lists,
    }
