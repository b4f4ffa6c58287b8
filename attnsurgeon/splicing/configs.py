"""The history of a network <-> what the network's own library builds it anew from.

Hugging Face's networks are saved as weights and a config, and built from the config again:
attention of which the config knows nothing would be left out with a line in a log. So the record
stands in two of its fields. `quantization_config` is where the library lets others change a network
before its weights are loaded (`integrations/transformers.py` does). And nobody knows a fusion of
our name: where nobody repeats the surgery, `fusion_config` makes loading an error, not a warning.

YOLOs are built anew from a description of their layers at every training, and take over the weights
that fit. There the description itself raises as soon as its layers are read; where another one is
read, `holders.py` does.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from attnsurgeon.plain import from_plain, to_plain
from attnsurgeon.splicing.holders import lost_in_training, watch_holders
from attnsurgeon.version import __version__

METHOD = "attnsurgeon"
_LAYERS = ("backbone", "yaml_file")  # in a YOLO's description: its layers, or the file of them


class Description(dict[str, Any]):
    """What an operated network was built from; building another one from it raises.

    `get`, iteration, `dict(...)`, copies and pickles are those of any dict.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Description:
        """Makes one; from now on who trains without reading it is watched (`holders.py`)."""
        watch_holders(is_described)
        return super().__new__(cls, *args, **kwargs)

    def __getitem__(self, name: str) -> Any:
        """Returns an entry, but for those that a network is built from.

        Raises:
            ModelError: the layers are read.
        """
        if name in _LAYERS:
            raise lost_in_training(
                "its description, which knows of no attention, is read to build it anew"
            )
        return super().__getitem__(name)

    def copy(self) -> Description:
        """Returns a copy that raises as well."""
        return Description(self)


def is_described(network: nn.Module) -> bool:
    """Tell whether a network was operated that is built anew from a description."""
    return isinstance(vars(network).get("yaml"), Description)


def write_config(model: nn.Module, records: Sequence[Mapping[str, Any]]) -> None:
    """Writes a network's history into its config, or strikes it out; other networks are left alone.

    Where the weights are really quantised, that field is taken: then only the guard is set.
    """
    _write_description(model, operated=bool(records))
    config = getattr(model, "config", None)
    if not hasattr(type(model), "save_pretrained") or not hasattr(config, "to_json_file"):
        return
    if records and recorded(config) is None:
        config = _own_config(model, config)
    fusions = _other_fusions(config) | ({METHOD: True} if records else {})
    _set(config, "fusion_config", fusions or None)
    if getattr(config, "quantization_config", None) is None or recorded(config) is not None:
        made = {"quant_method": METHOD, "version": __version__, "operations": _plain(records)}
        _set(config, "quantization_config", made if records else None)


def _write_description(network: Any, *, operated: bool) -> None:
    described = getattr(network, "yaml", None)
    if isinstance(described, dict) and {"backbone", "head"} <= described.keys():
        network.yaml = Description(described) if operated else dict(described)


def _own_config(model: nn.Module, config: Any) -> Any:
    """Gives the network a config that no other network shares."""
    own = copy.deepcopy(config)
    for module in model.modules():
        for name, value in list(vars(module).items()):
            if value is config:
                module.__dict__[name] = own
    return own


def recorded(config: Any) -> tuple[dict[str, Any], ...] | None:
    """Returns the history that a config holds, oldest first; None where it holds none."""
    found = getattr(config, "quantization_config", None)
    found = found if isinstance(found, Mapping) else getattr(found, "__dict__", {})
    if found.get("quant_method") != METHOD:
        return None
    return tuple(from_plain(record) for record in found.get("operations") or ())


def without_guard(config: Any) -> None:
    """Lets a config be loaded, by who repeats the surgery."""
    _set(config, "fusion_config", _other_fusions(config) or None)


def _other_fusions(config: Any) -> dict[str, Any]:
    found = getattr(config, "fusion_config", None) or {}
    return {name: on for name, on in found.items() if name != METHOD}


def _set(config: Any, name: str, value: Any) -> None:
    if value is not None:
        setattr(config, name, value)
    elif name in vars(config):
        delattr(config, name)


def _plain(records: Sequence[Mapping[str, Any]]) -> list[Any]:
    try:
        return [to_plain(record) for record in records]
    except TypeError:  # a function among the arguments: nothing is recorded, and loading says so
        return []
