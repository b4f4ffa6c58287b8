"""Results -> the two pictures of the page, as SVG that reads on light and on dark."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.pretrained.figures import Mean, Results, over_seeds
from benchmarks.pretrained.training import MAIN

INK, EXACT, MOVED, OLD = "#7a7f87", "#2f9e6e", "#d9703a", "#7a7f87"
STYLE: Any = {  # pyright knows the names of matplotlib's settings one by one
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
    found.sort(key=lambda one: (one[1].value, one[0]))
    with _axes(file, (6.4, 0.19 * len(found) + 0.9)) as axes:
        at = range(len(found))
        halves = [0 if mean.seeds < 3 else mean.half for _, mean, _ in found]
        axes.scatter([left for *_, left in found], at, c=EXACT, marker="|", s=60, label="identity")
        axes.errorbar(
            [mean.value for _, mean, _ in found], at, xerr=halves, fmt="o", ms=4, lw=1,
            color=MOVED, label="paper",
        )  # fmt: skip
        axes.set_yticks(list(at), [attn.replace("@", ", ") for attn, *_ in found])
        axes.margins(y=0.02)
        axes.set_xlim(-0.02, 1.02)
        axes.set_xlabel("share of 100 crops whose top-1 is the original network's")
        axes.grid(axis="x", alpha=0.3)
        axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)


def training(results: Results, file: Path) -> None:
    """The accuracy at step 0 and after the training, with both statistics, from both starts."""
    panels = {
        "as it is": ("before", "after"),
        "norms recalibrated": ("before recalibrated", "after recalibrated"),
    }
    looks = {"none": (OLD, "s"), "se": ("#3f7fd0", "o"), "cbam": ("#b05fc0", "D")}
    looks |= {"coord": ("#c9922b", "^")}
    with _axes(file, (6.4, 3.6), len(panels)) as both:
        for axes, (title, moments) in zip(both, panels.items(), strict=True):
            for at, (attn, (colour, marker)) in enumerate(looks.items()):
                for init, line in (("identity", "-"), ("paper", "--")):
                    case = f"train|transferred|{attn}|{init}|{MAIN}"
                    found = [over_seeds(results, case, _accuracy(moment)) for moment in moments]
                    means = [mean for mean in found if mean]
                    if len(means) < len(moments):
                        continue
                    axes.errorbar(
                        [0.03 * at, 1 + 0.03 * at], [mean.value for mean in means],
                        yerr=[0 if mean.seeds < 3 else mean.half for mean in means],
                        color=colour, marker=marker, ms=4, lw=1.2, ls=line,
                        label=attn if attn == "none" else f"{attn}, {init}",
                    )  # fmt: skip
            axes.set_title(title, color=INK)
            axes.set_xticks([0, 1], ["step 0", "after 16 steps"])
            axes.set_xlim(-0.2, 1.3)
            axes.set_ylim(0, 1)
            axes.grid(axis="y", alpha=0.3)
        both[0].set_ylabel("accuracy on 500 digits")
        lines, names = both[0].get_legend_handles_labels()
        legend = {"loc": "outside lower center", "ncols": 4, "frameon": False}
        both[0].figure.legend(lines, names, **legend)


def _accuracy(moment: str) -> Callable[[dict[str, Any]], Any]:
    return lambda entry: entry[moment]["accuracy"]


class _axes:
    """The axes of a figure that is written when the block ends."""

    def __init__(self, file: Path, size: tuple[float, float], panels: int = 1) -> None:
        import matplotlib as mpl
        from matplotlib.figure import Figure

        self.file, self.panels, self.style = file, panels, mpl.rc_context(STYLE)
        self.style.__enter__()
        self.figure = Figure(figsize=size, layout="constrained")

    def __enter__(self) -> Any:
        return self.figure.subplots(1, self.panels, sharey=True)

    def __exit__(self, *failed: Any) -> None:
        try:
            if failed[0] is None:
                plain = {"Date": None, "Creator": None}
                self.figure.savefig(self.file, transparent=True, metadata=plain)
        finally:
            self.style.__exit__(*failed)
