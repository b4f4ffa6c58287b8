"""An operated YOLO that is given to an object which trains another network -> training says so.

ultralytics' `YOLO`, made of a description (`YOLO("yolov8n.yaml")`), trains what it builds of that
file, whatever network stands in it, and has the trained one in its place afterwards. It reads
nothing of the network, so nothing of the network can answer. But torch tells of every module that
is given to another, and who trains takes callbacks: one of them looks at what is about to be
trained.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook

from attnsurgeon.errors import ModelError

_EVENT = "on_train_start"


def lost_in_training(how: str) -> ModelError:
    """Returns the error for a training that would be of another network."""
    return ModelError(
        f"this network was operated, and {how}: all attention would be lost",
        "train, resume and tune it with `YOLO` of attnsurgeon.integrations.ultralytics in"
        " place of ultralytics' own, or by `python -m attnsurgeon.integrations.ultralytics"
        " train model=...`; dict(model.yaml) is the plain description",
    )


@functools.cache
def watch_holders(is_operated: Callable[[nn.Module], bool]) -> None:
    """Lets whoever is given an operated network, and takes callbacks, look before it trains.

    Args:
        is_operated: tells whether a network is one that would be built anew.
    """

    def given(holder: Any, name: str, module: Any) -> None:
        if module is None or not is_operated(module) or not hasattr(holder, "add_callback"):
            return
        known = getattr(holder, "callbacks", None)
        hung = known.get(_EVENT) if isinstance(known, dict) else None
        if isinstance(hung, list) and not any(isinstance(one, _Look) for one in hung):
            holder.add_callback(_EVENT, _Look(holder, name, is_operated))

    register_module_module_registration_hook(given)


class _Look:
    """What is called when a training starts.

    Args:
        holder, name: who was given the network, and under which name.
        is_operated: as for `watch_holders`.
    """

    def __init__(self, holder: Any, name: str, is_operated: Callable[[nn.Module], bool]) -> None:
        self.holder = holder
        self.name = name
        self.is_operated = is_operated

    def __call__(self, trainer: Any) -> None:
        """Refuses a training of a network without attention, where one with it was given.

        Raises:
            ModelError: saying so.
        """
        given, trained = getattr(self.holder, self.name, None), getattr(trainer, "model", None)
        if not isinstance(given, nn.Module) or not isinstance(trained, nn.Module):
            return
        if self.is_operated(given) and not any(map(self.is_operated, trained.modules())):
            raise lost_in_training("what is about to be trained was built anew, without it")
