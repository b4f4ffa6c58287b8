"""What a file holds and a network's names -> the weights in the file that are the network's.

Nobody agrees on how weights are wrapped: under `state_dict`, `model`, `net`, `params_ema`, with
`module.` or `backbone.` before each name, beside an optimizer. So they are found by what they are:
of all mappings in a file, the one whose names, after one common beginning, are the network's.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from attnsurgeon.errors import ModelError, nearest
from attnsurgeon.models.checkpoint import Checkpoint, unreadable
from attnsurgeon.models.files.limits import Meter, Unreadable
from attnsurgeon.models.files.stand_ins import StandIn, as_mapping, state_of
from attnsurgeon.models.files.values import Array, as_tensor
from attnsurgeon.models.foreign import guarded
from attnsurgeon.recording.garbage import uncollected

# Steps of training: what torch itself forgives in files older than it, and no weight.
FORGIVEN = "num_batches_tracked"
# What torch's own wrappers put before the names of what they wrap, at any depth.
_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
_AVERAGES = {"ema", "swa", "average", "averaged", "avg", "teacher", "polyak", "shadow"}
_STATISTICS = re.compile(r"optim|exp_avg|grad|scaler|momentum_buffer")  # of an optimizer
_MOST_PREFIXES, _MOST_CHOICES = 8, 64  # of one place; of all, to be compared in shapes as well


@dataclass(frozen=True, eq=False)
class Place:
    """A mapping of names to tensors somewhere in a file.

    Attributes:
        path: the entries that lead to it, outermost first.
        entries: names and values.
        network: the whole pickled network it is of, a stand-in or a module.
        said: what was done to its names.
    """

    path: tuple[str, ...]
    entries: Mapping[str, Any] = field(repr=False)
    network: Any = None
    said: str = ""

    @property
    def metadata(self) -> Any:
        """The versions of its modules, as torch keeps them beside a state dict."""
        return getattr(self.entries, "_metadata", None)


@dataclass(frozen=True, eq=False)
class Found:
    """The weights in a file that are the network's.

    Attributes:
        place: where.
        prefix: what stands before each name there.
        state: the values by the network's names.
        left: what was left: entries beside the place and names outside of the prefix.
        rivals: what fits as well, each as `checkpoint_key` would be told.
        by_average: whether it was preferred because it is a moving average.
    """

    place: Place
    prefix: str
    state: Mapping[str, Any] = field(repr=False)
    left: tuple[str, ...] = ()
    rivals: tuple[str, ...] = ()
    by_average: bool = False

    @property
    def is_average(self) -> bool:
        """Whether its name says that it is a moving average of weights."""
        return _is_average(self.place, self.prefix)

    @property
    def label(self) -> str:
        """How `checkpoint_key` tells it from others."""
        return _label(self.place, self.prefix)


@uncollected()
def find_weights(checkpoint: Checkpoint, model: nn.Module, key: str | None) -> Found:
    """Find the weights of a network in what a file holds.

    Args:
        checkpoint: as read.
        model: only its names and shapes are looked at.
        key: the entry or the prefix to take, where the user says.

    Raises:
        ModelError: there are no weights, or none under that key.
        Unreadable: looking for them takes more than the limits allow.
    """
    own = {name: shape_of(value) for name, value in model.state_dict().items()}
    own = {name: shape for name, shape in own.items() if not name.endswith(FORGIVEN)}
    places = list(_places(checkpoint.content, checkpoint.meter))
    if not places:
        raise _no_weights(checkpoint)
    choices = _choices(places, own, key, checkpoint.meter)
    if not choices or _fit(*choices[0], own)[0] < len(own):
        more = [p for place in places[:_MOST_CHOICES] if (p := _unwrapped(place)) is not None]
        more += _joined(checkpoint.content, checkpoint.meter)
        choices += _choices(more, own, key, checkpoint.meter)
        choices.sort(key=lambda choice: _rank(*choice, own), reverse=True)
    if not choices:
        raise _no_such_key(checkpoint, key, places)
    return _best(choices, own, checkpoint)


def holds_modules(checkpoint: Checkpoint, paths: Iterable[str]) -> bool:
    """Tell whether a file has tensors of modules of these paths, under any prefix.

    Raises:
        ModelError: looking for them takes more than the limits allow.
    """
    wanted = tuple(f"{path}." for path in paths)

    def look() -> bool:
        return any(
            name.startswith(wanted) or any(f".{path}" in name for path in wanted)
            for place in _places(checkpoint.content, checkpoint.meter)
            for name in place.entries
        )

    return bool(wanted) and guarded(look, partial(unreadable, checkpoint.name))


def shape_of(value: Any) -> tuple[int, ...] | None:
    """Return the shape of a tensor; None of what is none, or has none yet."""
    if not isinstance(value, Tensor) or is_lazy(value):
        return None
    return tuple(value.shape)


def _places(content: Any, meter: Meter) -> Iterator[Place]:
    """Every mapping that has tensors by name, the outermost first; each object once."""
    seen: set[int] = set()
    found = False
    waiting: list[tuple[tuple[str, ...], Any]] = [((), content)]
    for path, value in waiting:  # grows while it is read
        if id(value) in seen or len(path) > meter.limits.depth:
            continue
        seen.add(id(value))
        if len(seen) > meter.limits.entries or len(waiting) > 4 * meter.limits.entries:
            if found:  # weights stand at the outside, and what is further inside are notes
                return
            raise Unreadable(f"no weights are among its first {meter.limits.entries:,} values")
        if len(seen) % 1024 == 0:
            meter.tick()
        if (state := _state_of(value, meter)) is not None:
            kind = value.kind if isinstance(value, StandIn) else type(value).__name__
            found = True
            yield Place((*path, f"pickled {kind}"), state, value)
            continue
        held = as_mapping(value)
        if held is None and isinstance(value, (list, tuple)):
            held = {f"[{at}]": part for at, part in enumerate(value) if _opens(part)}
        elif held is None:
            continue
        named = {n: v for n, v in held.items() if isinstance(n, str)}
        if any(isinstance(v, (Tensor, Array)) for v in named.values()):
            found = True
            yield Place(path, _tensors_of(held, named, meter))
        waiting += [((*path, shown(n)), part) for n, part in named.items() if _opens(part)]


def _state_of(value: Any, meter: Meter) -> Mapping[str, Any] | None:
    """The state dict of a whole network; None of what is none."""
    if isinstance(value, nn.Module):
        return value.state_dict()
    if isinstance(value, StandIn) and value.is_network:
        state = state_of(value)
        if len(state) > meter.limits.tensors:
            raise Unreadable(f"its network has more than {meter.limits.tensors:,} tensors")
        return state
    return None


def _tensors_of(held: Any, named: Mapping[str, Any], meter: Meter) -> Mapping[str, Any]:
    """The entries by name, numpy arrays as tensors; torch's note of versions stays with them."""
    made = _Entries()
    for name, value in named.items():
        if len(name) <= meter.limits.name_length:
            tensor = as_tensor(value, meter)
            made[name] = value if tensor is None else tensor
    made._metadata = getattr(held, "_metadata", None)
    return made


class _Entries(dict[str, Any]):
    """Names and values, with torch's note of versions, which it keeps as an attribute."""

    _metadata: Any = None


def _opens(value: Any) -> bool:
    return isinstance(value, (dict, list, tuple, StandIn, nn.Module)) and not isinstance(
        value, Array
    )


def _unwrapped(place: Place) -> Place | None:
    """The same with the names of torch's wrappers taken out; None where there are none."""
    short: dict[str, Any] = {}
    for name, value in place.entries.items():
        parts = [part for part in name.split(".") if part not in _WRAPPERS]
        short[".".join(parts)] = value
    if short.keys() == place.entries.keys() or len(short) < len(place.entries):
        return None
    return Place(place.path, short, place.network, "names of wrappers taken out")


def _joined(content: Any, meter: Meter) -> Iterator[Place]:
    """Mappings of mappings of tensors, as one with dotted names: a part of a network in each."""
    held = as_mapping(content)
    flat: dict[str, Any] = {}
    waiting: list[tuple[str, int, Any]] = [("", 0, held)] if held is not None else []
    for prefix, depth, value in waiting:
        for name, part in (as_mapping(value) or {}).items():
            full = f"{prefix}{name}"
            if not isinstance(name, (str, int)) or len(full) > meter.limits.name_length:
                continue
            tensor = as_tensor(part, meter)
            if tensor is not None:
                flat[full] = tensor
            elif _opens(part) and depth < 8:
                waiting.append((f"{full}.", depth + 1, part))
            if len(flat) + len(waiting) > meter.limits.entries:
                return
    if flat:
        yield Place((), flat, said="entries joined to one")


def _choices(
    places: Iterable[Place], own: Mapping[str, Any], key: str | None, meter: Meter
) -> list[tuple[Place, str]]:
    """Places, each with a prefix after which names are the network's; the best come first."""
    deepest = max((name.count(".") for name in own), default=0)
    counted: list[tuple[int, Place, str]] = []
    for place in places:
        votes: Counter[str] = Counter()
        for at, name in enumerate(place.entries):
            if at % 4096 == 0:
                meter.tick()
            votes.update(p for p in _prefixes(name, deepest) if name[len(p) :] in own)
        prefixes = votes.most_common(_MOST_PREFIXES) or [("", 0)]
        counted += [(n, place, p) for p, n in prefixes if _is_meant(place, p, key)]
    counted.sort(key=lambda choice: -choice[0])
    choices = [(place, prefix) for _, place, prefix in counted[:_MOST_CHOICES]]
    return sorted(choices, key=lambda choice: _rank(*choice, own), reverse=True)


def _prefixes(name: str, deepest: int) -> Iterator[str]:
    """The beginnings of a name that leave no more dots than the network's names have."""
    at = len(name)
    for _ in range(deepest + 1):
        at = name.rfind(".", 0, at)
        yield name[: at + 1]
        if at < 0:
            return


def _is_meant(place: Place, prefix: str, key: str | None) -> bool:
    if key is None:
        return True
    bare, path = key.rstrip("."), [part for part in place.path if not part.startswith("pickled ")]
    whole = ".".join([*path, *([prefix.rstrip(".")] if prefix else [])])
    return bare in path or bare in (whole, ".".join(path), prefix.rstrip("."))


def _fit(place: Place, prefix: str, own: Mapping[str, Any]) -> tuple[int, int]:
    """How many names are there with the network's shape, and how many at all."""
    there = [(place.entries.get(prefix + name), shape) for name, shape in own.items()]
    shaped = sum(value is not None and shape in (None, shape_of(value)) for value, shape in there)
    return shaped, sum(value is not None for value, _ in there)


def _rank(place: Place, prefix: str, own: Mapping[str, Any]) -> tuple[Any, ...]:
    """Fitting before all; then moving averages, as everybody evaluates with these."""
    path = ".".join((*place.path, prefix)).lower()
    return (
        *_fit(place, prefix, own),
        not _STATISTICS.search(path),
        _is_average(place, prefix),
        not place.said,  # as it stands in the file
        -len(place.path),
    )


def _is_average(place: Place, prefix: str) -> bool:
    words = re.findall(r"[a-z]+", ".".join((*place.path, prefix)).lower())
    return not _AVERAGES.isdisjoint(words) or "n_averaged" in place.entries


def _label(place: Place, prefix: str) -> str:
    path = [part for part in place.path if not part.startswith("pickled ")]
    return ".".join([*path, *([prefix.rstrip(".")] if prefix else [])])


def _best(
    choices: list[tuple[Place, str]], own: Mapping[str, Any], checkpoint: Checkpoint
) -> Found:
    place, prefix = choices[0]
    best = _rank(place, prefix, own)
    equal = [choice for choice in choices[1:] if _rank(*choice, own)[:3] == best[:3]]
    equal = [(p, x) for p, x in equal if not _same_values(p, x, place, prefix, own)]
    state = {n[len(prefix) :]: v for n, v in place.entries.items() if n.startswith(prefix)}
    outside = [name for name in place.entries if not name.startswith(prefix)]
    return Found(
        place,
        prefix,
        state,
        tuple(dict.fromkeys([*_beside(place, checkpoint), *_stems(outside)])),
        tuple(dict.fromkeys(_label(*rival) for rival in equal)),
        by_average=best[3] and any(not _is_average(*rival) for rival in equal),
    )


def _same_values(one: Place, prefix: str, other: Place, its: str, own: Mapping[str, Any]) -> bool:
    """Whether two are the same tensors; or the same place, told in two ways."""
    return all(one.entries.get(prefix + name) is other.entries.get(its + name) for name in own)


def _beside(place: Place, checkpoint: Checkpoint) -> list[str]:
    """The entries of the file that were not opened, at each level."""
    left: list[str] = []
    value = checkpoint.content
    for part in place.path:
        held = as_mapping(value)
        if held is None:
            break
        left += [shown(str(name)) for name in held if shown(str(name)) != part]
        value = next((v for n, v in held.items() if shown(str(n)) == part), None)
    return left


def _stems(names: list[str]) -> list[str]:
    """Names outside of a prefix, those of one module as one: `criterion.*`."""
    stems = [name if "." not in name else f"{name.partition('.')[0]}.*" for name in names]
    return [shown(stem) for stem in dict.fromkeys(stems)]


def shown(name: str, at_most: int = 80) -> str:
    """Return a name of a file as it may be written to a terminal."""
    name = name[: 10 * at_most]
    plain = name if name.isprintable() else repr(name)[1:-1]
    return plain if len(plain) <= at_most else f"{plain[:at_most]}…"


def listed(names: Any, at_most: int = 6) -> str:
    """Return names with commas between them, of many the first."""
    names = [shown(str(name)) for name in names]
    rest = len(names) - at_most
    return ", ".join(names[:at_most]) + (f" and {rest} more" if rest > 0 else "")


def _no_weights(checkpoint: Checkpoint) -> ModelError:
    held = as_mapping(checkpoint.content)
    if held is None:
        value = checkpoint.content
        kind = value.called if isinstance(value, StandIn) else type(value).__name__
        return ModelError(
            f"{checkpoint.name} holds a {shown(kind)}, not a state dict",
            "save the weights by name: torch.save(model.state_dict(), FILE)",
        )
    return ModelError(
        f"{checkpoint.name} holds no weights by name: it has {listed(held) or 'nothing'}",
        "save the weights by name: torch.save(model.state_dict(), FILE)",
    )


def _no_such_key(checkpoint: Checkpoint, key: str | None, places: list[Place]) -> ModelError:
    known = [_label(place, "") for place in places]
    known += [name.partition(".")[0] for place in places[:8] for name in list(place.entries)[:999]]
    distinct = [shown(name) for name in dict.fromkeys(known) if name][:200]
    return ModelError(
        f"{checkpoint.name} holds no weights under {shown(str(key))!r}",
        nearest(str(key), distinct) if distinct else "its weights stand at the top: give no key",
    )
