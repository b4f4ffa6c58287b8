"""Operated network + images -> the same without the sites that do nothing, and what that moved."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from attnsurgeon.cost.comparing import Cost, compare
from attnsurgeon.cost.weighing import weigh
from attnsurgeon.cost.weight import Weight
from attnsurgeon.errors import ModelError, UsageError
from attnsurgeon.given import takes_networks
from attnsurgeon.looking.batches import Batches, Images
from attnsurgeon.looking.effects import Effect, Movement
from attnsurgeon.looking.running import Runner, image_form, picture_preprocessing
from attnsurgeon.looking.statistics import GateStatistics, Progress, SiteStatistics, gate_statistics
from attnsurgeon.recording.ambient import known_state
from attnsurgeon.recording.twin import handed_over
from attnsurgeon.shown import Shown
from attnsurgeon.splicing.selecting import Chosen, cuts_of, operated_in
from attnsurgeon.splicing.thinning import remove

BELOW = 0.01


@dataclass(frozen=True, eq=False, repr=False)
class Pruning(Shown):
    """A network without the sites that do nothing.

    Attributes:
        model: the pruned network: a copy, or with `inplace` the one that was given.
        removed, kept: the sites, with what was measured of each.
        below: the effect below which a site was removed.
        moved: how far the outputs of all images are from those of before, with all these sites
            gone at once; None where nothing was removed.
        before, after: what the network weighs, for one image.
        statistics: of all sites.
    """

    model: nn.Module
    removed: tuple[SiteStatistics, ...]
    kept: tuple[SiteStatistics, ...]
    below: float
    moved: Effect | None
    before: Weight
    after: Weight
    statistics: GateStatistics

    @property
    def cost(self) -> Cost:
        """The difference that pruning makes; what is refunded is negative."""
        return compare(self.before, self.after, [])

    @property
    def everything(self) -> bool:
        """Whether no attention is left."""
        return bool(self.removed) and not self.kept


@takes_networks()
@known_state()
def prune(
    model: nn.Module,
    images: Images,
    *,
    below: float = BELOW,
    sites: Chosen = None,
    batch_size: int = 8,
    limit: int | None = None,
    skip_bad: bool = False,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    image_size: int | Sequence[int] | None = None,
    device: str | torch.device | None = None,
    inplace: bool = False,
    progress: Progress | None = None,
) -> Pruning:
    """Removes the sites whose effect on the outputs is below a bound.

    The effect of a site is |y without it - y| / |y| of all outputs of an image, its mean over the
    images, with every other site in place. As effects need not add up, the outputs with all these
    sites gone are compared with those of before, on the same images: `Pruning.moved`.

    Args:
        model: an operated network, trained; a copy is pruned unless `inplace`.
        images, batch_size, limit, skip_bad, mean, std, image_size, device, progress: as for
            `gate_statistics`. They are gone through twice.
        below: the bound.
        sites: remove none but of these; as for `attnsurgeon.remove`.
        inplace: prune `model` itself.

    Raises:
        UsageError: as `gate_statistics`; or the bound is no number above 0.
        ModelError: as `gate_statistics` and `attnsurgeon.remove`.
    """
    if not isinstance(below, (int, float)) or not math.isfinite(below) or below <= 0:
        raise UsageError(f"below={below!r} is no bound", "a number above 0: below=0.01")
    how = picture_preprocessing(model, mean=mean, std=std, image_size=image_size)
    batches = Batches.of(
        images, how, batch_size=batch_size, limit=limit, skip_bad=skip_bad, again=True
    )
    found = gate_statistics(model, batches, sites=sites, device=device, progress=progress)
    _refuse_not_finite(found)
    there = {site.module_path for site in found.sites}
    gone = tuple(
        site
        for site in found.sites
        if site.effect is not None and site.effect.change < below and there >= {*site.together}
    )
    pruned = model if inplace else handed_over(model)
    runner = Runner.of(model, device) if gone else None  # a twin, which stays what it is
    form = image_form(model).at_batch(1)
    _, network = operated_in(model)
    before = weigh(network, form)
    everything = {site.module_path for site in gone} == set(cuts_of(network))
    if gone:
        of = operated_in(pruned)[1]
        remove(of, None if everything else [site.module_path for site in gone])
    return Pruning(
        pruned,
        gone,
        tuple(site for site in found.sites if site not in gone),
        below,
        _moved(runner, pruned, batches),
        before,
        weigh(pruned, form) if gone else before,
        found,
    )


def _refuse_not_finite(found: GateStatistics) -> None:
    for site in found.sites:
        if site.effect is not None and not math.isfinite(site.effect.change):
            raise ModelError(
                f"the outputs are not finite, with or without {site.attn} at {site.path}",
                "so nothing can be said of what it does; look at the weights and the images",
            )


def _moved(before: Runner | None, pruned: nn.Module, batches: Batches) -> Effect | None:
    if before is None:
        return None
    after = before.beside(pruned)
    moved = Movement()
    for batch in batches:
        x = before.taken(batch)
        moved.add(before(x), after(x), len(x))
    return moved.effect()
