"""One inserted module while it runs -> what it did, as pictures."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from attnsurgeon.attention.heads.tapped import Tapped
from attnsurgeon.attention.identity import Blend, BlendOld, BlendPair
from attnsurgeon.attention.linked.dca import Blended
from attnsurgeon.attention.own.applied import Applied
from attnsurgeon.attention.pictures import AS_SEEN, Seen
from attnsurgeon.attention.precision import wide
from attnsurgeon.attention.registry import Mechanism, lookup
from attnsurgeon.errors import MechanismError, ModelError
from attnsurgeon.looking.following import Following
from attnsurgeon.looking.positions import Row, row_at
from attnsurgeon.looking.told import SiteGates
from attnsurgeon.looking.watching import factors_of
from attnsurgeon.recording.record import MARK
from attnsurgeon.splicing.switching import is_off

_BLENDS = (Blend, BlendOld, BlendPair, Blended, Applied)


class Watcher:
    """Looks at one inserted module while it runs."""

    def __init__(
        self,
        prefix: str,
        path: str,
        cut: Mapping[str, Any],
        part: nn.Module,
        position: tuple[float, ...] | None,
    ) -> None:
        self.path = prefix + path
        self.sites = [prefix + site for site in (cut["path"], *cut["shared"])]
        self.cut = cut
        self.card = _card(cut["attn"])
        unknown = "fusion" if cut["action"] == "fuse" else "gate"
        self.kind = self.card.kind if self.card is not None else unknown
        self.off = is_off(part)
        # A head is handed its maps inside the module that was inserted.
        self.runs = part.head if isinstance(part, Tapped) and not self.off else part
        self.part = part
        self.position = position
        self.count = 0
        self.found: list[tuple[str, SiteGates]] = []

    def note(self, given: tuple[Tensor, ...], made: Any, following: Following) -> None:
        """Writes down what a run did."""
        self.count += 1
        site = self.sites[min(self.count, len(self.sites)) - 1]
        path = self.path if self.count == 1 else f"{self.path}#{self.count}"
        row = None if self.off else row_at(given[0], self.cut, vars(self.part)[MARK].beside)
        pictures = {} if self.off else self.pictures(site, given, made, following)
        resolution = () if self.off else self.resolution(given, row)
        if row is not None:
            pictures = row.arranged(pictures)
        self.found.append(
            (
                path,
                SiteGates(
                    site,
                    self.path,
                    self.cut["attn"],
                    self.kind,
                    {name: picture.detach().clone() for name, picture in pictures.items()},
                    resolution,
                    self.off,
                ),
            )
        )

    def pictures(
        self, site: str, given: tuple[Tensor, ...], made: Any, following: Following
    ) -> dict[str, Tensor]:
        """Returns what a run did, its maps as the module has them."""
        card = self.card
        seen = Seen(
            _mechanism(self.runs, card),
            given,
            made,
            factors_of(following, given, made),
            following.results,
            self.position,
        )
        picture = card.picture if card is not None else AS_SEEN
        try:
            pictures = dict(picture.read(seen))
        except (LookupError, AttributeError, RuntimeError, TypeError, ValueError) as error:
            raise ModelError(
                f"{self.cut['attn']} at {site} is no longer what was put in: "
                f"{type(error).__name__}: {error}",
                "`attnsurgeon.audit` says what is different about it",
            ) from error
        blends = [m.g for m in self.runs.modules() if isinstance(m, _BLENDS) and m.g is not None]
        if blends:
            pictures["blend"] = blends[0].reshape(())
        if (old := self.old(given)) is not None:
            pictures["change"] = _change(old, made, of_weight=self.kind == "weight")
        for name, tensor in pictures.items():
            if bool(tensor.isnan().any()):
                raise self.not_a_number(site, name, given)
        return pictures

    def old(self, given: tuple[Tensor, ...]) -> Tensor | None:
        """Returns what would go on without the site; None where that is no longer computed."""
        if self.cut["action"] == "fuse":
            return given[0] + given[1]
        if isinstance(self.runs, BlendOld):
            return given[-1]
        first = self.card.inputs(self.cut["args"])[0] if self.card is not None else "value"
        gone = self.cut["action"] == "replace" and first not in ("weight", "logits")
        return None if gone else given[0]

    def resolution(self, given: tuple[Tensor, ...], row: Row | None) -> tuple[int, ...]:
        """Returns the sides of the map at the site."""
        if self.kind == "weight" or given[0].dim() < 3:
            return ()
        return row.sides if row is not None else tuple(given[0].shape[2:])

    def not_a_number(self, site: str, name: str, given: tuple[Tensor, ...]) -> ModelError:
        """Returns the error for NaN in a picture, with where it comes from."""
        what = f"{self.cut['attn']} at {site}: its {name} holds NaN"
        wrong = [n for n, p in self.part.named_parameters() if not bool(p.isfinite().all())]
        if not all(bool(value.isfinite().all()) for value in given):
            return ModelError(
                f"{what}, for what reaches it is not finite",
                "look at the input, and at the layers ahead of it",
            )
        if wrong:
            return ModelError(
                f"{what}, for its {wrong[0]} is not finite", "load the weights of an earlier epoch"
            )
        return ModelError(what, "run it in float32, where nothing overflows")


def _change(old: Tensor, made: Any, *, of_weight: bool) -> Tensor:
    """Returns |made - old| / |old| of each sample, (N,), 0 where nothing changed; in
    float32 at least, for the norm of half-precision values overflows.
    """
    difference = made[1] if isinstance(made, tuple) else made.to(old.dtype) - old
    if of_weight:  # one weight for all images, or one for each
        old = old[None]
        difference = difference if difference.dim() == old.dim() else difference[None]
    size, moved = (
        torch.linalg.vector_norm(z.flatten(1), dim=1, dtype=wide(z)) for z in (old, difference)
    )
    return torch.where(moved == 0, torch.zeros_like(moved), moved / size)


def _card(name: str) -> Mechanism | None:
    try:
        return lookup(name)
    except MechanismError:  # code that nobody has named in this process; the module is there
        return None


def _mechanism(runs: nn.Module, card: Mechanism | None) -> nn.Module:
    """The mechanism itself, inside what blends it in."""
    if card is None or not inspect.isclass(card.build):
        return runs
    return next((m for m in runs.modules() if isinstance(m, card.build)), runs)
