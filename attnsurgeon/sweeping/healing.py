"""The storage of a sweep that was killed -> the same, from which every trial can go on.

Ray keeps a trial's last checkpoint and deletes the one before as soon as the next is there; which
is the last it writes down a moment later. Killed in between, a trial is known by a checkpoint that
is gone, and fails whenever it is taken up. The one that took its place is put there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

_STATE = "experiment_state-"
_CHECKPOINT = "checkpoint_"


def heal(folder: str) -> tuple[str, ...]:
    """Put the next checkpoint where one is spoken of and is gone.

    Args:
        folder: of a sweep in the storage: a path, or an address that pyarrow knows.

    Returns:
        What was put there.
    """
    from pyarrow import fs  # pyright: ignore[reportMissingImports]

    if "://" in folder:
        files, root = fs.FileSystem.from_uri(folder)
    else:
        files, root = fs.LocalFileSystem(), folder
    inside = files.get_file_info(fs.FileSelector(root))
    states = sorted(one.path for one in inside if one.base_name.startswith(_STATE))
    if not states:
        return ()
    with files.open_input_stream(states[-1]) as stream:  # named by the time: the newest
        known = dict(_last_checkpoints(json.loads(stream.readall())))
    made: list[str] = []
    for trial in inside:
        name = next((known[key] for key in known if f"_{key}_" in trial.base_name), None)
        if name is None or trial.type is not fs.FileType.Directory:
            continue
        there = sorted(
            one.base_name
            for one in files.get_file_info(fs.FileSelector(trial.path))
            if one.base_name.startswith(_CHECKPOINT)
        )
        # Of those behind it the first: the last may not have been written to its end.
        later = [one for one in there if one > name]
        if name not in there and later:
            source, gone = (f"{trial.path}/{one}" for one in (later[0], name))
            files.create_dir(gone)
            fs.copy_files(source, gone, source_filesystem=files, destination_filesystem=files)
            made.append(gone)
    return tuple(made)


def _last_checkpoints(state: Any) -> Iterator[tuple[str, str]]:
    """Trial -> name of its last checkpoint, of those that have one."""
    for settings, runtime in state.get("trial_data", ()):
        last = json.loads(runtime).get("last_result") or {}
        if name := last.get("checkpoint_dir_name"):
            yield json.loads(settings)["trial_id"], name
