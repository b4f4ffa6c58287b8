"""The record of a saved folder -> the Python that loads it, as it is shown wherever it is shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any


@dataclass(frozen=True)
class Loading:
    """How a folder is loaded.

    Attributes:
        code: a line of Python, after `import attnsurgeon`; it makes `model`.
        note: what has to be known of the names in it, or "".
        is_plain: nothing has to be given but the folder.
    """

    code: str
    note: str = ""
    is_plain: bool = False


def loading(
    record: Mapping[str, Any], folder: str, *, trust: bool, checkpoint: str | None = None
) -> Loading:
    """Say how to load a folder.

    Args:
        record: what stands in its surgery.json.
        folder: its path, as the reader would write it.
        trust: whether they have to allow what builds the base network.
        checkpoint: where the weights of the base network are, where the one who asks knows; else
            only the file's name stands in the record.
    """
    source, given, notes = record["source"], [repr(folder)], []
    if source is None:
        given.append("model=base")
        kind = record["base"]["class"]
        notes.append(f"`base` is the {kind} that was operated; it is not changed.")
    elif record["mode"] == "adapter" and source["weights"].startswith("checkpoint"):
        name = source["weights"].removeprefix("checkpoint ").removesuffix(" (moving average)")
        known = checkpoint is not None and PurePath(checkpoint).name == name
        given.append(f"checkpoint={(checkpoint if known else name)!r}")
        notes.append(f"`{name}` is the file of weights that the base network was loaded from.")
    code = {one["name"]: one for made in record["operations"] for one in made.get("code", ())}
    filed = [name for name, one in code.items() if one["sha256"]]
    handed = {
        name: name.rpartition(":")[2].rpartition(".")[2] for name in code if name not in filed
    }
    if handed:
        names = ", ".join(f"{name!r}: {short}" for name, short in handed.items())
        given.append(
            f"attn={{{names}}}" if len(code) > 1 else f"attn={next(iter(handed.values()))}"
        )
        notes.append(f"`{', '.join(handed.values())}` is the attention that was put in.")
    needs = [f"builds the base network, `{source['spec']}`"] if trust and source else []
    needs += [f"the attention is, `{name}`" for name in filed]
    if needs:
        given.append("trust=True")
        notes.append(
            f"`trust=True` allows what {', and what '.join(needs)}: code or an address that no"
            " installed library registers."
        )
    line = f"model = attnsurgeon.load({', '.join(given)})"
    return Loading(line, " ".join(notes), len(given) == 1)
