"""What a look into a network tells: of each run of an inserted module its pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from attnsurgeon.shown import Shown, brief


@dataclass(frozen=True, eq=False, repr=False)
class SiteGates(Mapping[str, Tensor]):
    """What one inserted attention did to one input; a mapping of its pictures by their names.

    Attributes:
        site: path of the site; of a later run of a module that runs several times, that of the
            further site that it serves.
        module_path: where the module is.
        mechanism: its name.
        kind: of the mechanism: "gate", "conv", "weight", "activation", "fusion", "linked", "head".
        pictures: name -> tensor, as `attnsurgeon.attention.pictures.PICTURES` has them: the
            mechanism's own first, `blend` and `change` last. Detached, and in no memory of the
            network's.
        resolution: (H, W) of the map at the site; (L,) of a signal, or of tokens whose map is not
            known, (D, H, W) of a clip; () where there is no map.
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

    def __repr__(self) -> str:
        shown = (f"{name} {tuple(picture.shape)}" for name, picture in self.pictures.items())
        return brief(
            self, f"{self.site}: {self.mechanism}, {'off' if self.off else ', '.join(shown)}"
        )


class Gates(Shown, Mapping[str, SiteGates]):
    """What every site did, in the order in which they ran.

    The keys are the paths of the inserted modules, which are unique (`layer1.0.attn`; of a second
    run of the same module `layer1.0.attn#2`). The path of a site (`layer1.0.bn3`) finds it as well
    where one attention alone stands there.

    Attributes:
        dead: the paths of the modules that were asked for and did not run.
    """

    def __init__(self, found: Mapping[str, SiteGates], dead: Sequence[str] = ()) -> None:
        self._found = dict(found)
        self.dead = tuple(dead)

    def __getitem__(self, path: str) -> SiteGates:
        if path in self._found:
            return self._found[path]
        there = [site for site in self._found.values() if site.site == path]
        if len(there) != 1:
            raise KeyError(path)
        return there[0]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)
