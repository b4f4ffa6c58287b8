"""Operated network -> Status: what stands where, what of it learns, how far its gates are open."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attnsurgeon.attention.identity import Blend, BlendOld, BlendPair, Gate
from attnsurgeon.checks.auditing import Audit, audited
from attnsurgeon.errors import ModelError
from attnsurgeon.given import takes_networks
from attnsurgeon.models import source_of
from attnsurgeon.recording.ambient import known_state
from attnsurgeon.recording.input_records import recorded_form
from attnsurgeon.recording.randomness import settled
from attnsurgeon.recording.record import MARK, Traced, map_tensors
from attnsurgeon.recording.sharding import refuse_sharded
from attnsurgeon.recording.trace import as_taken
from attnsurgeon.recording.twin import shared_twin
from attnsurgeon.shown import Shown, brief
from attnsurgeon.sites.analysis import record as record_forward
from attnsurgeon.sizes import InputSize
from attnsurgeon.splicing.history import history, inserted

_BLENDS = (Blend, BlendOld, BlendPair)


@dataclass(frozen=True, repr=False)
class SiteStatus:
    """One inserted attention as it stands now.

    Attributes:
        path: of the site.
        attn: name of the mechanism.
        channels: of the value there, or None where the network no longer knows its history.
        module_path: where the module is.
        params: its parameters; of a module that serves several sites the first has them.
        trainable: how many of these have `requires_grad`.
        gate: how open its gates are, 1 letting everything through: the mean over one random
            image. Of what is blended in, the weight of the blend, 0 leaving all as it was. None
            for a mechanism with neither, and where the network could not be run on values.
        blended: whether `gate` is the weight of a blend.
        runs: how often it runs in one forward; None where that is not known.
        altered: what is different about it since it was put in, or "".
    """

    path: str
    attn: str
    channels: int | None
    module_path: str
    params: int
    trainable: int
    gate: float | None
    blended: bool
    runs: int | None
    altered: str = ""

    def __repr__(self) -> str:
        what = f"{self.attn}, {self.channels or '?'} channels, params {self.params:,}"
        gate = (
            "" if self.gate is None else f", {'blend' if self.blended else 'gate'} {self.gate:.3f}"
        )
        runs = "" if self.runs is None else f", runs {self.runs}"
        return brief(self, f"{self.path}: {what}, trainable {self.trainable:,}{gate}{runs}")


@dataclass(frozen=True, repr=False)
class Status(Shown):
    """The inserted attention of a network, and what of the whole network learns.

    Attributes:
        model: its spec where it is known, else the name of its class.
        sites: one for each inserted module, in the order of the operations.
        trainable_params, all_params: of the whole network, each shared tensor once.
        notes: what could not be found out, and why.
    """

    model: str
    sites: tuple[SiteStatus, ...]
    trainable_params: int
    all_params: int
    notes: tuple[str, ...] = ()

    @property
    def params(self) -> int:
        """Parameters of the inserted attention."""
        return sum(site.params for site in self.sites)

    @property
    def trainable_percent(self) -> float:
        """Of all parameters of the network."""
        return 100 * self.trainable_params / self.all_params if self.all_params else 0.0


@takes_networks()
@known_state()
def status(
    model: nn.Module,
    *,
    input_size: InputSize | None = None,
    example: Any = None,
    run: bool = True,
) -> Status:
    """Says of every inserted attention what it is, what of it learns, how open it is, and whether
    it runs.

    Args:
        model: any network, operated or not; it is not changed.
        input_size, example: as for `find_sites`; default: what it was last operated with, else as
            there.
        run: also run it, once to count calls and once on a random image for the gates; without
            that `runs` stays unknown, and `gate` where it is not a blend's.

    Raises:
        UsageError: the network is spread over processes.
    """
    refuse_sharded(model)
    made = history(model)
    if input_size is None and example is None and made:
        example = recorded_form(made[-1])
    notes: list[str] = []
    found: Audit | None = None
    gates: Mapping[str, float] = {}
    if run and any(True for _ in inserted(model)):
        try:
            traced = record_forward(model, input_size, example)
            found = audited(model, traced)
            gates = _gates(model, traced)
        except ModelError as error:
            notes.append(f"whether it runs is not known: {error.what}")
        else:
            if not gates and any(_parts(m, Gate) for _, m in inserted(model)):
                notes.append("gates are not known: the network does not run on random values")
    read: set[int] = set()
    sites = tuple(_site(entry, found, gates, read) for entry in _recorded(model))
    source = source_of(model)
    every = {id(p): p for p in model.parameters()}.values()
    return Status(
        source.spec if source is not None else type(model).__name__,
        sites,
        sum(p.numel() for p in every if p.requires_grad),
        sum(p.numel() for p in every),
        tuple(notes),
    )


def _recorded(model: nn.Module) -> Iterator[tuple[str, dict[str, Any], nn.Module | None]]:
    """Yields path, record and module of every attention, as the histories have them.

    Of a module that no history names, which stands in a part of another network, its own mark says
    what it is.
    """
    listed: list[str] = []
    for where, host in model.named_modules():
        prefix = f"{where}." if where else ""
        for site in (site for one in history(host) for site in one["sites"]):
            path = prefix + site["module_path"]
            listed.append(path)
            yield path, {**site, "path": prefix + site["path"]}, _at(model, path)
    for path, module in inserted(model):
        if not any(path == known or path.startswith(f"{known}.") for known in listed):
            mark = module.__dict__[MARK]
            yield path, {"path": mark.site, "attn": mark.attn, "channels": None}, module


def _at(model: nn.Module, path: str) -> nn.Module | None:
    """The attention at a path; None where it is gone, or something else stands there."""
    try:
        module = model.get_submodule(path)
    except AttributeError:
        return None
    return module if any(MARK in part.__dict__ for part in module.modules()) else None


def _site(
    entry: tuple[str, dict[str, Any], nn.Module | None],
    found: Audit | None,
    gates: Mapping[str, float],
    read: set[int],
) -> SiteStatus:
    """Describes one site; `read` keeps the parameters that earlier ones have."""
    path, record, module = entry
    own = [p for p in module.parameters() if id(p) not in read] if module is not None else []
    read.update(map(id, own))
    blends = _parts(module, *_BLENDS) if module is not None else []
    gate = float(sum(b.g.detach().mean() for b in blends) / len(blends)) if _real(blends) else None
    altered = found.altered.get(path, "") if found is not None else ""
    return SiteStatus(
        record["path"],
        record["attn"],
        record["channels"],
        path,
        sum(p.numel() for p in own),
        sum(p.numel() for p in own if p.requires_grad),
        gate if blends else gates.get(path),
        bool(blends),
        None if found is None else found.calls.get(path, 0),
        altered or ("it is gone" if module is None else ""),
    )


def _parts(module: nn.Module, *kinds: type[nn.Module]) -> list[Any]:
    return [part for part in module.modules() if isinstance(part, kinds)]


def _real(blends: list[Any]) -> bool:
    return bool(blends) and not any(blend.g.is_meta for blend in blends)


def _gates(model: nn.Module, traced: Traced) -> dict[str, float]:
    """Returns the mean of each attention's gates on random values; {} where it runs on none."""
    if any(p.is_meta for p in model.parameters()):
        return {}
    twin = shared_twin(model).eval()
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    seen: dict[str, list[Tensor]] = {}
    for path, module in inserted(twin):
        for gate in _parts(module, Gate):
            gate.register_forward_hook(_note_mean(seen.setdefault(path, [])))

    drawn = traced.form.at_batch(1).drawn(torch.Generator().manual_seed(0), torch.randn)
    inputs = map_tensors(drawn, lambda tensor: as_taken(tensor, twin).to(like.device))

    def forward() -> None:
        with torch.no_grad():
            inputs.feed(twin)

    try:
        settled(forward)
    except (Exception, SystemExit):  # a stranger's forward, on values that mean nothing to it
        return {}
    return {path: float(torch.stack(means).mean()) for path, means in seen.items() if means}


def _note_mean(means: list[Tensor]) -> Callable[..., None]:
    def note(gate: nn.Module, inputs: Any, opened: Tensor) -> None:
        means.append(opened.detach().double().mean().cpu())

    return note
