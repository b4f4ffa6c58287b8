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
from attnsurgeon.saved.base import rebuild
from attnsurgeon.saved.hub import PREFIX
from attnsurgeon.saved.restore import Saved, load, read_folder, without_weights
from attnsurgeon.saved.trust import size_of
from attnsurgeon.sizes import each

__all__ = ["attnsurgeon"]


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
        pretrained_cfg, pretrained_cfg_overlay, pretrained_model_args, cache_dir: as timm hands
            them over.
        device, dtype: to which the network is moved.
        **model_args: further arguments of the base network that leave its tensors as they are:
            drop_rate, drop_path_rate, ...

    Raises:
        UsageError: no folder is named, or two are; or its network takes another number of input
            channels.
        ModelError: as `attnsurgeon.load`.
    """
    found = _found_by_timm(pretrained_cfg)
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
    if pretrained:
        model = load(saved.path, model=base, trust=trust)
    else:
        model = without_weights(saved, base=base, trust=trust)
    if num_classes is not None and num_classes != getattr(model, "num_classes", None):
        _reset(model, num_classes)
    return model.to(device=device, dtype=dtype)


def _found_by_timm(config: Any) -> str | None:
    """The folder in which timm found the config that it hands over."""
    config = config if isinstance(config, Mapping) else vars(config) if config else {}
    if config.get("source") == "local-dir":
        return str(config.get("file"))
    if config.get("source") == "hf-hub":
        return f"{PREFIX}{config.get('hf_hub_id')}"
    return None


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
