"""Operates one real network of every architecture of timm and checks what it is afterwards.

    python -m benchmarks.zoo_operate --out zoo-operate.jsonl            all modules, resumable
    python -m benchmarks.zoo_operate --out zoo-operate.jsonl --table    the table of what is there

Of every module of timm the smallest network is built with random weights, at the smallest of a few
input sizes that it takes, with every norm and scale randomised. `eca`, `se` and `cbam` go to the
residual branches, or to the nearest placement that the network has, and are checked: everything
`Operation.verify` checks, the methods of timm, activation checkpointing, saving and loading. The
exit code is 1 where something failed.
"""

from __future__ import annotations

import copy
import re
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.resumable import parser_of, results_of, write

MECHANISMS = ("eca", "se", "cbam")
PLACEMENTS = ("residual-branch", "residual-block", "stage", "head", "conv")
SIDES = (64, 96, 128, 160, 192, 224, 256, 384, 512)
LARGE = 60_000_000  # parameters; a network above is built shallower where it can be


def operate_module(module: str) -> dict[str, Any]:
    """Operates the smallest network of one of timm's modules."""
    import timm

    start = time.perf_counter()
    try:
        result: dict[str, Any] = {"module": module, "members": len(timm.list_models(module=module))}
        result |= operate_network(smallest(module))
    except Exception as error:  # a benchmark reports every failure and goes on
        result = {"module": module, "error": f"{type(error).__name__}: {error}"[:300]}
    result["seconds"] = round(time.perf_counter() - start, 1)
    result["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return result


def smallest(module: str) -> str:
    """The network of a module with the fewest parameters, timm's toys for its own tests aside."""
    import timm

    names = timm.list_models(module=module)
    return min([n for n in names if not n.startswith("test_")] or names, key=_size)


def _size(name: str, **args: Any) -> int:
    from attnsurgeon.models import build_on_meta

    return sum(p.numel() for p in build_on_meta(name, **args).parameters())


def operate_network(name: str) -> dict[str, Any]:
    """Operates one network with every mechanism; `name` is one that timm knows."""
    import torch

    from attnsurgeon import load_model
    from attnsurgeon.checks.verify import randomise_norms
    from attnsurgeon.sites.analysis import analyse

    torch.set_num_threads(1)
    torch.manual_seed(0)
    args = shallower(name)
    size, args = smallest_input(name, args)
    model = load_model(name, **args).eval()
    randomise_norms(model)
    x = torch.randn(2, *size)
    survey = analyse(model, size)
    before = observed(model, x)
    finite = all(t.isfinite().all() for t in before["forward"] if hasattr(t, "isfinite"))
    places: set[str] = set()
    return {
        "member": name,
        "args": args,
        "input": size,
        "params": sum(p.numel() for p in model.parameters()),
        "finite": bool(finite),
        "mechanisms": {a: operate_with(a, model, survey, x, before, places) for a in MECHANISMS},
    }


def shallower(name: str) -> dict[str, Any]:
    """Arguments that make a large network small, where it has any."""
    from attnsurgeon import SurgeonError

    if _size(name) <= LARGE:
        return {}
    try:
        return {"depth": 2} if _size(name, depth=2) <= LARGE else {}
    except SurgeonError:  # it takes no such argument
        return {}


def smallest_input(name: str, args: dict[str, Any]) -> tuple[tuple[int, ...], dict[str, Any]]:
    """The first of a few input sizes that the network runs on, and the arguments for it."""
    from attnsurgeon.errors import ModelError
    from attnsurgeon.models import build_on_meta, input_size_of
    from attnsurgeon.recording.inputs import InputForm
    from attnsurgeon.recording.trace import trace

    own = input_size_of(build_on_meta(name, **args)) or (3, 224, 224)
    for side in (*(s for s in SIDES if s <= own[1]), own[1]):
        size = (own[0], side, side)
        for further in ({"img_size": side}, {}):
            try:
                trace(build_on_meta(name, **args, **further), InputForm.of_size(size))
            except ModelError:
                continue
            return size, {**args, **further}
    raise RuntimeError(f"{name} takes no input size that was tried")


def operate_with(
    attn: str, model: Any, survey: Any, x: Any, before: dict[str, Any], places: set[str]
) -> dict[str, Any]:
    """Inserts one mechanism at the nearest placement and checks what comes out.

    What depends on the place more than on the mechanism (methods, saving, loading) is checked for
    the first mechanism at each placement; `places` holds those that have had their check.
    """
    from attnsurgeon import SurgeonError
    from attnsurgeon.asked import rules_for
    from attnsurgeon.operate import carry_out, plan_rules
    from attnsurgeon.recording.twin import full_twin
    from attnsurgeon.rules.match import match_rules

    why = ""
    for placement in PLACEMENTS:
        file = rules_for(attn, placement, None, None, "identity")
        matched = len(match_rules(file, survey.sites)[0].sites)
        if not matched:
            continue
        try:
            plan = plan_rules(survey, file, init="identity", where=placement)
        except SurgeonError as error:
            why = why or error.what
            continue
        try:
            operation = carry_out(full_twin(model), plan)
            problems = verified(operation)
            if placement not in places:
                problems += changed_answers(operation, x, before)
        except Exception as error:  # a benchmark reports every failure and goes on
            problems = [f"{type(error).__name__}: {error}"[:300]]
        places.add(placement)
        return {
            "status": "failed" if problems else "ok",
            "placement": placement,
            "matched": matched,
            "cut": sum(1 + len(c.shared) for c in plan.cuts),
            "techniques": dict(Counter(c.place.technique for c in plan.cuts)),
            "refused": [f"{r.site.path}: {r.reason}" for r in plan.refused][:3],
            "elsewhere": why,
            "problems": problems,
        }
    return {"status": "refused", "reason": why or "no such place in this network"}


def verified(operation: Any) -> list[str]:
    """What `verify` finds wrong with an operated network, and what it could not try."""
    verification = operation.verify()
    untried = [n for n in verification.notes if "learning" in n or "refuses the network" in n]
    return [*verification.problems, *untried]


def changed_answers(operation: Any, x: Any, before: dict[str, Any]) -> list[str]:
    """What an operated network answers otherwise than before, also after saving and loading."""
    import torch

    import attnsurgeon

    problems = differing(before, observed(operation.model, x))
    with tempfile.TemporaryDirectory() as folder:
        operation.save(Path(folder) / "saved")
        loaded = attnsurgeon.load(Path(folder) / "saved").eval()
    with torch.no_grad():  # with gradients, torch may choose another kernel
        answer = _answer(lambda net: _run(net, x), loaded)
    if not equal(answer, before["forward"]):
        problems.append("saved and loaded, it computes something else")
    return problems


def observed(model: Any, x: Any) -> dict[str, list[Any]]:
    """What a network of timm answers: tensors, plain values, or the type of what it raises."""
    import torch
    from timm.models import group_parameters

    from attnsurgeon.splicing.history import inserted

    def classified(net: Any) -> Any:
        net.reset_classifier(7)
        return _run(net, x)

    def trained(net: Any) -> Any:
        net.train().set_grad_checkpointing(True)
        made = _run(net, x)
        torch.stack([t.square().mean() for t in made if t.requires_grad]).sum().backward()
        new = tuple(f"{path}." for path, _ in inserted(net)) or ("\0",)
        reached = {name: p.grad is not None for name, p in net.named_parameters()}
        missed = [name for name in reached if name.startswith(new) and not reached[name]]
        return [*made, *(r for name, r in reached.items() if not name.startswith(new)), *missed]

    def layered(net: Any) -> Any:
        new = tuple(f"{path}." for path, _ in inserted(net)) or ("\0",)
        for coarse in (False, True):
            layers = group_parameters(net, net.group_matcher(coarse=coarse), reverse=True)
            kept = {n: layer for n, layer in layers.items() if not n.startswith(new)}
            # By their order: a VGG counts its modules, and one without weights may have some now.
            order = sorted(set(kept.values()))
            yield sorted((n, order.index(layer)) for n, layer in kept.items())

    questions: dict[str, Callable[[Any], Any]] = {
        "forward": lambda net: _run(net, x),
        "forward_features": lambda net: _tensors(net.forward_features(x)),
        "forward_head": lambda net: _tensors(net.forward_head(net.forward_features(x))),
        "forward_intermediates": lambda net: _tensors(net.forward_intermediates(x)),
        "get_classifier": lambda net: [repr(net.get_classifier())],
        "group_matcher": layered,
        "no_weight_decay": lambda net: sorted(net.no_weight_decay()),
    }
    changing = {"reset_classifier": classified, "training, checkpointed": trained}
    answers: dict[str, list[Any]] = {}
    with torch.no_grad():
        for name, ask in questions.items():
            answers[name] = _answer(ask, model)
        answers["reset_classifier"] = _answer(changing["reset_classifier"], copy.deepcopy(model))
    answers["training, checkpointed"] = _answer(
        changing["training, checkpointed"], copy.deepcopy(model)
    )
    return answers


def _answer(ask: Callable[[Any], Any], net: Any) -> list[Any]:
    from attnsurgeon.recording.randomness import settled

    try:
        return settled(lambda: list(ask(net)))
    except Exception as error:  # what it raises is its answer
        return [type(error).__name__]


def _run(net: Any, x: Any) -> list[Any]:
    from attnsurgeon.recording.randomness import settled

    return settled(lambda: _tensors(net(x)))


def _tensors(value: Any) -> list[Any]:
    from attnsurgeon.recording.record import tensors_in

    return list(tensors_in(value))


def differing(before: dict[str, list[Any]], after: dict[str, list[Any]]) -> list[str]:
    """The questions that are answered in another way than before."""
    return [f"{name} answers otherwise" for name in before if not equal(before[name], after[name])]


def equal(a: list[Any], b: list[Any]) -> bool:
    """Whether two answers are equal to the bit; NaN in the same place is equal."""
    import torch

    def same(one: Any, other: Any) -> bool:
        if not isinstance(one, torch.Tensor) or not isinstance(other, torch.Tensor):
            return type(one) is type(other) and one == other
        both = one.shape == other.shape
        return both and bool(((one == other) | ((one != one) & (other != other))).all())

    return len(a) == len(b) and all(map(same, a, b))


def main() -> None:
    """The command line."""
    import timm

    parser = parser_of(__doc__ or "", "zoo-operate.jsonl")
    parser.add_argument("--modules", nargs="*", default=None, help="of timm; default: all")
    options = parser.parse_args()
    results = results_of(
        options,
        operate_module,
        lambda: options.modules or timm.list_modules(),
        key="module",
        each=8,
        doing="operating",
    )
    print(table(results))
    for file in options.write:
        write(file, "timm", {"operated": table(results)})
    raise SystemExit(int(any(map(failed, results))))


def failed(entry: dict[str, Any]) -> bool:
    """Whether an architecture could not be tried, or a mechanism broke something there."""
    made = entry.get("mechanisms", {}).values()
    return "error" in entry or any(one["status"] == "failed" for one in made)


def table(results: list[dict[str, Any]]) -> str:
    """Returns what came out as Markdown: one row an architecture, then the reasons."""
    made = [entry for entry in results if "mechanisms" in entry]
    lines = [f"{len(results)} modules, {len(results) - len(made)} that could not be tried.", ""]
    for attn in MECHANISMS:
        found = [entry["mechanisms"][attn] for entry in made]
        status = Counter(one["status"] for one in found)
        at = Counter(one["placement"] for one in found if one["status"] == "ok")
        places = ", ".join(f"{count} at {place}" for place, count in at.most_common())
        lines.append(
            f"- `{attn}`: {status['ok']} ok ({places}), {status['refused']} refused, "
            f"{status['failed']} failed"
        )
    lines += [
        "",
        "| module | network | parameters | input | placement | sites cut | how "
        "| " + " | ".join(MECHANISMS) + " |",
        "|" + "---|" * (7 + len(MECHANISMS)),
    ]
    lines += [_row(entry) for entry in sorted(made, key=lambda entry: entry["module"])]
    lines += [f"| {e['module']} | {e['error']} |" for e in results if "error" in e]
    reasons = Counter(
        re.sub(r"\d+", "n", re.sub(r"^\S+: |\S*\.\S* (?=\()", "", refused))[:110]
        for entry in made
        for refused in {r for m in entry["mechanisms"].values() for r in m.get("refused", ())[:1]}
    )
    lines += ["", "first refusals of networks of which a part was cut:" if reasons else ""]
    lines += [f"- {count} x {reason}" for reason, count in reasons.most_common(12)]
    seconds = sum(entry["seconds"] for entry in results)
    peak = max((entry["peak_mb"] for entry in results), default=0)
    return "\n".join([*lines, "", f"{seconds:.0f} s in all processes; peak of one {peak} MB."])


def _row(entry: dict[str, Any]) -> str:
    """The row of one architecture; placement, sites and ways are those of the first mechanism."""
    first = entry["mechanisms"][MECHANISMS[0]]
    args = "".join(f", {name}={value}" for name, value in entry["args"].items())
    ways = ", ".join(f"{way} {count}" for way, count in first.get("techniques", {}).items())
    cells = [
        entry["module"],
        f"{entry['member']}{args}",
        f"{entry['params'] / 1e6:.1f} M",
        "x".join(map(str, entry["input"])),
        first.get("placement", "none"),
        f"{first['cut']} of {first['matched']}" if "cut" in first else "",
        ways,
        *(_cell(one, first) for one in entry["mechanisms"].values()),
    ]
    return f"| {' | '.join(cells)} |"


def _cell(one: dict[str, Any], first: dict[str, Any]) -> str:
    if one["status"] == "failed":
        return f"FAILED: {one['problems'][0]}"
    if one["status"] == "refused":
        return "refused: " + re.sub(r"^none of .*? can be cut: \S+: ", "", one["reason"])
    where = "" if one["placement"] == first.get("placement") else f" at {one['placement']}"
    some = "" if one["cut"] == first.get("cut") else f", {one['cut']} of {one['matched']}"
    return f"ok{where}{some}"


if __name__ == "__main__":
    main()
