"""Grid -> the table of a comparison in the terminal, and what has to be said of it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from rich.console import Console

from attnsurgeon.grid.limits import before_after, breaks, read_limits, undecided
from attnsurgeon.grid.table import Grid, Row
from attnsurgeon.grid.text import in_words, learnt, metrics
from attnsurgeon.report import words
from attnsurgeon.report.figures import COUNTED, FIGURES, coverage
from attnsurgeon.report.narrow import INDENT, fits, measured
from attnsurgeon.report.streams import marks
from attnsurgeon.report.tables import show_facts, show_heading, show_lines, show_notes, show_table
from attnsurgeon.report.words import count

# What is left out first on a narrow terminal.
_SPARE = ("identity", "activations", "step", "step memory")
Group = tuple[str, list[str], list[list[str]]]  # its name, heads, and of each row the cells


def show_grid(console: Console, grid: Grid) -> None:
    """Prints what each row adds, and why some rows cannot be."""
    _networks(console, grid)
    console.print()
    gone = _rows(console, grid) if grid.done else []
    if grid.done:
        console.print()
    show_lines(console, _refused(grid, marks(console).bad))
    notes = [f"left out on {console.width} columns: {', '.join(gone)}"] if gone else []
    show_notes(console, [*left_out(grid), *notes, *_said(console, grid)])


def _networks(console: Console, grid: Grid) -> None:
    known = [network for network in grid.networks if network.figures]
    if len(grid.networks) == 1:
        show_heading(console, grid.networks[0].name)
        figures = [f"{count(known[0].figures[name])} {label}" for name, label in FIGURES]
        size = words.size(known[0].input_size, marks(console).times)
        show_facts(
            console,
            [("as it is", ", ".join(figures)), ("input", size), ("init", grid.init)],
        )
        return
    show_heading(console, words.several(len(grid.networks), "network"))
    rows = [
        [
            network.name,
            words.size(network.input_size, marks(console).times),
            *(count(network.figures[name]) for name, _ in FIGURES),
        ]
        for network in known
    ]
    show_table(console, ["as it is", "!input", *(f">{label}" for _, label in FIGURES)], rows)
    console.print()
    show_facts(console, [("init", grid.init)])


def _rows(console: Console, grid: Grid) -> list[str]:
    """Prints the table; returns the groups of columns that had no room."""
    groups = list(_groups(grid))
    gone: list[str] = []
    for spare in _SPARE:
        if _fit(groups, console.width - INDENT):
            break
        if any(name == spare for name, _, _ in groups):
            gone.append(spare)
            groups = [group for group in groups if group[0] != spare]
    heads = [head for _, heads, _ in groups for head in heads]
    show_table(console, heads, _joined(groups))
    return gone


def _fit(groups: Sequence[Group], room: int) -> bool:
    heads = [head for _, heads, _ in groups for head in heads]
    return fits(measured(heads, _joined(groups)), room)


def _joined(groups: Sequence[Group]) -> list[list[str]]:
    cells = [cells for _, _, cells in groups]
    return [[cell for part in row for cell in part] for row in zip(*cells, strict=True)]


def _groups(grid: Grid) -> Iterator[Group]:
    rows = grid.done
    if len(grid.networks) > 1:
        yield "model", ["model"], [[row.model] for row in rows]
    yield "attn", ["attn"], [[row.attn] for row in rows]
    yield "where", ["where"], [[row.where] for row in rows]
    if metric := metrics(rows):
        yield metric, [f">{metric}"], [[learnt(row)] for row in rows]
    yield "sites", [">sites"], [[count(len(row.sites))] for row in rows]
    if grid.init == "identity":
        yield "identity", ["!identity"], [[row.identity or ""] for row in rows]
    for name, label in FIGURES:
        yield label, [f">{label}", ">"], [_added(row, name) for row in rows]
    for name, kind in (("latency", "forward"), ("step", "step")):
        if any(row.measured and row.measured[kind] for row in rows):
            yield name, [f">{name}", "!"], [_ratio(row, kind) for row in rows]
    if any(row.memory for row in rows):
        yield "step memory", [">step memory", ">"], [_memory(grid, row) for row in rows]


def _added(row: Row, name: str) -> list[str]:
    assert row.delta is not None
    return [words.change(row.delta[name]), words.percent(row.delta[f"{name}_percent"])]


def _ratio(row: Row, kind: str) -> list[str]:
    """The ratio, and the 95 % interval of its median."""
    found = row.measured and row.measured[kind]
    if not found:
        return ["-", ""]
    ratio = found["ratio"]
    unsure = " undecided" if found["undecided"] else ""
    return [f"x{ratio['median']:.3f}", f"{ratio['low']:.3f} to {ratio['high']:.3f}{unsure}"]


def _memory(grid: Grid, row: Row) -> list[str]:
    pair = before_after(row, grid.network(row), "memory")
    if pair is None:
        return ["-", ""]
    before, after = map(int, pair)
    percent = 100 * (after - before) / before if before else None
    return [words.memory_change(after - before), words.percent(percent)]


def _refused(grid: Grid, sign: str) -> Iterator[tuple[str, str, str]]:
    """Yields a line for each reason, with all rows that it keeps out, wholly or at some sites."""
    reasons: dict[str, list[tuple[Row, str, str | None]]] = {}
    for row in grid.refusals:
        error = str(row.error)
        reasons.setdefault(_of_any(row, error), []).append((row, error, row.hint))
    for row in grid.done:
        if row.refused:
            first, sites = row.refused[0], words.several(len(row.refused), "site")
            reason = f"{sites} refused, {first['path']}: {first['reason']}"
            reasons.setdefault(_of_any(row, reason), []).append((row, reason, None))
    for shared, found in reasons.items():
        rows = [row for row, _, _ in found]
        said = found[0][1] if len(found) == 1 else shared
        hints = [h if len(found) == 1 else _of_any(r, h) for r, _, h in found if h]
        more = "what would help each says --json" if len(set(hints)) > 1 else "".join(hints[:1])
        yield sign, "yellow", f"{_named(grid, rows)}: {said}" + (f"; {more}" if more else "")


def _of_any(row: Row, text: str) -> str:
    """A text about the mechanism of a row as it would be about another, so that equal ones meet."""
    name = re.escape(row.attn.partition("(")[0])
    return re.sub(rf"(?<![\w.:-]){name}('s)?(?![\w-])", lambda m: "its" if m[1] else "it", text)


def _named(grid: Grid, rows: Sequence[Row]) -> str:
    """The rows in as few words as tell them apart."""
    several = len({row.model for row in grid.rows}) > 1
    placed = len({(row.attn, row.where) for row in grid.rows}) > len({r.attn for r in grid.rows})
    whole = len(rows) > 1 and len(rows) == sum(row.model == rows[0].model for row in grid.rows)
    if several and whole and len({row.model for row in rows}) == 1:
        return rows[0].model
    names = []
    for row in rows:
        model = f"{row.model} " if several else ""
        names.append(f"{model}{row.attn}" + (f" at {row.where}" if placed else ""))
    return words.listed(dict.fromkeys(names), 8)


def left_out(grid: Grid) -> list[str]:
    """Returns how many rows each limit leaves out, where there are limits."""
    if not grid.limits:
        return []
    limits = read_limits(**{name.removeprefix("max_"): t for name, t in grid.limits.items()})
    by = Counter(breaks(row, grid.network(row), limits) for row in grid.left_out)
    unsure = sum(undecided(row, limits) for row in grid.left_out)
    parts = [f"{n} over {figure} {limits[figure].text}" for figure, n in by.items() if figure]
    more = f", {unsure} of them undecided" if unsure else ""
    rows = words.several(len(grid.left_out), "row")
    return [f"{rows} left out by limits" + (f": {', '.join(parts)}{more}" if parts else "")]


def _said(console: Console, grid: Grid) -> Iterator[str]:
    """Yields what has to be said of the figures, once."""
    uncounted: Counter[str] = Counter()
    for network in grid.networks:
        uncounted.update(network.uncounted)
    several = len(grid.networks) > 1
    notes = [
        f"{network.name}: {note}" if several else note
        for network in grid.networks
        for note in network.notes
    ]
    cost = {"uncounted": list(uncounted), "uncounted_calls": dict(uncounted), "notes": notes}
    yield from coverage(cost, None, marks(console))
    by_note: dict[str, list[Row]] = {}
    for row in grid.done:
        for note in row.notes:
            by_note.setdefault(note, []).append(row)
    yield from (f"{_named(grid, rows)}: {note}" for note, rows in by_note.items())
    if any(row.measured for row in grid.done):
        yield from _how(grid)
    yield from _trained(grid)


def _trained(grid: Grid) -> Iterator[str]:
    """Yields how what was trained came about, and which of it failed."""
    rows = [row for row in grid.done if row.trained]
    for row in rows[:1]:
        assert row.trained is not None
        found, end = row.trained, {"max": "highest", "min": "lowest"}[row.trained["mode"]]
        trials = sum(one.trained["trials"] for one in rows if one.trained)
        yield f"{found['metric']}: the {end} that was reported, of {words.several(trials, 'trial')}"
        if found["config"]:
            yield f"{_named(grid, [row])}: its best with {in_words(found['config'])}"
    by_error: dict[str, list[Row]] = {}
    for row in rows:
        if row.trained and row.trained["error"]:
            by_error.setdefault(row.trained["error"], []).append(row)
    yield from (f"{_named(grid, some)}: a trial failed: {e}" for e, some in by_error.items())


def _how(grid: Grid) -> Iterator[str]:
    made = next(row.measured for row in grid.done if row.measured)
    how, threads = made["settings"], words.several(made["settings"]["threads"], "thread")
    yield f"measured at batch {how['batch']}, {how['device']}, {how['dtype']}, {threads}"
    if any(row.forward for row in grid.done):
        yield "latency: median ratio of interleaved pairs, and its 95 % confidence interval"
    counts = dict.fromkeys(row.memory["what"] for row in grid.done if row.memory)
    yield from (f"step memory: {COUNTED[what]}" for what in counts)
    by_why: dict[str, list[Row]] = {}
    for row in grid.done:
        if row.measured and row.measured["why"]:
            by_why.setdefault(row.measured["why"], []).append(row)
    yield from (f"{_named(grid, rows)}: no training step: {w}" for w, rows in by_why.items())
