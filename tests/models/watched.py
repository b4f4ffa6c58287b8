"""Read files of weights in a process of its own, and report what each was answered with.

    python -m tests.models.watched FILE...

Writes one JSON object a line: the file, `taken` or the error's type and text, seconds of the
processor, the growth of the peak of memory, and every event of Python's audit that reading a file
has no business with.
"""

from __future__ import annotations

import json
import resource
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from attnsurgeon.errors import SurgeonError
from attnsurgeon.models.checkpoint import read_checkpoint
from attnsurgeon.models.fitting import fit_checkpoint
from tests.models.checkpoint_forms import net

_FORBIDDEN = (
    "import", "exec", "compile", "os.", "subprocess.", "socket.", "shutil.", "pickle.find_class",
    "ctypes.", "webbrowser.", "pty.", "urllib.", "builtins.input", "code.",
)  # fmt: skip
_events: list[str] = []
_watching = False
_home = ""


def _watch(event: str, args: tuple[Any, ...]) -> None:
    if not _watching:
        return
    if event == "open":
        path, mode = str(args[0]), args[1]
        writes = isinstance(mode, str) and set(mode) & set("wax+")
        if writes or not path.startswith(_home):
            _events.append(f"open {path} {mode}")
    elif event.startswith(_FORBIDDEN) and not event.startswith(("os.listdir", "os.scandir")):
        _events.append(f"{event} {str(args)[:200]}")


def answer(path: Path) -> dict[str, Any]:
    """Read one file, and put it into a network."""
    global _watching
    model = net()
    _events.clear()
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    _watching = True
    try:
        fit_checkpoint(model, read_checkpoint(path), what="net")
        said = "taken"
    except SurgeonError as error:
        said = f"{type(error).__name__}: {error}"
    except BaseException:
        said = f"TRACEBACK {traceback.format_exc()}"
    finally:
        _watching = False
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {
        "file": path.name,
        "said": said,
        "seconds": time.process_time() - start,
        "megabytes": grown / 1024,
        "events": list(_events),
    }


def main(good: list[Path], files: list[Path]) -> None:
    """Read the good files first, so that what this project imports late is imported."""
    global _home
    for path in good:
        answer(path)
    sys.addaudithook(_watch)
    for path in files:
        _home = str(path.parent)
        print(json.dumps(answer(path)), flush=True)


if __name__ == "__main__":
    at = sys.argv.index("--")
    main([Path(p) for p in sys.argv[1:at]], [Path(p) for p in sys.argv[at + 1 :]])
