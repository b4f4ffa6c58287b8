"""Plans every network of timm at every placement and writes a table of what came out.

    python -m benchmarks.zoo --out zoo.jsonl            all names, resumable
    python -m benchmarks.zoo --out zoo.jsonl --table    the table of what is there
    python -m benchmarks.zoo --library torchvision --out tv.jsonl    those of torchvision
    python -m benchmarks.zoo --library pytorchcv --out cv.jsonl      one of each family of
                                                        pytorchcv, beside what its constructor says
    python -m benchmarks.zoo --out zoo.jsonl --table --write docs/zoo.md docs/networks*.md
                                                        puts it between the marks in these files

A name is `planned` when every placement that means something there can be cut somewhere,
`refused` when a placement has matching sites but none that can be cut (the reason is kept), and
`failed` on anything else; then the exit code is 1. Networks are built on the meta device: no
weights, no download; those that look at values (detectors) with random weights, at a small size.
"""

from __future__ import annotations

import re
import resource
import statistics
import time
from collections import Counter
from typing import Any

from benchmarks.resumable import parser_of, results_of, write
from benchmarks.zoo_units import constructed, differences, input_of, names_of_pytorchcv

PLACEMENTS = ("residual-branch", "residual-block", "downsample", "stage", "stem", "head", "conv3x3")


_PYTORCHCV = "pytorchcv."


def plan_one(name: str) -> dict[str, Any]:
    """Plans `eca` at every placement of one network."""
    import warnings

    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    from attnsurgeon import SurgeonError
    from attnsurgeon.asked import rules_for
    from attnsurgeon.models import build_on_meta, load_model
    from attnsurgeon.operate import plan_rules
    from attnsurgeon.sites.analysis import analyse

    start = time.perf_counter()
    result: dict[str, Any] = {"name": name, "status": "planned", "placements": {}}
    try:
        survey = _survey(name, analyse, build_on_meta, load_model)
        for placement in PLACEMENTS:
            result["placements"][placement] = _place(survey, placement, plan_rules, rules_for)
        if name.startswith(_PYTORCHCV):
            result |= constructed(survey)
        result["sites"] = len(survey.sites)
        result["token_sites"] = sum(site.layout in ("NLC", "NHWC") for site in survey.sites)
        result["conv_sites"] = sum("conv" in site.roles for site in survey.sites)
    except SurgeonError as error:
        result |= {"status": "failed", "reason": f"{type(error).__name__}: {error.what}"}
    except Exception as error:  # a benchmark reports every failure and goes on
        result |= {"status": "failed", "reason": f"{type(error).__name__}: {error}"[:300]}
    refused = [p for p in result["placements"].values() if p["matched"] and not p["cut"]]
    if result["status"] == "planned" and refused:
        result |= {"status": "refused", "reason": refused[0]["reason"]}
    result["seconds"] = round(time.perf_counter() - start, 3)
    result["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return result


def _survey(name: str, analyse: Any, build_on_meta: Any, load_model: Any) -> Any:
    from attnsurgeon.errors import ModelError

    try:
        model = build_on_meta(name)
        return analyse(model, input_of(model) if name.startswith(_PYTORCHCV) else None)
    except ModelError:
        if name.startswith(_PYTORCHCV):  # it looks at values
            model = load_model(name)
            return analyse(model, input_of(model))
        # Detectors look at values, and enlarge every image unless told otherwise.
        if not name.startswith("torchvision:"):
            raise
    try:
        return analyse(load_model(name, min_size=64, max_size=96))
    except ModelError as error:
        if "min_size" not in error.what:
            raise
    return analyse(load_model(name))


def names_of(library: str, wanted: str = "*") -> list[str]:
    """Returns the specs of every network of a library, as `load_model` takes them."""
    if library == "pytorchcv":
        return names_of_pytorchcv(wanted)
    if library == "torchvision":
        from torchvision.models import list_models

        return [f"torchvision:{name}" for name in list_models(include=wanted)]
    import timm

    return timm.list_models(wanted)


def _place(survey: Any, placement: str, plan_rules: Any, rules_for: Any) -> dict[str, Any]:
    from attnsurgeon.errors import RuleError
    from attnsurgeon.rules.match import match_rules

    file = rules_for("eca", placement, None, None, "identity")
    try:
        plan = plan_rules(survey, file, init="identity", where=placement)
    except RuleError as error:
        matched = len(match_rules(file, survey.sites)[0].sites)
        reason = error.what if matched else "no such place in this network"
        return {"matched": matched, "cut": 0, "reason": reason}
    reason = plan.refused[0].reason if plan.refused else ""
    cut = sum(1 + len(c.shared) for c in plan.cuts)
    return {"matched": cut + len(plan.refused), "cut": cut, "reason": reason}


def summary(results: list[dict[str, Any]]) -> str:
    """Returns what came out at each placement, as Markdown."""
    status = Counter(entry["status"] for entry in results)
    lines = [
        f"{len(results)} names: {status['planned']} planned, {status['refused']} refused with a "
        f"reason, {status['failed']} failed.",
        "",
        "| placement | networks that have it | all sites cut | some | none | sites cut |",
        "|---|---|---|---|---|---|",
    ]
    for placement in PLACEMENTS:
        found = [e["placements"][placement] for e in results if placement in e["placements"]]
        have = [p for p in found if p["matched"]]
        whole = sum(p["cut"] == p["matched"] for p in have)
        none = sum(p["cut"] == 0 for p in have)
        cut, matched = sum(p["cut"] for p in have), sum(p["matched"] for p in have)
        lines.append(
            f"| {placement} | {len(have)} | {whole} | {len(have) - whole - none} | {none} "
            f"| {cut:,} of {matched:,} |"
        )
    return "\n".join(lines)


def table(results: list[dict[str, Any]]) -> str:
    """Returns the summary, the time and the memory it took, and the reasons, as Markdown."""
    lines = [summary(results)]
    if all("conv_sites" in entry for entry in results):
        bare = [e["name"] for e in results if not e["conv_sites"] + e["token_sites"]]
        lines += ["", f"Names without a convolution or token site: {', '.join(bare) or 'none'}."]
    seconds = [entry["seconds"] for entry in results]
    slow = max(results, key=lambda entry: entry["seconds"])
    lines += [
        "",
        f"Planning took {sum(seconds):.0f} s of one core in all, "
        f"{statistics.median(seconds):.2f} s in the median, "
        f"{slow['seconds']:.1f} s for the slowest ({slow['name']}); "
        f"peak memory of a process {max(e['peak_mb'] for e in results)} MB.",
    ]
    for kind in ("failed", "refused"):
        reasons = Counter(in_general(e["reason"]) for e in results if e["status"] == kind)
        lines += ["", f"{kind}, by the first reason:" if reasons else f"{kind}: none"]
        lines += [f"- {count} x {reason}" for reason, count in reasons.most_common(12)]
    return "\n".join(lines)


def in_general(reason: str) -> str:
    """Returns a reason without the paths of one network: what many of them have in common."""
    why = re.sub(r"^none of the \d+ matched sites can be cut: \S+ ", "", reason)
    inside = re.search(r"is inside .*?\((\w+)\), which rebuilds itself \((\w+)", why)
    if inside:
        return f"inside a {inside[1]}, which rebuilds itself ({inside[2]}())"
    return re.sub(r"\S*\.\S* \((\w+)\)", r"\1", why)[:110]


def main() -> None:
    parser = parser_of(__doc__ or "", "zoo.jsonl")
    parser.add_argument("--library", choices=("timm", "torchvision", "pytorchcv"), default="timm")
    parser.add_argument("--filter", default="*", help="names, as list_models of the library has it")
    options = parser.parse_args()
    results = results_of(
        options,
        plan_one,
        lambda: names_of(options.library, options.filter),
        key="name",
        each=100,
        doing="planning",
    )
    print(table(results))
    if options.library == "pytorchcv":
        print("\n" + differences(results))
    for file in options.write:
        write(file, options.library, {"summary": summary(results), "table": table(results)})
    raise SystemExit(int(any(entry["status"] == "failed" for entry in results)))


if __name__ == "__main__":
    main()
