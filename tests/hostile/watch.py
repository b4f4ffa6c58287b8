"""A process that loads folders and tests rule files, and reports what Python did meanwhile.

Run as `python -m tests.hostile.watch TASKS ANSWERS`, in the directory with the traps. The hook of
`sys.addaudithook` cannot be taken off, and sees what no patched function would.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

TRAPS = Path.cwd()
# Names that only the traps and the hostile texts have.
TOKENS = ("canarybird", "hostile_inside")
_LIBRARIES = [sys.prefix, sys.base_prefix, str(Path(__file__).parents[2] / "attnsurgeon")]
_SYSTEM = ["/dev/null", "/proc", "/sys", "/etc/ld.so", "/usr/lib", "/lib", "/etc/localtime"]
_PROCESSES = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "subprocess.")
_CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.chmod")
_EVENTS = ("import", "open", "exec", "compile", "pickle.find_class", "ctypes.dlopen", "shutil.")


class Watch:
    """What happened while it was on, that loading a folder has no business with."""

    def __init__(self) -> None:
        self.on = False
        self.folder = ""
        self.seen: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.on:
            return
        known = (*_EVENTS, "socket.", "urllib.", "http.", *_PROCESSES, *_CHANGES)
        if event.startswith(known):
            self.on = False  # what this hook does itself
            try:
                if wrong := self._wrong(event, args):
                    self.seen.append(f"{event}: {wrong[:200]}")
            finally:
                self.on = True

    def _wrong(self, event: str, args: tuple[Any, ...]) -> str | None:
        if event == "import":
            return _token(str(args[0])) or _token(str(args[1]))
        if event == "compile":
            return _token(str(args[0])) or _token(str(args[1]))
        if event == "exec":
            code = args[0]
            return _token(f"{code.co_filename} {code.co_names} {code.co_consts}")
        if event == "open":
            return self._outside(args[0])
        if event.startswith(_CHANGES):
            return self._outside(args[0])
        return str(args)

    def _outside(self, path: Any) -> str | None:
        if isinstance(path, int) or path is None:
            return None
        # Of the folder itself no link is followed: where it leads to is outside.
        whole = os.path.realpath(os.fsdecode(path))
        places = [self.folder, *map(os.path.realpath, _LIBRARIES), *_SYSTEM]
        places.append(os.path.realpath(tempfile.gettempdir() + "/attnsurgeon-watch"))
        inside = any(whole == place or whole.startswith(place + os.sep) for place in places)
        return None if inside else whole


def _token(text: str) -> str | None:
    return text if any(token in text for token in TOKENS) else None


def _load(path: str, how: dict[str, Any]) -> None:
    import attnsurgeon

    attnsurgeon.load(path, **how)


def _command(path: str, how: dict[str, Any]) -> None:
    from tests.cli.command import attnsurgeon

    done = attnsurgeon(*(word.format(path=path) for word in how["argv"]))
    if "Traceback" in done.err or done.code not in (0, 1, 2, 3, 4):
        raise AssertionError(f"exit {done.code}: {done.err[-300:]}")
    if done.code:
        from attnsurgeon.errors import SurgeonError

        raise SurgeonError((done.err or done.out)[-2000:] + done.out[-3000:])


_KINDS: dict[str, Callable[[str, dict[str, Any]], None]] = {"load": _load, "command": _command}


def _run(task: dict[str, Any], watch: Watch | None) -> dict[str, Any]:
    from attnsurgeon.errors import SurgeonError

    said, outcome = "", "loaded"
    before, start = _peak(), time.process_time()
    if watch is not None:
        watch.seen, watch.folder, watch.on = [], os.path.realpath(task["path"]), True
    try:
        _KINDS[task["kind"]](task["path"], task.get("how", {}))
    except SurgeonError as error:
        said, outcome = str(error), "refused"
    except BaseException as error:  # whatever it is, it is a traceback to a user
        said, outcome = traceback.format_exc()[-1500:] + repr(error)[:200], "traceback"
    finally:
        if watch is not None:
            watch.on = False
    traps = [str(m) for m in sys.modules if m.partition(".")[0] in TOKENS]
    ran = [p.name for p in TRAPS.glob("*.ran")]
    for name in ran:
        (TRAPS / name).unlink()
    return {
        "name": task["name"],
        "outcome": outcome,
        "said": said,
        "seen": [] if watch is None else sorted(set(watch.seen)),
        "ran": [*traps, *ran],
        "seconds": time.process_time() - start,
        "grown": _peak() - before,
    }


def _peak() -> int:
    """The most bytes that were resident so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _main(tasks: Path, answers: Path) -> None:
    given = json.loads(tasks.read_text())
    for task in given["first"]:  # libraries are imported, and caches filled, once
        _run(task, None)
    watch = Watch()
    found = [_run(task, watch) for task in given["tasks"]]
    answers.write_text(json.dumps(found))


if __name__ == "__main__":
    _main(Path(sys.argv[1]), Path(sys.argv[2]))
