"""Wheel and sdist -> what is wrong with them; nothing, where they hold what they have to.

python -m tests.distribution dist
"""

from __future__ import annotations

import sys
import tarfile
import zipfile
from collections.abc import Iterable
from email.parser import Parser
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = "attnsurgeon"
MEGABYTE = 1 << 20
METADATA = {
    "Name": PACKAGE,
    "License-Expression": "Apache-2.0",
    "Requires-Python": ">=3.10",
    "Description-Content-Type": "text/markdown",
}


def expected() -> set[str]:
    """Every file of the package, as a wheel has it: the rules stand inside."""
    files = (ROOT / PACKAGE).rglob("*")
    found = {
        file.relative_to(ROOT).as_posix()
        for file in files
        if file.is_file() and "__pycache__" not in file.parts
    }
    return found | {f"{PACKAGE}/rules/shipped/{file.name}" for file in (ROOT / "rules").glob("*")}


def wheel_problems(names: Iterable[str], metadata: str, entry_points: str) -> list[str]:
    """Returns what is wrong with a wheel.

    Args:
        names: of its files.
        metadata, entry_points: the texts of these.
    """
    files = {name for name in names if not name.endswith("/")}
    ours = {name for name in files if ".dist-info/" not in name}
    said = Parser().parsestr(metadata)
    missing = {name: value for name, value in METADATA.items() if said[name] != value}
    return [
        *(f"the wheel lacks {name}" for name in sorted(expected() - ours)),
        *(f"the wheel has {name}" for name in sorted(ours - expected())),
        *(f"{name} is {said[name]!r}, not {value!r}" for name, value in missing.items()),
        *(["no licence"] if not any("licenses/LICENSE" in name for name in files) else []),
        *([] if f"{PACKAGE} = {PACKAGE}.cli:main" in entry_points else ["no command"]),
    ]


def sdist_problems(sizes: dict[str, int]) -> list[str]:
    """Returns what is wrong with an sdist; `sizes` are those of its files, without the folder."""
    needed = {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "PKG-INFO"}
    needed |= {name for name in expected() if "/shipped/" not in name}
    needed |= {f"rules/{file.name}" for file in (ROOT / "rules").glob("*")}
    heavy = ("tests/", "benchmarks/", "docs_site/", "build/")
    return [
        *(f"the sdist lacks {name}" for name in sorted(needed - set(sizes))),
        *(f"the sdist has {name}" for name in sorted(sizes) if name.startswith(heavy)),
        *(f"{name} has {size:,} bytes" for name, size in sizes.items() if size > MEGABYTE),
    ]


def problems(folder: Path) -> list[str]:
    """Returns what is wrong with the one wheel and the one sdist of a folder."""
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as opened:
        names = opened.namelist()
        texts = {Path(n).name: opened.read(n).decode() for n in names if ".dist-info/" in n}
    with tarfile.open(sdist) as opened:
        sizes = {m.name.partition("/")[2]: m.size for m in opened.getmembers() if m.isfile()}
    return [
        *wheel_problems(names, texts["METADATA"], texts["entry_points.txt"]),
        *sdist_problems(sizes),
        *(f"{file.name} has {file.stat().st_size:,} bytes" for file in (wheel, sdist)
          if file.stat().st_size > 2 * MEGABYTE),
    ]  # fmt: skip


if __name__ == "__main__":
    found = problems(Path(sys.argv[1]))
    print("\n".join(found) or "wheel and sdist hold what they have to")
    sys.exit(bool(found))
