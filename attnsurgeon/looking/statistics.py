"""Operated network + images -> what each site does over all of them, and whether it is missed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attnsurgeon.attention.identity import Gate
from attnsurgeon.attention.linked.chain import Link
from attnsurgeon.errors import ModelError, UsageError
from attnsurgeon.given import takes_networks
from attnsurgeon.looking.batches import Batches, Images
from attnsurgeon.looking.effects import Effect, Movement
from attnsurgeon.looking.gates import gates
from attnsurgeon.looking.photographs import Unreadable
from attnsurgeon.looking.running import Runner, picture_preprocessing
from attnsurgeon.looking.told import SiteGates
from attnsurgeon.models.preprocessing import Preprocessing
from attnsurgeon.recording.ambient import known_state
from attnsurgeon.shown import Shown, brief
from attnsurgeon.splicing.history import inserted
from attnsurgeon.splicing.selecting import Chosen, chosen, cuts_of, operated_in
from attnsurgeon.splicing.switching import disabled

EDGE = 0.01  # a value so near to 0 or to the most it can be is saturated
STILL = 0.01  # a value whose spread over the images is below never moves
_SHARES = {"branches", "attention"}  # of a softmax: between 0 and 1
_NUMBERS = {"blend", "change"}
_OF_NO_IMAGE = {"stages", "weights"}
_GATED = {"channel", "spatial", "samples"}
Progress = Callable[[int, int], None]


@dataclass(frozen=True, repr=False)
class PictureStatistics:
    """One picture of one site over all images: its channel gate, its spatial mask, ...

    Attributes:
        name: as `gates` names it.
        size: of one image's, without the batch.
        mean, spread: of all its values; the spread is their standard deviation.
        low, high: the smallest and the largest value.
        most: the largest value that it can have; None where that is not bounded.
        closed: share of the values within `EDGE` of 0; None of a `change` and a `blend`.
        open: share of the values within `EDGE` of `most`; None without that.
        still: share of its places (channels, positions) whose spread over the images is below the
            bound; None with one image, and of what is one number.
    """

    name: str
    size: tuple[int, ...]
    mean: float
    spread: float
    low: float
    high: float
    most: float | None
    closed: float | None
    open: float | None
    still: float | None

    @property
    def saturated(self) -> float:
        """Share of the values within `EDGE` of either end."""
        return (self.closed or 0.0) + (self.open or 0.0)

    def __repr__(self) -> str:
        return brief(self, f"{self.name} {self.size}: {self.mean:.3f} +- {self.spread:.3f}")


@dataclass(frozen=True, repr=False)
class SiteStatistics:
    """One inserted attention over all images.

    Attributes:
        path: of the site.
        attn: name of the mechanism.
        module_path: where the module is.
        pictures: what it does, one for each of its pictures.
        effect: how far the outputs move without it; None where that is not known.
        why: why the effect is not known, in words, or "".
        together: the modules that were switched off with it, as they are of one chain.
    """

    path: str
    attn: str
    module_path: str
    pictures: tuple[PictureStatistics, ...]
    effect: Effect | None
    why: str = ""
    together: tuple[str, ...] = ()

    def __repr__(self) -> str:
        moved = self.why or "not measured" if self.effect is None else f"{self.effect.change:.3g}"
        return brief(self, f"{self.path}: {self.attn}, effect {moved}")


@dataclass(frozen=True, repr=False)
class GateStatistics(Shown):
    """What the attention of a network does over images.

    Attributes:
        sites: one for each inserted module, in the order of the operations.
        images: how many were looked at.
        where: they came from.
        preprocessing: how pictures were prepared; None for batches that were given.
        still_below: the spread below which a value counts as one that never moves.
        skipped: files that are no pictures, and were left out.
        device: where it ran.
    """

    sites: tuple[SiteStatistics, ...]
    images: int
    where: str
    preprocessing: Preprocessing | None
    still_below: float
    skipped: tuple[Unreadable, ...]
    device: str


@takes_networks()
@known_state()
def gate_statistics(
    model: nn.Module,
    images: Images,
    *,
    sites: Chosen = None,
    batch_size: int = 8,
    limit: int | None = None,
    skip_bad: bool = False,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    image_size: int | Sequence[int] | None = None,
    device: str | torch.device | None = None,
    still: float = STILL,
    effects: bool = True,
    progress: Progress | None = None,
) -> GateStatistics:
    """Says of every inserted attention how its gates are spread over images, which of them are
    stuck, and how far the outputs move when it is switched off.

    Args:
        model: an operated network; it runs in eval mode, and is not changed.
        images: a folder of pictures; a list of files or of Pillow's images, prepared as the network
            wants them; or batches that are prepared already: tensors (N, C, H, W), or tuples and
            dicts with one first, as a loader yields them.
        sites: as for `remove`; None for all attention.
        batch_size: of pictures.
        limit: at most so many images; of a folder evenly spread.
        skip_bad: leave out files that are no pictures instead of refusing them.
        mean, std, image_size: in place of what the network says.
        device: where to run; None for where the weights are.
        still: below this spread over the images a value counts as one that never moves.
        effects: also switch every site off, which takes one more forward of each image a site.
        progress: called with the images that are done and how many there are, 0 where not known.

    Raises:
        UsageError: there are no images, some are none, no such site or device; or the network
            takes no pictures.
        ModelError: it does not run on them; or a gate holds NaN.
    """
    runner = Runner.of(model, device)
    how = picture_preprocessing(model, mean=mean, std=std, image_size=image_size)
    batches = images
    if not isinstance(images, Batches):
        batches = Batches.of(images, how, batch_size=batch_size, limit=limit, skip_bad=skip_bad)
    _, network = operated_in(runner.network)
    found = {path: _Site(network, path, still) for path in chosen(network, sites)}
    groups = list(_groups(network, found)) if effects else []
    for batch in batches:
        x = runner.taken(batch)
        for run in gates(runner.network, x, sites=list(found)).values():
            found[run.module_path].add(run)
        before = runner(x) if groups else None
        for group in groups:
            group.add(runner, network, x, before)
        if progress is not None:
            progress(batches.seen, len(batches))
    measured = {path: group for group in groups for path in group.paths}
    return GateStatistics(
        tuple(site.statistics(measured.get(path)) for path, site in found.items()),
        batches.seen,
        batches.where,
        batches.how,
        still,
        tuple(batches.skipped.values()),
        str(runner.device),
    )


class _Group:
    """What is switched off together: one module, or those of a chain.

    Attributes:
        paths: of the modules.
        moved: how far the outputs are without them.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = tuple(paths)
        self.moved = Movement()

    def add(self, runner: Runner, network: nn.Module, x: Tensor, before: Any) -> None:
        if self.moved.why_not:
            return
        try:
            with disabled(network, self.paths):
                self.moved.add(before, runner(x), len(x))
        except (UsageError, ModelError) as error:
            self.moved.why_not = error.what


def _groups(network: nn.Module, wanted: Mapping[str, _Site]) -> Iterator[_Group]:
    chains: dict[int, list[str]] = {}
    for path, part in inserted(network):
        of = id(part.chain) if isinstance(part, Link) else id(part)
        chains.setdefault(of, []).append(path)
    return (_Group(paths) for paths in chains.values() if any(path in wanted for path in paths))


class _Site:
    """Adds up what one attention does, batch by batch."""

    def __init__(self, network: nn.Module, path: str, still: float) -> None:
        self.path = path
        self.cut = cuts_of(network)[path]
        self.still = still
        part = network.get_submodule(path)
        gains = {module.gain for module in part.modules() if isinstance(module, Gate)}
        self.gain = gains.pop() if len(gains) == 1 else None
        self.pictures: dict[str, _Values] = {}

    def add(self, run: SiteGates) -> None:
        for name, picture in run.pictures.items():
            most = 1.0 if name in _SHARES else self.gain if name in _GATED else None
            self.pictures.setdefault(name, _Values(name, most, self.still)).add(picture)

    def statistics(self, group: _Group | None) -> SiteStatistics:
        moved = Movement() if group is None else group.moved
        return SiteStatistics(
            self.cut["path"],
            self.cut["attn"],
            self.path,
            tuple(picture.statistics() for picture in self.pictures.values()),
            moved.effect(),
            moved.why_not,
            () if group is None or len(group.paths) == 1 else group.paths,
        )


class _Values:
    """Adds up one picture: over all its values, and over the images at each of its places.

    In double precision and from the first image's values on, as far as they are of one size: the
    sum of squares of what hardly moves would be lost in that of its mean.
    """

    def __init__(self, name: str, most: float | None, still: float) -> None:
        self.name = name
        self.most = most
        self.still_below = still
        self.size: tuple[int, ...] = ()
        self.count = self.images = 0
        self.total = self.squares = 0.0
        self.low, self.high = float("inf"), -float("inf")
        self.closed = self.opened = 0
        self.first: Tensor | None = None
        self.sums: tuple[Tensor, Tensor] | None = None

    def add(self, picture: Tensor) -> None:
        values = picture.detach().double().cpu()
        self.count += values.numel()
        self.total += float(values.sum())
        self.squares += float(values.square().sum())
        low, high = values.aminmax()
        self.low, self.high = min(self.low, float(low)), max(self.high, float(high))
        self.closed += int((values.abs() <= EDGE).sum())
        if self.most is not None:
            self.opened += int((values >= self.most - EDGE).sum())
        self._at_each_place(values)

    def _at_each_place(self, values: Tensor) -> None:
        of_images = self.name not in _OF_NO_IMAGE and values.dim() > 0
        self.size = tuple(values.shape[1:] if of_images else values.shape)
        if not self.size or not of_images:
            return
        self.images += len(values)
        if self.first is None:
            self.first = values[0].clone()
            zeros = torch.zeros_like(self.first)
            self.sums = zeros, zeros.clone()
        assert self.sums is not None
        if self.first.shape == values.shape[1:]:
            apart = values - self.first
            self.sums = self.sums[0] + apart.sum(0), self.sums[1] + apart.square().sum(0)

    def statistics(self) -> PictureStatistics:
        mean = self.total / self.count
        bounded = self.most is not None and self.high <= self.most * (1 + 1e-3)
        return PictureStatistics(
            self.name,
            self.size,
            mean,
            max(self.squares / self.count - mean**2, 0.0) ** 0.5,
            self.low,
            self.high,
            self.most if bounded else None,
            None if self.name in _NUMBERS else self.closed / self.count,
            self.opened / self.count if bounded else None,
            self._still(),
        )

    def _still(self) -> float | None:
        if self.sums is None or self.images < 2:
            return None
        total, squares = (one / self.images for one in self.sums)
        spread = (squares - total.square()).clamp(min=0).sqrt()
        return float((spread < self.still_below).double().mean())
