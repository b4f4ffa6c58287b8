"""Names -> results, one line of JSON each: in a pool of processes, gone on with after a stop."""

from __future__ import annotations

import atexit
import gc
import json
import multiprocessing
import os
import re
import resource
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Result = dict[str, Any]


def read(path: Path, key: str) -> dict[str, Result]:
    """Returns the results so far by name; of several of one name the last."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {entry[key]: entry for entry in map(json.loads, lines)}


def run(
    job: Callable[[str], Result],
    names: Iterable[str],
    path: Path,
    *,
    key: str,
    workers: int,
    each: int,
    doing: str,
    prepare: Callable[[], None] | None = None,
) -> None:
    """Does a job for every name that has no result in a file yet, and appends what comes out.

    Args:
        job: a function of a module, since other processes import it.
        names: what there is to do.
        path: of the file, with one result a line.
        key: the entry of a result that is its name.
        workers: processes.
        each: names after which a process is replaced by a fresh one.
        doing: what the progress bar says.
        prepare: what each process does first.
    """
    from rich.progress import Progress

    done = read(path, key)
    todo = [name for name in names if name not in done]
    context = multiprocessing.get_context("spawn")
    with (
        context.Pool(workers, prepare, maxtasksperchild=each) as pool,
        path.open("a") as file,
        Progress() as progress,
    ):
        made = pool.imap_unordered(job, todo)
        for result in progress.track(made, total=len(todo), description=doing):
            file.write(json.dumps(result) + "\n")
            file.flush()


def parser_of(doc: str, out: str) -> ArgumentParser:
    """Returns the options that these benchmarks share; `doc` is of the file, `out` its results."""
    parser = ArgumentParser(description=doc.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path(out))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--table", action="store_true", help="only print the table")
    parser.add_argument("--write", type=Path, nargs="*", default=[], help="files with marks")
    return parser


def results_of(
    options: Namespace,
    job: Callable[[str], Result],
    names: Callable[[], Iterable[str]],
    *,
    key: str,
    each: int,
    doing: str,
) -> list[Result]:
    """Returns what came out by name, after what is still to be done unless only a table is wanted.

    Args:
        options: as `parser_of` reads them.
        names: makes what there is to do.
        job, key, each, doing: as for `run`.
    """
    if not options.table:
        start = time.perf_counter()
        run(
            job,
            names(),
            options.out,
            key=key,
            workers=options.workers,
            each=each,
            doing=doing,
            prepare=settle,
        )
        print(f"wall time {time.perf_counter() - start:.0f} s with {options.workers} workers\n")
    return sorted(read(options.out, key).values(), key=lambda entry: entry[key])


def settle() -> None:
    """Imports what jobs on networks need, and takes it out of the garbage collector's rounds.

    No process may take more than a third of the memory: one that the system ends leaves the others
    waiting for its result, where a refused allocation is a result of its own.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    resource.setrlimit(resource.RLIMIT_DATA, (memory // 3, memory // 3))
    import timm  # noqa: F401

    import attnsurgeon.operate  # noqa: F401

    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)


def write(file: Path, library: str, parts: dict[str, str], kind: str = "zoo") -> None:
    """Puts each part between its marks in a file: `<!-- zoo LIBRARY PART -->`, `<!-- zoo end -->`.

    A file that has none of the marks is an error.
    """
    text = file.read_text(encoding="utf-8")
    found = 0
    for name, part in parts.items():
        start = f"<!-- {kind} {library} {name} -->"
        pattern = re.compile(re.escape(start) + f".*?<!-- {kind} end -->", re.DOTALL)
        made = f"{start}\n{part}\n<!-- {kind} end -->"
        text, count = pattern.subn(lambda _, made=made: made, text)
        found += count
    if not found:
        raise SystemExit(f"{file} has no mark such as {start}")
    file.write_text(text, encoding="utf-8")
