"""The record of a saved folder -> its README: what it is, what it costs, how to load it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from attnsurgeon.saved.loading import loading
from attnsurgeon.sizes import each

_TAGS = ("attnsurgeon", "attention", "computer-vision")


def write_card(
    record: Mapping[str, Any], folder: str, *, needs_trust: bool, for_timm: bool = False
) -> str:
    """Return the README of a saved folder as Markdown.

    Args:
        record: what stands in its surgery.json.
        folder: its name.
        needs_trust: whether the one who loads it has to allow what builds the base network.
        for_timm: whether it holds what timm finds it by.
    """
    parts = [
        _front_matter(),
        f"# {_title(record)}",
        _what(record),
        "## Load it",
        *_loading(record, folder, needs_trust, for_timm),
        "## Cost",
        _cost(record["cost"]),
        "## Where the attention is" if record["operations"] else "",
        *(_sites(operation) for operation in record["operations"]),
        "## Base network",
        _base(record),
        "## License",
        "The weights of the base network keep the license of those who published them; which one "
        "that is, this folder does not know. State it here before you pass the folder on.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter() -> str:
    return "---\nlibrary_name: attnsurgeon\ntags:\n" + "".join(f"- {t}\n" for t in _TAGS) + "---"


def _title(record: Mapping[str, Any]) -> str:
    names = [operation["attn"] for operation in record["operations"]]
    return f"{_base_name(record)} with {' and '.join(names)}" if names else _base_name(record)


def _base_name(record: Mapping[str, Any]) -> str:
    source = record["source"]
    return source["spec"] if source else record["base"]["class"].rpartition(".")[2]


def _what(record: Mapping[str, Any]) -> str:
    count = sum(len(operation["sites"]) for operation in record["operations"])
    if not count:
        made = record["versions"]["attnsurgeon"]
        return (
            f"`{_base_name(record)}`, an image network, saved by attnsurgeon {made} without the"
            " attention that was put in and taken out again. All its weights are here."
        )
    held = {
        "full": "All its weights are here.",
        "adapter": "Only the weights of the attention are here; those of the base are not.",
    }
    return (
        f"`{_base_name(record)}`, an image network, with {count} attention "
        f"module{'' if count == 1 else 's'} put in by attnsurgeon "
        f"{record['versions']['attnsurgeon']}. {held[record['mode']]}"
    )


def _loading(
    record: Mapping[str, Any], folder: str, needs_trust: bool, for_timm: bool
) -> Iterator[str]:
    made = loading(record, folder, trust=needs_trust)
    yield f"```python\nimport attnsurgeon\n\n{made.code}.eval()\n```"
    yield made.note
    if for_timm and made.is_plain:
        name = f"local-dir:{folder}"
        yield (
            "In timm, which without the second import says `Unknown model (attnsurgeon)`:\n\n"
            "```python\nimport timm\nimport attnsurgeon.integrations.timm\n\n"
            f"model = timm.create_model({name!r}, pretrained=True).eval()\n```"
        )
        yield (
            "Its scripts take the same name, run through that module:"
            " `python -m attnsurgeon.integrations.timm validate.py ...`."
        )


def _cost(cost: Mapping[str, Any]) -> str:
    rows = []
    for title, key in [("parameters", "params"), ("MACs", "macs"), ("activations", "activations")]:
        before, after = cost["before"][key], cost["after"][key]
        share = f" ({100 * (after - before) / before:+.3f} %)" if before else ""
        rows.append((title, f"{before:,}", f"{after:,}", f"{after - before:+,}{share}"))
    table = _table(("", "before", "after", "difference"), rows)
    legend = "For one input. A MAC is one multiply-add; activations are the elements of the results"
    legend += " of convolutions and matrix products."
    if cost["uncounted"]:
        legend += f" Not counted: {', '.join(cost['uncounted'])}."
    return f"{table}\n\n{legend}"


def _sites(operation: Mapping[str, Any]) -> str:
    sizes = (" x ".join(map(str, size)) or "a number" for size in each(operation["input_size"]))
    size = " and ".join(sizes)
    rows = [
        (
            f"`{site['path']}`",
            site["attn"] + (f" {json.dumps(site['args'])}" if site["args"] else ""),
            site["init"],
            str(site["channels"]),
            f"`{site['module_path']}`",
            f"{site['params']:,}",
            site["technique"],
        )
        for site in operation["sites"]
    ]
    columns = ("site", "attention", "start", "channels", "module", "parameters", "cut")
    return f"{operation['attn']}, placed by `{operation['where']}`, for an input of {size}:\n\n" + (
        _table(columns, rows)
    )


def _base(record: Mapping[str, Any]) -> str:
    source, base = record["source"], record["base"]
    lines = [f"- class: `{base['class']}`"]
    if source:
        lines.append(
            f"- built by: `{source['spec']}`, arguments {json.dumps(source['model_args'])}"
        )
        lines.append(f"- weights it was given: {source['weights']}")
    if base["sha256"]:
        lines.append(f"- sha256 of its weights when it was operated: `{base['sha256']}`")
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    lines.append(f"- made with: {versions}")
    return "\n".join(lines)


def _table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    columns = list(columns)
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )
