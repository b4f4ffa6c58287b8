"""Candidates + data -> what each gains when it alone is trained for a few steps.

Every candidate starts as the identity in a copy of the network, the backbone stands still, and
only the attention is trained. Its gain is how much lower the loss on held-out data is afterwards.
Each seed starts the attention anew and takes the batches in another order. A gain of a candidate is
measured with no other in the network; that gains add up is assumed, and not measured.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attnsurgeon.errors import UsageError
from attnsurgeon.operate import carry_out
from attnsurgeon.recording.record import tensors_in
from attnsurgeon.recording.twin import full_twin
from attnsurgeon.saved.origin import measure as hash_of
from attnsurgeon.searching.candidates import Candidate
from attnsurgeon.searching.journal import Journal
from attnsurgeon.training.finetune import freeze_backbone
from attnsurgeon.training.groups import param_groups
from attnsurgeon.version import __version__

STEPS, SEEDS, RATE = 20, 3, 1e-3
HELD_OUT = 4  # of so many batches one is held out
_MOST = 64  # batches that are read where nobody says how many

Loss = Callable[[nn.Module, Any], Tensor]
Tell = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Lessons:
    """Batches to train on and batches to judge by, and how a batch is judged.

    Attributes:
        train, held_out: the batches, whatever the loss takes.
        loss: (network, batch) -> a scalar.
    """

    train: Sequence[Any]
    held_out: Sequence[Any]
    loss: Loss

    @classmethod
    def of(cls, batches: Iterable[Any], loss: Loss | None = None) -> Lessons:
        """Returns batches divided in two: every fourth is held out.

        Args:
            batches: of which at most 64 are read; without a loss each is (images, labels).
            loss: (network, batch) -> a scalar; default: cross entropy.

        Raises:
            UsageError: they are fewer than two, or there is no loss for them.
        """
        if not isinstance(batches, Iterable):
            raise UsageError(
                f"data is {type(batches).__name__}, no iterable of batches",
                "give a list or a DataLoader",
            )
        read = list(itertools.islice(iter(batches), _MOST))
        if len(read) < 2:
            raise UsageError(
                f"{len(read)} batches of data cannot be divided",
                "give some to train on, some to judge",
            )
        if loss is None and not all(isinstance(b, (tuple, list)) and len(b) == 2 for b in read):
            raise UsageError(
                "without a loss each batch of data has to be (images, labels)",
                "say how a batch is judged: loss=lambda model, batch: ...",
            )
        step = min(HELD_OUT, len(read))
        held_out = read[step - 1 :: step]
        train = [batch for at, batch in enumerate(read) if at % step != step - 1]
        return cls(train, held_out, loss or cross_entropy)


def cross_entropy(model: nn.Module, batch: Any) -> Tensor:
    """The usual loss of a classifier, of a batch of (images, labels)."""
    images, labels = batch
    scores = model(images)
    if not isinstance(scores, Tensor):
        raise UsageError(
            f"the network returns {type(scores).__name__}, no scores",
            "say how a batch is judged: loss=lambda model, batch: ...",
        )
    return nn.functional.cross_entropy(scores, labels)


@dataclass(frozen=True)
class Tried:
    """What one candidate gained.

    Attributes:
        key: of the candidate.
        gains: how much lower the held-out loss is, a seed each; -inf where training diverged.
    """

    key: str
    gains: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return statistics.fmean(self.gains)

    @property
    def spread(self) -> float | None:
        """Standard deviation over the seeds; None of one."""
        finite = len(self.gains) > 1 and all(map(math.isfinite, self.gains))
        return statistics.stdev(self.gains) if finite else None


@dataclass(frozen=True)
class Trial:
    """What every candidate gained, and how far seeds agree about it.

    Attributes:
        base: loss on the held-out data of the network as it is.
        tried: in the order of the candidates.
        steps, rate, seeds: how it was trained.
        train, held_out: numbers of batches.
        agreement: Spearman's rank correlation of the gains, of each pair of seeds; None where one
            of them ranks nothing.
    """

    base: float
    tried: tuple[Tried, ...]
    steps: int
    rate: float
    seeds: int
    train: int
    held_out: int
    agreement: tuple[float | None, ...]

    @property
    def ranked(self) -> tuple[Tried, ...]:
        """The candidates, the largest gain first."""
        return tuple(sorted(self.tried, key=lambda one: -one.mean))

    @property
    def stability(self) -> str:
        """How stable the ranking is between seeds, in words."""
        known = [one for one in self.agreement if one is not None]
        if not known:
            return "how stable the ranking is, is not known: " + (
                "one seed alone was trained"
                if self.seeds < 2
                else "there are too few candidates, or they gain the same"
            )
        mean, low = statistics.fmean(known), min(known)
        word = "stable" if mean >= 0.8 else "roughly stable" if mean >= 0.5 else "mostly noise"
        return (
            f"the ranking is {word} between seeds: Spearman {mean:.2f} on average, {low:.2f} at the"
            f" least, of {len(known)} pair{'s' if len(known) > 1 else ''}"
        )


def run_trial(
    model: nn.Module,
    candidates: Sequence[Candidate],
    lessons: Lessons,
    *,
    steps: int = STEPS,
    seeds: int = SEEDS,
    rate: float = RATE,
    journal: Any = None,
    tell: Tell | None = None,
) -> Trial:
    """Trains every candidate alone, with every seed.

    Args:
        model: the network with its weights; copies of it are trained.
        candidates: to try.
        lessons: the data.
        steps: of an optimiser (AdamW), for each candidate and seed.
        seeds: how many.
        rate: learning rate of the attention.
        journal: file that keeps what is done, so that a trial that was broken off goes on.
        tell: is told (what, done, of how many).

    Raises:
        UsageError: a number is none to train with, or the loss is no number.
    """
    for name, value in (("steps", steps), ("seeds", seeds)):
        if type(value) is not int or value < 1:
            raise UsageError(f"{name}={value!r} is no number to train with", "1 or more")
    base = _held_out(full_twin(model).eval(), lessons)
    if not math.isfinite(base):
        raise UsageError(
            f"the loss of the network as it is, on held-out data, is {base}",
            "look at the data and at the weights",
        )
    about = {
        "network": hash_of(model).sha256, "data": _fingerprint(lessons), "steps": steps,
        "rate": rate, "code": _code_of(candidates),
        "versions": {"attnsurgeon": __version__, "torch": torch.__version__},
    }  # fmt: skip
    kept = Journal(journal, about)
    runs = [(one, seed) for seed in range(seeds) for one in candidates]
    losses: dict[tuple[str, int], float] = {}
    for done, (one, seed) in enumerate(runs):
        loss = kept.get(one.key, seed)
        if loss is None:
            if tell is not None:
                tell(f"training {one.key}", done, len(runs))
            loss = _trained(model, one, lessons, steps=steps, rate=rate, seed=seed)
            kept.add(one.key, seed, loss)
        losses[one.key, seed] = loss
    tried = tuple(
        Tried(one.key, tuple(base - losses[one.key, seed] for seed in range(seeds)))
        for one in candidates
    )
    counts = len(lessons.train), len(lessons.held_out)
    return Trial(base, tried, steps, rate, seeds, *counts, tuple(_agreement(tried, seeds)))


def _code_of(candidates: Sequence[Candidate]) -> dict[str, str]:
    """The hashes of the files of attention of the user's own."""
    cards = {cut.attn: cut.card for one in candidates for cut in one.cuts}
    return {name: sha for name, card in cards.items() if (sha := getattr(card, "sha256", None))}


def _trained(
    model: nn.Module, one: Candidate, lessons: Lessons, *, steps: int, rate: float, seed: int
) -> float:
    """The held-out loss after a candidate was trained, alone, with one seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = carry_out(full_twin(model), one.plan).model
        freeze_backbone(net)
        net.train()
        if any(p.requires_grad for p in net.parameters()):
            optimizer = torch.optim.AdamW(param_groups(net, lr=rate))
            for batch in itertools.islice(_shuffled(lessons.train), steps):
                optimizer.zero_grad(set_to_none=True)
                loss = lessons.loss(net, batch)
                if not torch.isfinite(loss):
                    return math.inf
                loss.backward()
                optimizer.step()
    return _held_out(net.eval(), lessons)


def _shuffled(batches: Sequence[Any]) -> Iterator[Any]:
    """Yields the batches without end, each time in another order."""
    while True:
        yield from (batches[at] for at in torch.randperm(len(batches)).tolist())


def _held_out(net: nn.Module, lessons: Lessons) -> float:
    """The mean loss over the held-out batches, each by its images."""
    total = images = 0.0
    with torch.no_grad():
        for batch in lessons.held_out:
            size = next((len(t) for t in tensors_in(batch) if t.dim()), 1)
            total += size * float(lessons.loss(net, batch))
            images += size
    loss = total / images
    return loss if math.isfinite(loss) else math.inf


def _fingerprint(lessons: Lessons) -> str:
    """A hash of all numbers of the data."""
    found = hashlib.sha256()
    for tensor in tensors_in([lessons.train, lessons.held_out]):
        found.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        plain = tensor.detach().cpu().contiguous()
        found.update(plain.view(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b"")
    return found.hexdigest()[:16]


def _agreement(tried: Sequence[Tried], seeds: int) -> Iterator[float | None]:
    """Spearman's rank correlation of the gains, of each pair of seeds."""
    for first, second in itertools.combinations(range(seeds), 2):
        yield spearman([t.gains[first] for t in tried], [t.gains[second] for t in tried])


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Pearson's correlation of the ranks, ties sharing theirs; None where one ranks nothing, or
    there are fewer than three.
    """
    if len(first) < 3:
        return None
    ranks = [_ranks(first), _ranks(second)]
    if any(len(set(one)) == 1 for one in ranks):
        return None
    return statistics.correlation(*ranks)


def _ranks(values: Sequence[float]) -> list[float]:
    ordered = sorted(values)
    at: dict[float, list[int]] = {}
    for place, value in enumerate(ordered):
        at.setdefault(value, []).append(place)
    return [statistics.fmean(at[value]) for value in values]
