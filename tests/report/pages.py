"""Pages to look at in a browser: of networks that are really operated, and of the worst rows."""

from __future__ import annotations

import random
import struct
import zlib
from pathlib import Path
from typing import Any

import torch

from attnsurgeon.models import load_model
from attnsurgeon.operate import insert
from attnsurgeon.report.comparison import comparison_page
from attnsurgeon.report.folder import folder_record
from attnsurgeon.report.page import Picture, page
from attnsurgeon.saved.restore import read_folder
from tests.cli.command import TINY
from tests.nets.families.decoders import UNetOfModules
from tests.report.grids import Grid, network, refused, row
from tests.report.records import MEASURED

HOSTILE = "<img src=x onerror=\"document.title='ran'\"><script>alert(1)</script>'}}</style>"


def png(width: int = 320, height: int = 120) -> bytes:
    """A PNG of one grey."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    lines = zlib.compress((b"\0" + b"\x90" * width) * height)
    parts = chunk(b"IHDR", head), chunk(b"IDAT", lines), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def operated(folder: Path, model: Any, mode: str = "full", **how: Any) -> dict[str, Any]:
    """The record of a network that was operated, verified and saved."""
    operation = insert(model, **how)
    checked = operation.verify(full=False)
    operation.save(folder, mode=mode, verification=checked)
    return folder_record(read_folder(folder))


def resnet50(at: Path) -> str:
    """Sixteen sites, a measurement and a picture."""
    model = load_model("resnet50")
    record = operated(at / "r50", model, attn="cbam", where="bottleneck")
    seen = [Picture(png(), "A cat; the head is brightest", "layer4.2.bn3, channels and places")]
    return page({**record, "latency": MEASURED}, pictures=seen)


def unet(at: Path) -> str:
    """A network with a decoder."""
    how = {"attn": "scse", "where": "decoder", "input_size": (3, 64, 64)}
    return page(operated(at / "unet", UNetOfModules(transposed=False), **how))


def adapter(at: Path) -> str:
    """The weights of the attention only, on a base that was read from a file."""
    torch.save(load_model(f"{TINY}net").state_dict(), at / "base.pt")
    model = load_model(f"{TINY}net", checkpoint=at / "base.pt")
    how = {"attn": "se", "where": "residual-branch", "input_size": (3, 40, 24)}
    return page(operated(at / "adapter", model, mode="adapter", **how))


def many(at: Path) -> str:
    """Two hundred sites of which no two share a row, with long names."""
    record = operated(at / "many", load_model(f"{TINY}net"), attn="eca",
                      where="residual-branch", input_size=(3, 40, 24))  # fmt: skip
    pattern, total = record["sites"][0], sum(p["macs"] for p in record["network"]["parts"])
    names = [f"encoder.stages.{n % 7}.blocks.{n}.branch_{n * n}.norm" for n in range(200)]
    sites = [{**pattern, "path": name, "module_path": f"{name}.attn", "params": 3 + 2 * n,
              "macs": 1000 * n} for n, name in enumerate(names)]  # fmt: skip
    at_ = {name: total * n // 200 for n, name in enumerate(names)}
    return page({**record, "sites": sites, "network": {**record["network"], "at": at_}})


def comparison(_: Path) -> str:
    """Sixty rows that were measured, and two that cannot be."""
    dice = random.Random(0)
    attns = [f"attention_{n}(reduction={n})" for n in range(20)]
    rows = [
        row(attn, 0 if n == 3 else int(10 ** dice.uniform(1, 7.5)),
            int(10 ** dice.uniform(5, 8.5)), ratio=0.98 + dice.random() / 3, where=where)
        for n, attn in enumerate(attns)
        for where in ("bottleneck", "residual-add", "stage")
    ]  # fmt: skip
    rows[7]["measured"]["step"] = None  # it cannot be trained on its inputs alone
    rows += [refused("csra", "it is for a classifier"), refused("sk", "it has one group only")]
    return comparison_page(Grid(rows=rows, limits={"max_params": "+200%"}))


def hostile(at: Path) -> str:
    """Every name that somebody else can give means harm."""
    record = operated(at / "hostile", load_model(f"{TINY}net"), attn="eca",
                      where="residual-branch", input_size=(3, 40, 24))  # fmt: skip
    sites = [{**site, "path": HOSTILE, "note": HOSTILE} for site in record["sites"]]
    named = {"model": HOSTILE, "where": HOSTILE, "output": HOSTILE, "load": HOSTILE,
             "load_note": HOSTILE, "rules": [(HOSTILE, f"# {HOSTILE}\na: {HOSTILE}")],
             "model_args": {"name": HOSTILE}, "notes": [HOSTILE]}  # fmt: skip
    seen = [Picture(png(), HOSTILE, HOSTILE)]
    return page({**record, **named, "sites": sites}, pictures=seen)


def hostile_comparison(_: Path) -> str:
    """The same of a comparison."""
    rows = [row(HOSTILE, 10**n, 10**n, where=HOSTILE, model=HOSTILE, notes=[HOSTILE],
                folder=HOSTILE) for n in range(3, 7)]  # fmt: skip
    rows += [refused(HOSTILE, HOSTILE, hint=HOSTILE, model=HOSTILE)]
    return comparison_page(Grid(networks=[network(HOSTILE, weights=HOSTILE)], rows=rows))


PAGES = {
    "resnet50": (resnet50, "resnet50 + cbam", ["layer4.0.bn3 … layer4.2.bn3", "+9.91 %", "stage 3",
                                              "convolutional block attention"]),
    "unet": (unet, "UNetOfModules + scse", ["decoder", "scse", "bit-equal"]),
    "adapter": (adapter, "tiny.py:net + se", ["base.pt", "attention only (adapter)"]),
    "many": (many, "tiny.py:net + eca", ["200 sites", "branch_39601"]),
    "comparison": (comparison, "Attention for resnet50", ["60 variants priced, 2 refused"]),
    "hostile": (hostile, HOSTILE, [HOSTILE]),
    "hostile-comparison": (hostile_comparison, HOSTILE, [HOSTILE]),
}  # fmt: skip
