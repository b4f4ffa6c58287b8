"""A saved folder -> `timm.create_model`, and so timm's own scripts, once this has been imported.

timm builds the networks that it registers; this module registers one more, `attnsurgeon`, which is
that of a folder:

    import attnsurgeon.integrations.timm

    timm.create_model("attnsurgeon", folder="r50-eca", pretrained=True, num_classes=10)
    timm.create_model("local-dir:r50-eca", pretrained=True)  # a folder with a config.json
    timm.create_model("hf-hub:someone/r50-eca", pretrained=True)

A script that does not import it is run through it, and takes the same names:

    python -m attnsurgeon.integrations.timm train.py --model local-dir:r50-eca --pretrained ...
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from timm.models import register_model
from torch import nn

from attnsurgeon.errors import UsageError
from attnsurgeon.models.checkpoint import read_checkpoint
from attnsurgeon.models.fitting import fit_checkpoint
from attnsurgeon.saved.base import rebuild
from attnsurgeon.saved.hub import PREFIX
from attnsurgeon.saved.restore import Saved, load, read_folder, without_weights
from attnsurgeon.saved.trust import size_of
from attnsurgeon.sizes import each

__all__ = ["attnsurgeon"]

_FOUND = ("local-dir", "hf-hub")  # where timm finds a config of its own accord
_OTHER_WEIGHTS = ("url", "hf_hub_id", "hf_hub_filename", "state_dict", "custom_load")


def attnsurgeon(
    pretrained: bool = False,
    *,
    folder: str | Path | None = None,
    trust: bool = False,
    num_classes: int | None = None,
    in_chans: int | None = None,
    pretrained_cfg: Any = None,
    pretrained_cfg_overlay: Any = None,
    pretrained_model_args: Any = None,
    cache_dir: Any = None,
    device: Any = None,
    dtype: Any = None,
    **model_args: Any,
) -> nn.Module:
    """Build the network of a saved folder, as timm's entry points build theirs.

    Args:
        pretrained: with the weights of the folder; else with random ones, as everywhere in timm.
        folder: that `attnsurgeon.save` wrote, or `hf-hub:ORG/NAME`. Of `local-dir:` and `hf-hub:`
            names timm hands it over itself, in `pretrained_cfg`.
        trust: as for `attnsurgeon.load`; with `folder` only, for timm takes arguments from the
            config.json of a folder, and no file may say that it is trusted.
        num_classes: where it is another number than the folder's, the classifier is reset.
        in_chans: that of the folder.
        pretrained_cfg, pretrained_cfg_overlay: as timm hands them over. A `file` in one of them
            (`--pretrained-path` of its scripts) has the weights in place of the folder's: those of
            the operated network. With a `num_classes` beside it that is not the folder's, the
            classifier starts anew, as in timm. Other entries go to the network's own config.
        pretrained_model_args, cache_dir: as timm hands them over.
        device, dtype: to which the network is moved.
        **model_args: further arguments of the base network that leave its tensors as they are:
            drop_rate, drop_path_rate, ...

    Raises:
        UsageError: no folder is named, or two are; its network takes another number of input
            channels; or weights are named that are in no file.
        ModelError: as `attnsurgeon.load`; or the file does not fit the operated network.
    """
    found = _found_by_timm(pretrained_cfg)
    asked = _asked(pretrained_cfg, pretrained_cfg_overlay)
    if found is not None and (folder is not None or trust):
        raise UsageError(
            f"{found} is named already, and what comes with it may not say folder or trust",
            "timm.create_model('attnsurgeon', folder='DIR', trust=True)",
        )
    where = folder if folder is not None else found
    if where is None:
        raise UsageError(
            "the model `attnsurgeon` is that of a folder, and none is named",
            "timm.create_model('attnsurgeon', folder='DIR'), or the name local-dir:DIR, which"
            " timm's scripts take as well",
        )
    saved = read_folder(where)
    _check_channels(saved, in_chans)
    base = _base(saved, model_args, trust) if model_args else None
    file, classes = asked.pop("file", None), asked.pop("num_classes", None)
    if pretrained and not file:
        model = load(saved.path, model=base, trust=trust)
    else:
        model = without_weights(saved, base=base, trust=trust)
    if pretrained and file:
        _fill(model, file, saved, classes)
    if asked:
        model.__dict__["pretrained_cfg"] = {**getattr(model, "pretrained_cfg", {}), **asked}
    if num_classes is not None and num_classes != getattr(model, "num_classes", None):
        _reset(model, num_classes)
    return model.to(device=device, dtype=dtype)


def _found_by_timm(config: Any) -> str | None:
    """The folder in which timm found the config that it hands over."""
    config = _entries(config)
    if config.get("source") == "local-dir":
        return str(config.get("file"))
    if config.get("source") == "hf-hub":
        return f"{PREFIX}{config.get('hf_hub_id')}"
    return None


def _entries(config: Any) -> dict[str, Any]:
    if isinstance(config, str):
        raise UsageError(
            f"attnsurgeon.{config}: the network of a folder has no tagged weights",
            "leave the tag out; weights of a file: pretrained_cfg_overlay={'file': FILE}",
        )
    return dict(config if isinstance(config, Mapping) else vars(config) if config else {})


def _asked(config: Any, overlay: Any) -> dict[str, Any]:
    """What is to be otherwise than in the folder: without what timm found there itself."""
    given = _entries(config)
    asked = {} if given.get("source") in _FOUND else given
    asked |= _entries(overlay)
    asked.pop("source", None)
    asked.pop("architecture", None)
    other = [name for name in _OTHER_WEIGHTS if asked.pop(name, None)]
    if other:
        raise UsageError(
            f"{other[0]}: the network of a folder takes its weights from the folder, or of a file",
            "give pretrained_cfg_overlay={'file': FILE}, as timm's scripts do for a file",
        )
    return {name: value for name, value in asked.items() if value is not None}


def _fill(model: nn.Module, file: Any, saved: Saved, classes: int | None) -> None:
    """Load a file of the operated network's weights; of other classes, without its classifier."""
    head: list[str] = []
    if classes is not None and classes != getattr(model, "num_classes", None):
        found = model.get_classifier()  # type: ignore[operator]
        parts = found if isinstance(found, tuple) else (found,)  # two where one was distilled
        new = {id(tensor) for part in parts for tensor in part.parameters()}
        head = [name for name, tensor in model.named_parameters() if id(tensor) in new]
    fit_checkpoint(model, read_checkpoint(file), what=str(saved.path), new_head=head)


def _check_channels(saved: Saved, in_chans: int | None) -> None:
    own = each(saved.form.size)[0][0]
    if in_chans is not None and in_chans != own:
        raise UsageError(
            f"the network of {saved.path} takes {own} input channels, not {in_chans}",
            "build the base network for that number, operate it and save it anew",
        )


def _base(saved: Saved, model_args: Mapping[str, Any], trust: bool) -> nn.Module | None:
    """The base network with further arguments; None where `load` says why there is none."""
    if saved.source is None:
        return None
    source = replace(saved.source, model_args={**saved.source.model_args, **model_args})
    adapter = saved.mode == "adapter"
    return rebuild(
        source,
        folder=saved.path,
        weights=adapter,
        trust=trust,
        most=None if adapter else size_of(saved.weights),
    )


def _reset(model: nn.Module, num_classes: int) -> None:
    reset = getattr(model, "reset_classifier", None)
    if reset is None:
        raise UsageError(
            f"the classifier of this {type(model).__name__} cannot be reset to {num_classes}"
            " classes: it has no reset_classifier",
            "load the folder without num_classes, and put the classifier in yourself",
        )
    reset(num_classes)


if __name__ != "__main__":
    register_model(attnsurgeon)


_USAGE_COMMAND = "usage: python -m attnsurgeon.integrations.timm SCRIPT.py [ARGUMENT ...]"


def main() -> None:
    """Run a script of timm's with this module imported."""
    if len(sys.argv) < 2:
        raise SystemExit(_USAGE_COMMAND)
    import attnsurgeon.integrations.timm  # noqa: F401 -- by its name, not as __main__

    del sys.argv[0]
    sys.path[0] = str(Path(sys.argv[0]).resolve().parent)  # as python SCRIPT.py has it
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
