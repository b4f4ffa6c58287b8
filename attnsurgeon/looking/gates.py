"""Operated network and an input -> what every site did to this input, as named tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from attnsurgeon.splicing.selecting import Chosen


@dataclass(frozen=True, eq=False, repr=False)
class SiteGates(Mapping[str, Tensor]):
    """What one inserted attention did to one input; a mapping of the names of its pictures.

    Attributes:
        site: path of the site; of a later run of a module that runs several times, `path#2` and on.
        module_path: where the module is.
        mechanism: its name.
        kind: of the mechanism: "gate", "conv", "weight", "activation", "fusion", "linked", "head".
        pictures: name -> tensor, as `attnsurgeon.attention.pictures` lists them, the mechanism's
            own first and `blend` and `change` last. Tensors are detached and share no memory with
            the network.
        resolution: (H, W) of the map at the site: (L,), (D, H, W); () where there is none.
        off: it is switched off (`attnsurgeon.disabled`), so that there are no pictures.
    """

    site: str
    module_path: str
    mechanism: str
    kind: str
    pictures: Mapping[str, Tensor] = field(default_factory=dict)
    resolution: tuple[int, ...] = ()
    off: bool = False

    def __getitem__(self, name: str) -> Tensor:
        return self.pictures[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.pictures)

    def __len__(self) -> int:
        return len(self.pictures)


class Gates(Mapping[str, SiteGates]):
    """What every site did, in the order in which they ran.

    The keys are the paths of the inserted modules (`layer1.0.attn`; of a later run of the same
    module `layer1.0.attn#2`), which are unique. A site's path (`layer1.0.bn3`) finds it as well,
    where one attention alone stands there.
    """

    def __init__(self, found: Sequence[tuple[str, SiteGates]]) -> None:
        self._found = dict(found)

    def __getitem__(self, path: str) -> SiteGates:
        if path in self._found:
            return self._found[path]
        there = [gates for gates in self._found.values() if gates.site == path]
        if len(there) != 1:
            raise KeyError(path)
        return there[0]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)


def gates(
    model: nn.Module,
    x: Any,
    *,
    sites: Chosen = None,
    position: Sequence[float] | None = None,
) -> Gates:
    """Runs a network once and says what every site did to this input.

    The network runs in the mode that it is in, without gradients, and is afterwards what it was:
    weights, buffers (also those that training mode changes), hooks and random state.

    Args:
        model: an operated network, or what stands around it.
        x: its input: a tensor, or what `find_sites` takes as an example.
        sites: as for `remove`: paths, patterns, Sites; None for all.
        position: of the picture `attention`, whose attention it is: a fraction of each axis, so
            that it means the same at every resolution; None for the centre, (0.5, 0.5).

    Raises:
        UsageError: there is no attention in the network, or none is called that.
        ModelError: the network cannot run on this input; or a gate holds NaN: which, and where.
    """
    raise NotImplementedError
