"""Saved folder -> Checkup: does it still load, is its base what it was, do its promises hold?"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from attnsurgeon.checks.auditing import Audit, audit
from attnsurgeon.checks.verify import Verification, verify
from attnsurgeon.errors import UsageError
from attnsurgeon.models import source_of
from attnsurgeon.models.own_attention import Attention
from attnsurgeon.operate import carry_out
from attnsurgeon.recording.ambient import known_state
from attnsurgeon.saved.origin import measure
from attnsurgeon.saved.restore import Saved, load, read_folder
from attnsurgeon.splicing.removing import remove_all
from attnsurgeon.splicing.replay import replan


@dataclass(frozen=True)
class Checkup:
    """What was found in a saved folder, which has loaded.

    Attributes:
        saved: the folder.
        now: the network as it was saved against its base; trained attention moves the outputs.
        afresh: the same operations made once more on the base, each fully verified.
        audit: the calls of every inserted module of the saved network.
        base_kept: whether the base has the weights that were operated on; None where the folder
            does not know what they were, or some of them were replaced.
        notes: what was done to take the weights of a checkpoint.
    """

    saved: Saved
    now: Verification
    afresh: tuple[Verification, ...]
    audit: Audit
    base_kept: bool | None
    notes: tuple[str, ...] = ()

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong, in words; that training moved something is not."""
        found = [problem for checked in self.afresh for problem in checked.problems]
        if self.audit.dead:
            names = ", ".join(self.audit.dead[:3])
            found.append(f"{len(self.audit.dead)} inserted modules are never called: {names}")
        found += [f"{path} is altered: {what}" for path, what in self.audit.altered.items()]
        for what, names in [
            ("original keys are missing", self.now.missing_keys),
            ("new keys belong to no inserted module", self.now.unexpected_keys),
        ]:
            if names:
                found.append(f"{len(names)} {what}: {', '.join(names[:3])}")
        if self.now.reordered:
            found.append("original keys or parameters stand in another order")
        return tuple(dict.fromkeys(found))

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


@known_state()
def check_folder(
    path: str | os.PathLike[str],
    *,
    model: nn.Module | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    trust: bool = False,
    attn: Attention | Mapping[str, Attention] | None = None,
    **taking: Any,
) -> Checkup:
    """Loads a saved folder and verifies it; nothing is written.

    Args:
        path, model, checkpoint, trust, attn, taking: as for `attnsurgeon.load`.

    Raises:
        ModelError: the folder cannot be loaded.
        UsageError: a checkpoint was given that is not needed.
    """
    saved = read_folder(path)
    if not saved.operations:
        raise UsageError(
            f"the network in {path} has no attention in it, so there is nothing to verify",
            "load it, and operate it again",
            command="inspect it, or operate it again: `attnsurgeon insert DIR --attn NAME`",
        )
    network = load(path, model=model, checkpoint=checkpoint, trust=trust, attn=attn, **taking)
    network.eval()
    base = copy.deepcopy(network)
    remove_all(base, refill=True)
    known = saved.record["base"]["sha256"]
    afresh = []
    plan = None
    for operation in saved.operations:
        plan = replan(base, operation)
        afresh.append(carry_out(base, plan).verify(full=True))
    assert plan is not None, "a folder is saved after an operation"
    return Checkup(
        saved,
        verify(network, plan, full=False),
        tuple(afresh),
        audit(network, example=plan.survey.traced.form),
        None if known is None or _replaced(saved) else measure(network).sha256 == known,
        () if (source := source_of(network)) is None else source.notes,
    )


def _replaced(saved: Saved) -> bool:
    """Whether an operation took parameters of the base away."""
    cuts = [cut for operation in saved.operations for cut in operation["sites"]]
    return any(cut.get("replaced") for cut in cuts)
