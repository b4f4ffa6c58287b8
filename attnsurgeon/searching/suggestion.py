"""What a search came to: Point, of its Pareto front, and Suggestion, with rule file and plot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from attnsurgeon.cost.budgets import Budget
from attnsurgeon.cost.comparing import Cost
from attnsurgeon.cost.weight import Count
from attnsurgeon.planning.plan import Plan
from attnsurgeon.rules.schema import RuleFile
from attnsurgeon.saved.file import write_file
from attnsurgeon.searching.candidates import Candidate, Found
from attnsurgeon.searching.latencies import Timed
from attnsurgeon.searching.rulefile import text_of
from attnsurgeon.searching.trial import Trial
from attnsurgeon.shown import Shown, brief


@dataclass(frozen=True, repr=False)
class Point:
    """A set of the Pareto front, or the one that was chosen.

    Attributes:
        sites: how many sites it takes.
        worth: what it is worth, 1 for all there is.
        used: the largest share of a limit that it uses, 1 for all of one.
        cost: the sum of its candidates' exact prices.
        seconds: the sum of their estimated latencies, where they were measured.
        chosen: it is the one that is suggested.
    """

    sites: int
    worth: float
    used: float
    cost: Count
    seconds: float | None = None
    chosen: bool = False

    def __repr__(self) -> str:
        share = f"{100 * self.worth:.1f} % at {self.sites} sites"
        return brief(self, f"{share}, {100 * self.used:.1f} % of the limit")


@dataclass(frozen=True, repr=False)
class Suggestion(Shown):
    """Which mechanism to put where, what that costs, and what else there was.

    Attributes:
        chosen: what is to go in, in execution order.
        plan: all of it together; `carry_out` would put it in.
        cost: exact, of all of it together.
        rules: that take exactly these sites.
        front: sets of which none is worth more for less, and the chosen one, cheapest first.
        found: the candidates there were.
        worth: of all that there is, the share that was chosen: of the features, or of the gain.
        features: the share of the network's features that is gated.
        budget, limits: the limits, and limit -> its text.
        additive: whether the sum of the parts' prices is the price of the whole, exactly.
        proven: whether the solver had time to prove that nothing within the limits is worth more.
        estimated: seconds that the parts add, from modules measured alone; None without latency.
        latency: of the whole, measured; None without latency.
        verdict: of the limit on latency: "kept", "undecided", "broken", or "" without one.
        rounds: how many sets were tried as a whole.
        trial: what was trained, None without data.
    """

    chosen: tuple[Candidate, ...]
    plan: Plan
    cost: Cost
    rules: RuleFile
    front: tuple[Point, ...]
    found: Found
    worth: float
    features: float
    budget: Budget
    limits: Mapping[str, str]
    additive: bool
    proven: bool
    estimated: float | None = None
    latency: Timed | None = None
    verdict: str = ""
    rounds: int = 1
    trial: Trial | None = None

    @property
    def text(self) -> str:
        """The rule file, with lines on how it was chosen."""
        return text_of(self.rules, _how(self))

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Writes the rule file that `insert` takes; refuses to replace one unless `overwrite`."""
        return write_file(path, self.text, overwrite=overwrite)

    def plot(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Draws the Pareto front into a file, .svg or .png; refuses to replace one likewise."""
        from attnsurgeon.searching.drawing import draw

        return draw(self, path, overwrite=overwrite)


def _how(made: Suggestion) -> list[str]:
    """How a set was chosen, for the head of the rule file."""
    from attnsurgeon.models import source_of

    model = made.found.survey.traced.twin
    source = source_of(model)
    name = source.spec if source is not None else type(model).__name__
    delta, chosen = made.cost.delta, made.chosen
    limits = ", ".join(f"{limit} {text}" for limit, text in made.limits.items())
    names = ", ".join(dict.fromkeys(one.attn for one in made.found.candidates))
    by = "held-out gain" if made.trial is not None else "features"
    lines = [
        f"Suggested for {name}: {sum(len(one.sites) for one in chosen)} sites out of"
        f" {len(made.found.candidates)} candidates ({names}).",
        f"Limits: {limits}.",
        f"They are worth {100 * made.worth:.1f} % of the {by} of all that could be taken, and gate"
        f" {100 * made.features:.1f} % of the features, stage by stage.",
        f"Exact price: {delta.params:+,} parameters, {delta.macs:+,} MACs,"
        f" {delta.activations:+,} activations at batch 1.",
    ]
    if made.latency is not None and made.estimated is not None:
        low, high = (100 * (one - 1) for one in (made.latency.low, made.latency.high))
        lines.append(
            f"Latency: {1e3 * made.estimated:+.3f} ms estimated from modules alone; measured as a"
            f" whole {100 * (made.latency.ratio - 1):+.2f} % ({low:+.2f} to {high:+.2f} %)"
            f" {made.verdict}".rstrip()
            + "."
        )
    if made.trial is not None:
        lines.append(
            f"Trial: {made.trial.steps} steps, {made.trial.seeds} seeds; {made.trial.stability}."
        )
    if not made.proven:
        lines.append("Time ran out before it was proven that nothing is worth more.")
    return lines
