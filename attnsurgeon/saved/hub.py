"""A folder <-> a repository of the Hugging Face hub. Files are copied; nothing of them is run.

What a folder of the hub names is as little trusted as that of any other folder, and only the files
that a saved folder consists of are fetched.
"""

from __future__ import annotations

import re
from pathlib import Path

from attnsurgeon.errors import ModelError, UsageError
from attnsurgeon.models.foreign import first_line, guarded
from attnsurgeon.models.offline import quick_refusal
from attnsurgeon.saved.folder import FILES

PREFIX = "hf-hub:"
_REPOSITORY = re.compile(r"(?!\.)[\w.-]{1,96}/(?!\.)[\w.-]{1,96}")


def is_at_hub(path: object) -> bool:
    """Tell whether a path names a repository of the hub: `hf-hub:ORG/NAME`, `...@REVISION`."""
    return isinstance(path, str) and path.startswith(PREFIX)


def fetched(name: str) -> Path:
    """Return the folder in the hub's cache that holds a repository; what is missing is fetched.

    Args:
        name: `hf-hub:ORG/NAME`, with `@REVISION` for another than the newest.

    Raises:
        ModelError: there is no such repository, or it cannot be reached.
    """
    repository, _, revision = name.removeprefix(PREFIX).partition("@")
    check_repository(repository)
    from huggingface_hub import snapshot_download

    with quick_refusal():
        folder = guarded(
            lambda: snapshot_download(
                repository, revision=revision or None, allow_patterns=list(FILES)
            ),
            lambda error: ModelError(
                f"could not fetch {name}: {first_line(error)}",
                "check the spelling, hf-hub:ORG/NAME; log in for a private repository; without a"
                " network, pass the folder itself",
            ),
        )
    return Path(folder)


def check_repository(name: str) -> None:
    """Refuse what is no name of a repository.

    Raises:
        UsageError: naming the form.
    """
    if not isinstance(name, str) or not _REPOSITORY.fullmatch(name):
        raise UsageError(
            f"{name!r} is no name of a repository of the hub", "it is of the form ORG/NAME"
        )


def push(folder: Path, name: str) -> None:
    """Upload a folder to a repository, which is created where it does not exist.

    Raises:
        UsageError: the hub does not take it. The folder stays.
    """
    check_repository(name)
    from huggingface_hub import HfApi

    def upload() -> None:
        api = HfApi()
        api.create_repo(name, exist_ok=True)
        api.upload_folder(
            repo_id=name,
            folder_path=folder,
            allow_patterns=list(FILES),
            commit_message="Upload a network with attention",
        )

    with quick_refusal():
        guarded(
            upload,
            lambda error: UsageError(
                f"{folder} was written, and the hub did not take it as {name}: {first_line(error)}",
                "log in with a token that may write: hf auth login",
            ),
        )
