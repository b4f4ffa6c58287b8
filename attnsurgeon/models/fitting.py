"""A checkpoint and a network -> the network with these weights, and what was done to get there.

Nothing is lost in silence: every parameter and buffer is compared with the file after loading, for
a network may have a `load_state_dict` of its own, and every liberty that was taken is said.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from attnsurgeon.errors import ModelError, UsageError, nearest
from attnsurgeon.models.checkpoint import Checkpoint, unreadable
from attnsurgeon.models.finding import FORGIVEN, Found, find_weights, listed, shown
from attnsurgeon.models.foreign import guarded, quote
from attnsurgeon.models.matching import Match, attributes_of, matched, tensors_of
from attnsurgeon.models.misfit import Kin, Misfit, after_surgery, explained
from attnsurgeon.models.numbers import ACCEPTED, converted
from attnsurgeon.models.pickled import attention_in, differences


@dataclass(frozen=True)
class Wishes:
    """How a checkpoint is to be taken.

    Attributes:
        key: the entry or the prefix to take the weights from.
        partial: take what fits, and leave the rest as the network was built.
        weights_only: take the weights of a whole pickled network that is another one.
        accept: kinds of numbers to take all the same, of `numbers.ACCEPTED`.
    """

    key: str | None = None
    partial: bool = False
    weights_only: bool = False
    accept: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, key: str | None, partial: bool, weights_only: bool, accept: str | Collection[str]
    ) -> Wishes:
        """Returns what the keywords of `load_model` and `load` say."""
        kinds = (accept,) if isinstance(accept, str) else tuple(accept)
        return cls(key, partial, weights_only, kinds)

    @property
    def arguments(self) -> dict[str, Any]:
        """The same, as keywords of `load_model`."""
        said = {name: value for name, value in vars(self).items() if name != "key"}
        return {"checkpoint_key": self.key, **said}

    def __post_init__(self) -> None:
        for kind in self.accept:
            if kind not in ACCEPTED:
                raise UsageError(
                    f"accept: {kind!r} is no kind of numbers", nearest(str(kind), ACCEPTED)
                )


@dataclass(frozen=True)
class Fitted:
    """What was taken from a checkpoint.

    Attributes:
        description: `checkpoint NAME`, and whether it is a moving average.
        stripped: the entries that were opened and the prefix, outermost first.
        notes: every liberty that was taken, in words.
        attributes: of a whole pickled network, all that was saved of the object itself.
        new: names of tensors that stay as the network was built.
    """

    description: str
    stripped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict, repr=False)
    new: tuple[str, ...] = ()


def fit_checkpoint(
    model: nn.Module,
    checkpoint: Checkpoint,
    *,
    what: str,
    wishes: Wishes | None = None,
    kin: Kin | None = None,
    new_head: Collection[str] = (),
) -> Fitted:
    """Copy the weights of a checkpoint into a network, in the network's dtypes.

    Args:
        model: is changed.
        checkpoint: as read.
        what: the network's name in messages.
        wishes: how to take it.
        kin: finds the registered network whose weights they are, where they do not fit.
        new_head: names of tensors that stay as the network was built, whatever the file has.

    Raises:
        ModelError: they do not fit; the network is then of no use, for some weights are loaded.
    """
    wishes = wishes or Wishes()
    name = checkpoint.name
    explain = partial(unreadable, name)
    found = guarded(lambda: find_weights(checkpoint, model, wishes.key), explain)
    _refuse_operated(model, found, name, what)
    match = matched(model, found).without(new_head)
    if (match.misshapen and not wishes.partial) or not match.fitting:
        raise explained(match.misfit(model, found, kin=kin), name, what)
    notes = [*_taken(found), *_compared(model, found, name, what, wishes)]
    _refuse_damaged(checkpoint, match.fitting)
    numbers, said = guarded(
        lambda: converted(match.fitting, match.own, wishes.accept, name), explain
    )
    before = {n: t.detach().clone() for n, t in match.own.items() if n not in match.fitting}
    _load(model, found, {**numbers, **match.inside}, name, what)
    now = tensors_of(model)
    renamed = _renamed(before, now, match.inside)
    untaken = [n for n, value in numbers.items() if not _same(now.get(n), value)]
    misfit = match.misfit(model, found, renamed, untaken, kin)
    if misfit.untaken or ((misfit.missing or misfit.unexpected) and not wishes.partial):
        raise explained(misfit, name, what)
    notes += [*said, *_left_out(match, misfit)]
    if new_head:
        notes.append(f"new head: {listed(new_head, 20)}: as the network was built")
    if renamed:
        notes.append(f"{len(renamed)} older names taken for the present ones by the network itself")
    return Fitted(
        f"checkpoint {name}{' (moving average)' if found.is_average else ''}",
        (*found.place.path, *([found.prefix] if found.prefix else [])),
        tuple(notes),
        attributes_of(found),
        (*new_head, *misfit.missing, *misfit.misshapen),
    )


def _refuse_operated(model: nn.Module, found: Found, name: str, what: str) -> None:
    """Send a whole pickled network with attention in it to its folder."""
    if found.place.network is None:
        return
    places = guarded(
        lambda: attention_in(found.place.network, found.prefix, model), partial(unreadable, name)
    )
    if places:
        hint, command = after_surgery(places, name)
        raise ModelError(
            f"{name} is a network after surgery, and {what} is one before", hint, command=command
        )


def _compared(
    model: nn.Module, found: Found, name: str, what: str, wishes: Wishes
) -> Iterator[str]:
    """Refuse a whole pickled network that is another one than ours, or say so."""
    if found.place.network is None:
        return
    other = guarded(
        lambda: differences(found.place.network, found.prefix, model), partial(unreadable, name)
    )
    if not other:
        return
    first = "\n  ".join(map(partial(shown, at_most=200), other[:8]))
    more = f"\n  and {len(other) - 8} more" if len(other) > 8 else ""
    if not wishes.weights_only:
        said = "name or build the network that it is; its weights alone are taken with "
        raise ModelError(
            f"{name} is a whole pickled network, and another one than {what}:\n  {first}{more}",
            f"{said}weights_only=True",
            command=f"{said}--weights-only",
        )
    yield f"of a network that differs in {len(other)} places the weights alone: {listed(other, 3)}"


def _refuse_damaged(checkpoint: Checkpoint, fitting: Mapping[str, Tensor]) -> None:
    """Refuse numbers that are not those that were written, by the checksums of the file.

    They are looked at only now, so that an optimizer's state is never read. A file all of whose
    sums are wrong was written without, as torch can be told to.
    """
    sums = checkpoint.meter.sums
    asked = {name: sums.get(value.untyped_storage().data_ptr()) for name, value in fitting.items()}
    found = {name: is_whole() for name, is_whole in asked.items() if is_whole is not None}
    damaged = [name for name, is_whole in found.items() if not is_whole]
    if damaged and len(damaged) < len(found):
        raise ModelError(
            f"{checkpoint.name} is damaged: {len(damaged)} tensors are not what was written, by"
            f" their checksums: {listed(damaged)}",
            "copy or download it again",
        )


def _taken(found: Found) -> Iterator[str]:
    """What was taken, where it was not simply all there is."""
    said = []
    if found.place.path:
        said.append(f"taken from {'.'.join(found.place.path)!r}")
    if found.prefix:
        said.append(f"prefix {shown(found.prefix)!r} stripped")
    if found.place.said:
        said.append(found.place.said)
    if found.left:
        many = len(found.left)
        entries = "entry" if many == 1 else "entries"
        said.append(f"{many} other {entries} left: {listed(found.left)}")
    if said:
        yield ", ".join(said)
    if found.rivals:
        why = "the moving average was taken" if found.by_average else "the first was taken"
        yield (
            f"{listed([found.label or 'the top', *(rival or 'the top' for rival in found.rivals)])}"
            f" fit equally: {why}; checkpoint_key= chooses"
        )


def _load(
    model: nn.Module, found: Found, state: Mapping[str, Tensor], name: str, what: str
) -> None:
    """Hand the weights to the network's own `load_state_dict`; what it answers is not relied on."""
    ordered: Any = OrderedDict(state)
    metadata = _metadata(found)
    # Versions of modules as the file has them; of a file without, those of the network, whose
    # names and shapes its weights have.
    ordered._metadata = metadata or getattr(model.state_dict(), "_metadata", None)
    guarded(
        lambda: model.load_state_dict(ordered, strict=False),
        lambda error: ModelError(f"{name} cannot be loaded into {what}: {quote(error)}"),
    )


def _metadata(found: Found) -> OrderedDict[str, Any] | None:
    """The versions of modules in a file, by the network's paths."""
    held = found.place.metadata
    if not isinstance(held, Mapping):
        return None
    versions: OrderedDict[str, Any] = OrderedDict()
    for path, version in held.items():
        if isinstance(path, str) and f"{path}.".startswith(found.prefix):
            plain = isinstance(version, dict) and type(version.get("version")) is int
            path = f"{path}."[len(found.prefix) :].removesuffix(".")
            versions[path] = {"version": version["version"]} if plain else {}
    return versions


def _same(now: Tensor | None, value: Tensor) -> bool:
    if now is None or now.shape != value.shape:
        return False
    now = now.detach().to("cpu")
    if torch.equal(now, value):
        return True
    return value.is_floating_point() and bool(torch.isclose(now, value, 0, 0, equal_nan=True).all())


def _renamed(
    before: Mapping[str, Tensor], now: Mapping[str, Tensor], extras: Mapping[str, Tensor]
) -> dict[str, str]:
    """The network's names that its own hooks filled from other names of the file."""
    found: dict[str, str] = {}
    for name, was in before.items():
        if name in now and not _same(now[name], was):
            equal = (n for n, v in extras.items() if _same(now[name], v.to(now[name].dtype)))
            if (source := next(equal, None)) is not None:
                found[name] = source
    return found


def _left_out(match: Match, misfit: Misfit) -> Iterator[str]:
    """What the network did not get, and what the file has more than it."""
    outside = match.outside
    counters = [n for n in match.own if n.endswith(FORGIVEN) and n not in match.fitting]
    if counters:
        yield f"{len(counters)} {FORGIVEN} missing, as in files of before torch 0.4.1: left at 0"
    tops = dict.fromkeys(n if "." not in n else f"{n.partition('.')[0]}.*" for n in outside)
    if tops:
        yield f"the network has no {listed(tops)}: {_counted(outside)} left"
    random = [*misfit.missing, *misfit.misshapen]
    if random:
        some = f"{_counted(random)} {'stays' if len(random) == 1 else 'stay'}"
        yield f"partial: {some} as the network was built: {listed(random, 20)}"
    if misfit.unexpected:
        some = listed(misfit.unexpected, 20)
        yield f"partial: {_counted(misfit.unexpected)} of the file left: {some}"


def _counted(names: Collection[str]) -> str:
    return f"{len(names)} tensor{'' if len(names) == 1 else 's'}"
