"""The record of an operation -> one HTML page that needs no other file and runs no script."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attnsurgeon.report import words
from attnsurgeon.report.checks import sentences
from attnsurgeon.report.figures import FIGURES, coverage, figure_rows, heavy
from attnsurgeon.report.folding import Run
from attnsurgeon.report.markup import render
from attnsurgeon.report.operation import (
    fold_sites,
    init_text,
    next_lines,
    refusals,
    refused_heading,
    site_notes,
    site_rows,
    title,
    weights_text,
    where_text,
)
from attnsurgeon.report.spreads import spread_view
from attnsurgeon.report.streams import UNICODE
from attnsurgeon.report.strip import Block, strip


@dataclass(frozen=True)
class Picture:
    """A picture for a page.

    Attributes:
        png: the bytes of a PNG.
        alt: what is to be seen, for those who do not see it.
        caption: the line under it.
    """

    png: bytes
    alt: str
    caption: str = ""


def page(record: Mapping[str, Any], *, pictures: Sequence[Picture] = ()) -> str:
    """Returns the report of an operation as HTML.

    Args:
        record: what `operation_record` or `folder_record` returns.
        pictures: of what the attention does, in order.
    """
    hues = {card["name"]: hue for hue, card in enumerate(record["mechanisms"])}
    values = {
        **_what(record),
        **_network(record, hues),
        **_cost(record),
        **_sites(record),
        **_verification(record),
        "pictures": pictures,
        "mechanisms": [_card(card, record, hues[card["name"]]) for card in record["mechanisms"]],
        **_rules(record),
        **_go_on(record),
    }
    return render("report.html", title=title(record), parts=[*_parts(values)], **values)


def _parts(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yields the sections that the page has."""
    yield "what", "What was done"
    for key, id, label in [
        ("blocks", "network", "Network"),
        ("cards", "cost", "Cost"),
        ("site_rows", "sites", "Sites"),
        ("checks", "verification", "Verification"),
        ("pictures", "pictures", "Pictures"),
        ("mechanisms", "mechanisms", "Attention"),
        ("rules", "rules", "Rules"),
        ("snippet", "go-on", "Load and train"),
    ]:
        if values[key]:
            yield id, label


def _what(record: Mapping[str, Any]) -> dict[str, Any]:
    text, style = weights_text(record)
    about = [] if style == "bold yellow" else [("weights", text)]
    if record["model_args"]:
        given = ", ".join(f"{name}={value!r}" for name, value in record["model_args"].items())
        about.append(("built with", given))
    about.append(("input", words.size(record["input_size"], UNICODE.times)))
    about.append(("where", where_text(record)))
    about.append(("init", init_text(record)))
    if record.get("mode"):
        kept = {"full": "all weights", "adapter": "those of the attention only (adapter)"}
        about.append(("saved weights", kept[record["mode"]]))
    if record.get("versions"):
        known = {name: version for name, version in record["versions"].items() if version}
        about.append(("made with", ", ".join(f"{n} {v}" for n, v in known.items())))
    return {
        "lead": _lead(record),
        "about": about,
        "loud": f"weights: {text}" if style == "bold yellow" else "",
    }


def _lead(record: Mapping[str, Any]) -> str:
    """Returns the operation in one sentence."""
    modules = words.several(len({site["module_path"] for site in record["sites"]}), "module")
    titles = [card["title"] for card in record["mechanisms"]]
    titles = [one[:1].lower() + one[1:] for one in titles]
    delta = record["cost"]["delta"]
    grown = [
        f"{words.percent(delta[f'{name}_percent'])} {label}"
        for name, label in FIGURES[:2]
        if delta[f"{name}_percent"] is not None
    ]
    costs = f", for {' and '.join(grown)}" if grown else ""
    return f"{modules} of {' and '.join(titles)} in {record['model']}{costs}."


def _network(record: Mapping[str, Any], hues: Mapping[str, int]) -> dict[str, Any]:
    network = record.get("network")
    if not network or not network["parts"]:
        return {"blocks": []}
    blocks = strip(network, record["sites"], hues)
    placed = sum(len(block.pins) for block in blocks)
    numbers = {name: sum(s["attn"] == name for s in record["sites"]) for name in hues}
    return {
        "blocks": blocks,
        "kinds": list(dict.fromkeys(block.kind for block in blocks)),
        "pinned": [(name, hue, numbers[name]) for name, hue in hues.items() if numbers[name]],
        "block_rows": [_block_row(block) for block in blocks],
        "strip_alt": "The network from input to output: "
        + "; ".join(f"{b.name} {b.share:.1f} %, {words.several(len(b.pins), 'module')}"
                    for b in blocks),
        "strip_notes": [*_unplaced(network, len(record["sites"]) - placed)],
    }  # fmt: skip


def _block_row(block: Block) -> list[Any]:
    share = {"text": f"{block.share:.1f} %", "bar": block.share / 100}
    pins = words.count(len(block.pins)) if block.pins else ""
    until = block.until or "the output"
    return [block.name, share, words.rounded(block.macs), pins, until, block.size]


def _unplaced(network: Mapping[str, Any], sites: int) -> Iterator[str]:
    if network["elsewhere"]:
        macs = words.rounded(network["elsewhere"])
        yield f"{macs} MACs more are computed by modules that hold several of these parts."
    if sites > 0:
        yield f"Not in the picture: {words.several(sites, 'site')} of which the place is not known."


def _cost(record: Mapping[str, Any]) -> dict[str, Any]:
    rows = figure_rows(record["cost"], None)
    measured = spread_view(record["latency"]) if record["latency"] else None
    before, after, delta = (record["cost"][when] for when in ("before", "after", "delta"))
    cards = [
        {
            "name": label,
            "value": words.percent(delta[f"{name}_percent"]),
            "change": f"{words.rounded(before[name])} to {words.rounded(after[name])}",
        }
        for name, label in FIGURES
    ]
    return {
        "cards": [*cards, *(measured.cards if measured else ())],
        "cost_rows": rows,
        "latency": measured,
        "cost_notes": [("note", text) for text in coverage(record["cost"], None, UNICODE)],
        "heavy": heavy(record),
    }


def _sites(record: Mapping[str, Any]) -> dict[str, Any]:
    runs = fold_sites(record["sites"])
    columns, rows = site_rows(runs, UNICODE)
    priced = columns.index(">params each")
    most = max((abs(run.head["params"]) for run in runs), default=0)
    made: list[list[Any]] = [list(row) for row in rows]
    for row, run in zip(made, runs, strict=True):
        row[priced] = _bar(run.head["params"], most, row[priced])
    columns = [*columns[:priced], ">parameters each", *columns[priced + 1 :]]
    spans = [_span(run, "macs") for run in runs]
    if all(spans):
        most = max(abs(end) for span in spans for end in span)
        columns.insert(priced + 1, ">MACs each")
        for row, span in zip(made, spans, strict=True):
            text = f" {UNICODE.to} ".join(words.change(end) for end in dict.fromkeys(span))
            row.insert(priced + 1, _bar(span[1], most, text))
    said = [*site_notes(runs, UNICODE), *record["notes"]]
    refused = record["refused"]
    return {
        "sites_title": words.several(len(record["sites"]), "site"),
        "site_columns": columns,
        "site_rows": made,
        "site_notes": [("note", text) for text in said],
        "refused_title": refused_heading(record).capitalize() if refused else "",
        "refused": [("bad", text) for text in refusals(record, UNICODE)] if refused else [],
    }


def _span(run: Run[Mapping[str, Any]], name: str) -> tuple[int, ...]:
    """Returns the least and the greatest figure of a run, () where one is not known."""
    figures = [site.get(name) for site in run.rows]
    known = [figure for figure in figures if figure is not None]
    return (min(known), max(known)) if known and len(known) == len(figures) else ()


def _bar(number: int, most: int, text: str) -> dict[str, Any]:
    return {"text": text, "bar": abs(number) / most if most else 0.0}


_MEASURED = (
    ("values_checked", "intermediate values compared"),
    ("values_equal", "of them bit-equal"),
    ("max_abs_diff", "largest difference of an output"),
    ("relative_diff", "the same, of the largest output"),
    ("top1_agreement", "top-1 agreement"),
)


def _verification(record: Mapping[str, Any]) -> dict[str, Any]:
    checked = record["verification"]
    if not checked:
        return {"checks": [], "check_rows": []}
    sizes = [words.size(size, UNICODE.times) for size in checked["sizes"]]
    rows = [("sizes of input", " and ".join(sizes))]
    for name, label in _MEASURED:
        value = checked[name]
        if name == "top1_agreement":
            rows.append((label, f"{value:.0%}" if value == value else "-"))
        else:
            rows.append((label, words.count(value) if isinstance(value, int) else f"{value:.3g}"))
    return {"checks": [*sentences(checked, UNICODE.times)], "check_rows": rows}


def _card(card: Mapping[str, Any], record: Mapping[str, Any], hue: int) -> dict[str, Any]:
    """Returns what the page says of a mechanism."""
    facts = [("kind", card["kind"]), ("placement", card["placement"])]
    if card.get("formula"):
        facts.append(("parameters", card["formula"]))
    facts.append(("identity", f"{card['identity']}: {card['identity_how']}"))
    if card.get("lighter"):
        facts.append(("lighter", card["lighter"]))
    said = [*card.get("constraints", ()), *card.get("deviations", ())]
    return {
        "name": card["name"],
        "title": card["title"],
        "hue": hue,
        "equation": card.get("equation", ""),
        "paper": card["paper"],
        "venue": card["venue"],
        "facts": facts,
        "arguments": [*_arguments(card, record["sites"])],
        "notes": [("note", text) for text in said],
    }


def _arguments(
    card: Mapping[str, Any], sites: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[str, str, str, str]]:
    """Yields name, default, what was given, meaning."""
    given: dict[str, dict[str, None]] = {}
    for site in sites:
        if site["attn"] == card["name"]:
            for name, value in site["args"].items():
                given.setdefault(name, {})[str(value)] = None
    defaults = {**dict.fromkeys(card.get("required", ()), "required"), **card.get("args", {})}
    for name in dict.fromkeys([*defaults, *given]):
        default = str(defaults.get(name, "-"))
        yield (
            name,
            default,
            words.listed(given.get(name, {default: None})),
            card.get("meanings", {}).get(name, ""),
        )


def _rules(record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the rules, without the tests that a file of them holds."""
    whole = record.get("rules", ())
    rules = [(where, _without_tests(text)) for where, text in whole]
    return {"rules": rules, "rules_cut": rules != list(whole)}


def _without_tests(text: str) -> str:
    kept, inside = [], False
    for line in text.splitlines(keepends=True):
        if line[0] not in " #-\n":  # a key of the file itself
            inside = line.startswith("tests:")
        if not inside:
            kept.append(line)
    return "".join(kept)


def _go_on(record: Mapping[str, Any]) -> dict[str, Any]:
    if not record["output"]:
        return {"snippet": "", "snippet_lead": ""}
    return {
        "snippet": "\n".join(next_lines(record)),
        "snippet_lead": record.get("load_note", "").replace("`", ""),
    }
