"""Results -> the two pictures of the page, as SVG that reads on light and on dark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.pretrained.figures import Mean, Results, over_seeds, seeds_of
from benchmarks.pretrained.training import MAIN

INK, EXACT, MOVED, OLD = "#7a7f87", "#2f9e6e", "#d9703a", "#7a7f87"
STYLE = {
    "svg.hashsalt": "evidence",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor"), INK),
    **dict.fromkeys(("xtick.color", "ytick.color"), INK),
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def starts(results: Results, file: Path) -> None:
    """What is left of the network's answers before training, mechanism by mechanism."""
    found: list[tuple[str, Mean, float]] = []
    for name in results:
        kind, attn, init, *_ = name.split("|")
        if kind == "start" and init == "identity" and "refused" not in results[name]:
            left = over_seeds(results, f"start|{attn}|paper", lambda e: e.get("agreement"))
            if left:
                found.append((attn, left, results[name]["agreement"]))
    found.sort(key=lambda one: one[1].value)
    with _axes(file, (6.4, 0.19 * len(found) + 0.9)) as axes:
        at = range(len(found))
        halves = [0 if mean.seeds == 1 else mean.half for _, mean, _ in found]
        axes.scatter([left for *_, left in found], at, c=EXACT, marker="|", s=60, label="identity")
        axes.errorbar(
            [mean.value for _, mean, _ in found], at, xerr=halves, fmt="o", ms=4, lw=1,
            color=MOVED, label="paper",
        )  # fmt: skip
        axes.set_yticks(list(at), [attn for attn, *_ in found])
        axes.set_xlim(-0.02, 1.02)
        axes.set_xlabel("share of 100 crops whose top-1 is the original network's")
        axes.grid(axis="x", alpha=0.3)
        axes.legend(frameon=False, loc="lower right")


def training(results: Results, file: Path) -> None:
    """The accuracy from step 0 to the end, for both starts."""
    moments = ("before", "before recalibrated", "after", "after recalibrated")
    shown = ("step 0", "step 0,\nrecalibrated", "trained", "trained,\nrecalibrated")
    styles = {"none": (OLD, "s"), "se": ("#3f7fd0", "o"), "cbam": ("#b05fc0", "D")}
    styles |= {"coord": ("#c9922b", "^")}
    with _axes(file, (6.4, 3.4)) as axes:
        for at, (attn, (colour, marker)) in enumerate(styles.items()):
            for init, line in (("identity", "-"), ("paper", "--")):
                case = f"train|transferred|{attn}|{init}|{MAIN}"
                if not seeds_of(results, case):
                    continue
                means = [
                    over_seeds(results, case, lambda e, m=m: e[m]["accuracy"]) for m in moments
                ]
                places = [place + 0.04 * at for place in range(len(moments))]
                axes.errorbar(
                    places, [m.value for m in means if m],
                    yerr=[0 if m.seeds == 1 else m.half for m in means if m],
                    color=colour, marker=marker, ms=4, lw=1.2, ls=line,
                    label=attn if attn == "none" else f"{attn}, {init}",
                )  # fmt: skip
        axes.set_xticks(range(len(moments)), shown)
        axes.set_ylim(0, 1)
        axes.set_ylabel("accuracy on 500 digits")
        axes.grid(axis="y", alpha=0.3)
        axes.legend(frameon=False, loc="lower right", ncols=2)


class _axes:
    """The axes of a figure that is written when the block ends."""

    def __init__(self, file: Path, size: tuple[float, float]) -> None:
        import matplotlib as mpl
        from matplotlib.figure import Figure

        self.file, self.style = file, mpl.rc_context(STYLE)
        self.style.__enter__()
        self.figure = Figure(figsize=size, layout="constrained")

    def __enter__(self) -> Any:
        return self.figure.subplots()

    def __exit__(self, *failed: Any) -> None:
        try:
            if failed[0] is None:
                plain = {"Date": None, "Creator": None}
                self.figure.savefig(self.file, transparent=True, metadata=plain)
        finally:
            self.style.__exit__(*failed)
