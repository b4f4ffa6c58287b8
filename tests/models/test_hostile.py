"""Hostile and damaged files, each read in a process that is watched: no code, no hang, no hole."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.models.checkpoint_forms import FORMS, trained
from tests.models.hostile_checkpoints import hostile

ROOT = Path(__file__).parents[2]
CANARY = "open('ran', 'w').close()\n\ndef touch(*args):\n    open('ran', 'w').close()\n"


def answers(folder: Path, files: list[Path]) -> list[dict[str, Any]]:
    """What `tests.models.watched` says of each file, from a folder with a canary module."""
    good = []
    for name, make in FORMS.items():
        place = folder / "good" / name
        place.mkdir(parents=True)
        model = trained()
        state = {key: value.clone() for key, value in model.state_dict().items()}
        good.append(make(place, model, state))
    here = folder / "here"
    (here / "canary").mkdir(parents=True)
    (here / "canary" / "__init__.py").write_text(CANARY)
    (here / "canary" / "inside.py").write_text(CANARY)
    command = [sys.executable, "-W", "ignore", "-m", "tests.models.watched"]
    done = subprocess.run(
        [*command, *map(str, good), "--", *map(str, files)],
        capture_output=True,
        text=True,
        check=False,
        cwd=here,
        env={"PYTHONPATH": f"{ROOT}:{here}", "PATH": "/usr/bin:/bin", "HOME": str(folder)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert not (here / "ran").exists()
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_no_file_runs_code_hangs_fills_the_memory_or_ends_in_a_traceback(tmp_path):
    files = list(hostile(tmp_path))
    found = answers(tmp_path, files)
    assert len(found) == len(files) >= 400
    wrong = [
        one
        for one in found
        if one["events"]
        or one["said"].startswith("TRACEBACK")
        or one["seconds"] > 5
        or one["megabytes"] > 1000
    ]
    assert wrong == []
    taken = sum(one["said"] == "taken" for one in found)
    assert 0 < taken < len(found) / 4  # a flipped bit in a number that no checksum guards
    assert all(one["said"].isprintable() or "\n" in one["said"] for one in found)
    assert not any("\x1b" in one["said"] for one in found)


@pytest.mark.slow
def test_the_watch_sees_what_it_watches_for(tmp_path, monkeypatch):
    """A reader that runs its file is caught: the child reads it as torch itself would."""
    import pickle

    class Touch:
        def __reduce__(self):
            return exec, (f"import colorsys; open({str(tmp_path / 'mark')!r}, 'w').close()",)

    (tmp_path / "live.pkl").write_bytes(pickle.dumps({"a": Touch()}))
    run = (
        "import sys; from pathlib import Path; from tests.models import watched;"
        "import pickle, attnsurgeon.models.checkpoint as c;"
        "watched.read_checkpoint = lambda p: c.Checkpoint(p.name, pickle.loads(p.read_bytes()));"
        f"watched.main([], [Path({str(tmp_path / 'live.pkl')!r})])"
    )
    done = subprocess.run(
        [sys.executable, "-c", run], capture_output=True, text=True, check=True, cwd=ROOT
    )
    events = json.loads(done.stdout)["events"]
    assert any(event.startswith("import ('colorsys'") for event in events)
    assert any(event.startswith("open ") and "mark" in event for event in events)
    assert any(event.startswith("pickle.find_class") for event in events)
