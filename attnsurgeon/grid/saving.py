"""A row and its operation -> a saved folder; all rows -> an index that programs and people read."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from attnsurgeon.checks.threads import few_threads
from attnsurgeon.checks.verify import verify
from attnsurgeon.cost.comparing import Cost
from attnsurgeon.errors import ModelError, UsageError, nearest
from attnsurgeon.grid.table import Grid, Row
from attnsurgeon.grid.text import as_markdown, escaped
from attnsurgeon.operate import Operation
from attnsurgeon.saved.drafts import named
from attnsurgeon.saved.file import write_file
from attnsurgeon.saved.folder import RECORD
from attnsurgeon.saved.loading import loading
from attnsurgeon.saved.restore import read_folder
from attnsurgeon.saved.save import check_mode, save_operation
from attnsurgeon.saved.trust import needs_trust
from attnsurgeon.version import __version__

INDEX, READABLE, JOURNAL = "index.json", "README.md", "journal.jsonl"
FORMAT, FORMAT_VERSION = "attnsurgeon-variants", 1
CHECKS = ("quick", "full", "none")
_LONGEST = 100  # bytes of a folder's name; file systems take 255


@dataclass(frozen=True)
class Saving:
    """Where and how every variant is saved.

    Attributes:
        folder: the one that holds them.
        names: (network, mechanism, placement) -> the name of a variant's folder.
        mode: "full" or "adapter", as for `save`.
        verify: "quick", "full" or "none".
    """

    folder: Path
    names: Mapping[tuple[str, str, str], str] = field(default_factory=dict)
    mode: str = "full"
    verify: str = "quick"

    def record(self) -> list[Any]:
        """Return what decides about what is saved, for a journal."""
        return [sorted(self.names.values()), self.mode, self.verify]

    @property
    def journal(self) -> Path:
        """The file of finished rows."""
        return self.folder / JOURNAL

    def save(self, row: Row, operation: Operation, cost: Cost) -> Row:
        """Verify a variant and save it; one that fails its checks is not saved, and says so.

        Raises:
            UsageError, CheckFailed: it cannot be saved.
        """
        checked = None
        if self.verify != "none":
            how = {"full": self.verify == "full", "removed": operation.removed}
            with few_threads(cost.after.macs):
                checked = verify(operation.model, operation.plan, **how)
            if not checked.ok:
                said = f"not saved, its verification fails: {'; '.join(checked.problems)}"
                return replace(row, verified=False, notes=(*row.notes, said))
        name = self.names[row.model, row.attn, row.where]
        save_operation(
            self.folder / name,
            operation.model,
            operation.plan,
            cost,
            operation.origin,
            overwrite=True,  # a draft of an earlier run, or a variant that was damaged since
            mode=self.mode,
        )
        verified = None if checked is None else True
        return replace(row, folder=name, verified=verified, seal=_seal(self.folder / name))

    def is_whole(self, row: Row) -> bool:
        """Whether the folder of a finished row is there as it was written."""
        return row.folder is not None and row.seal == _seal(self.folder / row.folder)

    def finish(self, grid: Grid) -> None:
        """Write `index.json` and the README, each whole or not at all.

        Raises:
            UsageError: they cannot be written.
        """
        record = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "attnsurgeon": __version__,
            **grid.to_json(),
        }
        text = json.dumps(record, indent=2) + "\n"
        write_file(self.folder / INDEX, text, overwrite=True)
        write_file(self.folder / READABLE, _readable(grid, self.folder), overwrite=True)


def read_index(folder: str | os.PathLike[str]) -> Grid:
    """Read the grid of a folder of variants.

    Raises:
        UsageError: there is none, it is not finished, or it cannot be read.
    """
    path = Path(folder)
    file = path / INDEX
    if not file.is_file():
        begun = (path / JOURNAL).is_file()
        what = "is not finished" if begun else f"holds no variants: there is no {INDEX} in it"
        raise UsageError(
            f"{folder} {what}",
            "give the same `attnsurgeon compare` again"
            if begun
            else "make them: attnsurgeon.compare(..., save_all=FOLDER)",
            command="give the same `attnsurgeon compare` again"
            if begun
            else "make them: `attnsurgeon compare MODEL --attn NAMES --save-all FOLDER`",
        )
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        if record["format"] != FORMAT or record["format_version"] > FORMAT_VERSION:
            raise ValueError("of another format, or of a later version")
        return Grid.of(record)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{file} cannot be read: {error}", "give the same `attnsurgeon compare` again"
        ) from error


def saving_to(
    folder: str | os.PathLike[str],
    keys: Iterable[tuple[str, str, str]],
    *,
    mode: str = "full",
    verify: str = "quick",
) -> Saving:
    """Return where the variants with these keys are saved.

    Args:
        folder: new, empty, or one that an earlier run of the same request has begun.
        keys: (network, mechanism, placement) of each.
        mode, verify: as `Saving` has them.

    Raises:
        UsageError: the folder holds something else, or there is no such mode or check.
    """
    check_mode(mode)
    if verify not in CHECKS:
        raise UsageError(f"verify={verify!r} is no way to check", nearest(str(verify), CHECKS))
    path = named(folder, option="--save-all DIR")
    if path.exists() and not path.is_dir():
        raise UsageError(f"{folder} is a file", "the variants need a folder")
    if path.is_dir() and any(path.iterdir()) and not (path / JOURNAL).is_file():
        raise UsageError(
            f"{folder} holds something else than variants", "choose a folder that is new or empty"
        )
    return Saving(path, _names(keys), mode, verify)


def _names(keys: Iterable[tuple[str, str, str]]) -> dict[tuple[str, str, str], str]:
    """Returns a name for each: `resnet50--se-reduction-8--bottleneck`; none twice."""
    taken: set[str] = set()
    names: dict[tuple[str, str, str], str] = {}
    for key in keys:
        model, attn, where = key
        parts = [_word(_last(model)), _word(_last(attn)), _word(_last(where))]
        name = base = "--".join(part or "x" for part in parts)
        if len(name) > _LONGEST:
            name = base = f"{name[:_LONGEST]}-{hashlib.sha256(repr(key).encode()).hexdigest()[:8]}"
        number = 2
        while name.lower() in taken:  # some file systems hold one spelling of a name
            name, number = f"{base}-{number}", number + 1
        taken.add(name.lower())
        names[key] = name
    return names


def _last(name: str) -> str:
    """`tiny.py:net` of `nets/tiny.py:net`; of arguments and narrowing nothing is a path."""
    head = re.split(r"[(,]", name, maxsplit=1)[0]
    return os.path.basename(head.rstrip("/\\")) + name[len(head) :]


def _word(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-.")


def _seal(folder: Path) -> str | None:
    """Returns what the record of a saved folder and the sizes of its files give; None without."""
    try:
        saved = read_folder(folder)
        digest = hashlib.sha256((folder / RECORD).read_bytes())
        digest.update(str(saved.weights.stat().st_size).encode())
    except (ModelError, OSError):
        return None
    return digest.hexdigest()


def _readable(grid: Grid, folder: Path) -> str:
    made = [row for row in grid.rows if row.folder is not None]
    parts = ["# Variants", f"{len(made)} networks with attention, each in a folder of its own."]
    if made:
        name = str(made[0].folder)
        saved = read_folder(folder / name)
        how = loading(saved.record, name, trust=needs_trust(saved.source))
        parts += [f"```python\nimport attnsurgeon\n\n{how.code}\n```", how.note]
        parts += ["Paths are relative to this folder. `index.json` says the same for programs."]
    parts += [as_markdown(grid)]
    failed = [row for row in grid.rows if row.verified is False]
    parts += [f"Not saved: {escaped(row.name)}: {escaped(row.notes[-1])}" for row in failed]
    return "\n\n".join(part for part in parts if part.strip()) + "\n"
