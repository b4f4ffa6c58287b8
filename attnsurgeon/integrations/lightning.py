"""A LightningModule's checkpoint -> the operated network, also in one built without attention.

Lightning saves weights and builds the module anew by its constructor. Where that does not operate
the network, the weights of the attention have no place, and loading fails, or with `strict=False`
leaves them out. With this class before `LightningModule` the checkpoint carries the record of the
surgery, which is repeated before the weights are loaded, in `fit(ckpt_path=...)` and `test` as in
`load_from_checkpoint`:

    class Classifier(KeepsAttention, LightningModule):
        ...
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from attnsurgeon.errors import ModelError
from attnsurgeon.plain import from_plain, to_plain
from attnsurgeon.splicing.history import history
from attnsurgeon.splicing.replay import not_repeatable, replay

RECORDS = "attnsurgeon"  # the key in a checkpoint: path of a network -> its operations


class KeepsAttention:
    """Goes before `LightningModule`: its checkpoints carry the surgery of the networks inside.

    Networks of any number and at any place are meant; a module of one's own that has the hooks
    below calls `super()` in them, as ever.
    """

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write the records down, as plain values that are read without pickle."""
        super().on_save_checkpoint(checkpoint)  # type: ignore[misc]
        found = {path: _plain(path, module) for path, module in _networks(self) if history(module)}
        if found:
            checkpoint[RECORDS] = found

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Repeat the surgery on networks that were built without.

        Raises:
            ModelError: there is no such network, it has other attention, or the surgery cannot be
                repeated on it.
        """
        super().on_load_checkpoint(checkpoint)  # type: ignore[misc]
        networks = dict(_networks(self))
        for path, plain in checkpoint.get(RECORDS, {}).items():
            if path not in networks:
                raise ModelError(
                    f"the checkpoint is of an operated network {path or 'itself'}, and this"
                    f" {type(self).__name__} has none there",
                    "load it with the class that saved it",
                )
            _operate(path, networks[path], [from_plain(record) for record in plain])


def _networks(module: Any) -> list[tuple[str, nn.Module]]:
    return list(module.named_modules())


def _plain(path: str, network: nn.Module) -> list[Any]:
    try:
        return [to_plain(record) for record in history(network)]
    except TypeError as error:  # a function among the arguments
        raise ModelError(
            f"an argument of the attention in {path} cannot be written down: {error}",
            "operate the network in the constructor of the module, and leave KeepsAttention out",
        ) from error


def _operate(path: str, network: nn.Module, records: Sequence[Mapping[str, Any]]) -> None:
    """Repeats the surgery where it has not been done."""
    present = [to_plain(record) for record in history(network)]
    if not present:
        replay(network, records, _explain)
    elif _sites(present) != _sites(records):
        raise ModelError(
            f"the network {path} has other attention than the one in the checkpoint",
            "operate it in the same way, or not at all",
        )


def _sites(records: Sequence[Mapping[str, Any]]) -> list[Any]:
    """What decides which tensors there are and what is computed of them."""
    named = ("module_path", "attn", "args", "init", "action")
    return [[to_plain(site[name]) for name in named] for o in records for site in o["sites"]]


def _explain(differences: list[str]) -> ModelError:
    return not_repeatable(
        differences,
        what="the surgery of which the checkpoint is",
        hint="build the module with the network that was operated",
    )
