"""Files that would hang, fill the memory or run code: made from a seed, one after another."""

from __future__ import annotations

import io
import json
import pickle
import pickletools
import random
import struct
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.models.checkpoint_forms import FORMS, trained

Made = tuple[str, bytes]
_CALLS = [
    "os system", "posix system", "builtins eval", "builtins exec", "builtins __import__",
    "subprocess call", "subprocess Popen", "importlib import_module", "webbrowser open",
    "runpy run_path", "torch.hub load", "torch load", "torch.jit load", "timm create_model",
    "ultralytics.nn.tasks attempt_load_weights", "ultralytics.utils.downloads safe_download",
    "pickle loads", "code interact", "pty spawn", "socket create_connection", "shutil rmtree",
    "canary touch", "canary.inside touch", "numpy load", "torch.onnx export", "ctypes CDLL",
    "operator attrgetter", "functools partial", "torch._utils _rebuild_tensor_v2",
    "torch._tensor _rebuild_from_type_v2", "numpy.core.multiarray scalar",
    "torch.storage _load_from_bytes", "collections OrderedDict", "copyreg _reconstructor",
]  # fmt: skip


def hostile(folder: Path, seed: int = 20) -> Iterator[Path]:
    """Write the files one by one, at least 400, and yield their paths."""
    dice = random.Random(seed)
    for number, (name, content) in enumerate(_all(folder, dice)):
        path = folder / f"{number:03}-{name}"
        path.write_bytes(content)
        yield path


def _all(folder: Path, dice: random.Random) -> Iterator[Made]:
    yield from _calls()
    yield from _bombs()
    yield from _structures()
    yield from _wrong_types(dice)
    yield from _random_pickles(dice, 60)
    yield from _mutated(folder, dice, 14)


def _zipped(data: bytes, packed: bool = False, **entries: bytes) -> bytes:
    stream = io.BytesIO()
    kind = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    with zipfile.ZipFile(stream, "w", kind) as archive:
        archive.writestr("a/data.pkl", data)
        for name, content in entries.items():
            archive.writestr(f"a/data/{name}", content)
    return stream.getvalue()


def _old(data: bytes) -> bytes:
    """The format before zip, of a value that is a pickle already."""
    stream = io.BytesIO()
    for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
        pickle.dump(value, stream, protocol=2)
    stream.write(data)
    pickle.dump([], stream, protocol=2)
    return stream.getvalue()


def _calls() -> Iterator[Made]:
    """Each dangerous name, asked for in each of the ways that a pickle has."""
    argument = b"X\x09\x00\x00\x00touch ran"
    for at, called in enumerate(_CALLS):
        module, name = called.split(" ")
        line = f"{module}\n{name}\n".encode()
        short = b"\x8c" + bytes([len(module)]) + module.encode()
        short += b"\x8c" + bytes([len(name)]) + name.encode()
        ways = [
            b"\x80\x02c" + line + argument + b"\x85R.",
            b"\x80\x04" + short + b"\x93" + argument + b"\x85R.",
            b"\x80\x02(" + argument + b"i" + line + b".",
            b"\x80\x02(c" + line + argument + b"o.",
            b"\x80\x02c" + line + argument + b"\x85\x81}b.",
            b"\x80\x04c" + line + b")}" + argument + argument + b"s\x92.",
        ]
        yield f"call-{at}.pkl", ways[at % len(ways)]
        yield f"call-{at}.pth", _zipped(ways[(at + 1) % len(ways)])
        yield f"call-{at}.bin", _old(ways[(at + 2) % len(ways)])


def _bombs() -> Iterator[Made]:
    huge = struct.pack("<Q", 8_000_000_000)
    yield "bytearray.pkl", b"\x80\x02c__builtin__\nbytearray\n\x8a\x05\x00\xd0\xed\x90\x2e\x85R."
    yield "bytearray8.pkl", b"\x80\x05\x96" + huge + b"."
    yield "binbytes8.pkl", b"\x80\x05\x8e" + huge + b"."
    yield "frame.pkl", b"\x80\x04\x95" + huge + b"N."
    yield "unicode8.pkl", b"\x80\x04\x8d" + huge + b"."
    yield "long4.pkl", b"\x80\x02\x8b\xff\xff\xff\x7f."
    yield "memo.pkl", b"\x80\x02Nr\xff\xff\xff\xff."
    yield "digits.pkl", b"I" + b"9" * 1_000_000 + b"\n."
    yield "long-digits.pkl", b"\x80\x02L" + b"9" * 1_000_000 + b"L\n."
    yield "nested.pkl", b"\x80\x02" + b"]" * 499_999 + b"a" * 499_998 + b"."
    yield "tuples.pkl", b"\x80\x02N" + b"\x85" * 900_000 + b"."
    yield "tuple-key.pkl", b"\x80\x02}N" + b"\x85" * 900_000 + b"Ns."
    yield "marks.pkl", b"\x80\x02" + b"(" * 990_000 + b"."
    yield "dicts.pkl", b"\x80\x02" + b"}" * 990_000 + b"."
    yield "sets.pkl", b"\x80\x04" + b"\x8f" * 990_000 + b"."
    yield "endless.pkl", b"\x80\x02" + b"N0" * 4_000_000
    slots = b"".join(
        b"\x8a\x10" + ((2**61 - 1) * k).to_bytes(16, "little") + b"N" for k in range(60_000)
    )
    yield "one-slot.pkl", b"\x80\x02}(" + slots + b"u."
    doubled = b"\x80\x02]q\x00" + b"".join(b"(h%ch%ce" % (i, i) for i in [0] * 40) + b"."
    yield "doubled.pkl", doubled
    shared = b"\x80\x02N\x85" + b"2\x86" * 60 + b"."
    yield "shared-tuples.pkl", shared
    many = b"\x80\x02(" + b"K\x00" * 400_000 + b"lq\x00" + b"0"
    setting = b"c__builtin__\nset\nq\x01h\x00\x85q\x02" + b"h\x01h\x02R" * 300_000 + b"."
    yield "sets-of-one-list.pkl", many + setting
    text = b"X" + struct.pack("<I", 4_000_000) + b"x" * 4_000_000
    encode = b"q\x00X\x06\x00\x00\x00latin1q\x01\x86q\x020c_codecs\nencode\nq\x03"
    yield "bytes-of-one-text.pkl", b"\x80\x02" + text + encode + b"h\x03h\x02R" * 100_000 + b"."
    yield "names.pkl", b"\x80\x02(" + b"".join(
        f"cmodule_{n}.inner\nname\n".encode() for n in range(530)
    ) + b"l."  # fmt: skip
    zeros = bytes(64 << 20)
    inner = b"\x80\x02}X\x01\x00\x00\x00aN" + b"s."
    yield "deflated.pth", _zipped(zeros, packed=True)
    for count, size in ((1, 64 << 20), (2, 64 << 20), (20, 8 << 20)):
        entries = {str(n): zeros[:size] for n in range(count)}
        pickled = _storages(count, size)
        yield f"deflated-{count}.pth", _zipped(pickled, packed=True, **entries)
    yield "short-entry.pth", _zipped(_storages(1, 1 << 40), **{"0": b"123"})
    yield "missing-entry.pth", _zipped(_storages(3, 4))
    yield "no-storage.pth", _zipped(b"\x80\x02Q.")
    yield "odd-storage.pth", _zipped(b"\x80\x02(X\x07\x00\x00\x00storageNNNNtQ.")
    for count in (150_000, 250_000, 900_000):
        yield f"entries-{count}.pth", _index_of(count, inner)
    for numel, stride in [(1 << 40, 0), (1 << 40, 1), (-5, 1), (4, 1 << 60), (1 << 62, 4)]:
        yield (
            f"tensor-{numel}-{stride}.pth",
            _zipped(_tensor((numel,), (stride,)), **{"0": bytes(64)}),
        )
    yield "dimensions.pth", _zipped(_tensor((1,) * 3000, (1,) * 3000), **{"0": bytes(64)})
    for at, header in enumerate(
        [
            struct.pack("<Q", 90_000_000) + b"{}",
            struct.pack("<Q", 2) + b"{}",
            b"\x10\x00\x00\x00\x00\x00\x00\x00{" + b"[" * 15,
            struct.pack("<Q", 100)
            + b'{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}',
            struct.pack("<Q", 20_000_000) + b"{" + b" " * 20_000_000,
        ]
    ):
        yield f"header-{at}.safetensors", header
    for at, index in enumerate(
        [
            {"weight_map": {"a": "../../../etc/passwd"}},
            {"weight_map": {"a": "/etc/passwd"}},
            {"weight_map": {"a": "nothing.bin"}},
            {"weight_map": {"a": 3}},
            {"weight_map": {"a": "a\0b"}},
            {"weight_map": {str(n): f"{n}.bin" for n in range(30_000)}},
            [],
            {"weight_map": {"a": "."}},
        ]
    ):
        yield f"{at}.safetensors.index.json", json.dumps(index).encode()
    yield "deep.safetensors.index.json", b"[" * 500_000
    for size in (1 << 60, -1, 600):
        yield f"tar-{size}.pth", _tar(size)


def _index_of(count: int, data: bytes) -> bytes:
    """A zip file whose index has the same entry many times."""
    whole = _zipped(data)
    at, end = whole.index(b"PK\x01\x02"), whole.index(b"PK\x05\x06")
    index = whole[at:end] * count
    tail = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, len(index), at, 0)
    return whole[:at] + index + tail


def _storages(count: int, size: int) -> bytes:
    """A list of references to byte storages."""
    parts = [b"\x80\x02("]
    for n in range(count):
        key = str(n).encode()
        number = size.to_bytes(8, "little")
        parts.append(
            b"(X\x07\x00\x00\x00storagectorch\nByteStorage\nX" + struct.pack("<I", len(key)) + key
            + b"X\x03\x00\x00\x00cpu\x8a\x08" + number + b"tQ"
        )  # fmt: skip
    return b"".join(parts) + b"l."


def _tensor(size: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    """A state dict of one tensor that is described as the arguments say."""
    storage = _storages(1, 64)[3:-2]
    shapes = pickle.dumps((size, stride), protocol=2)[2:-1]
    inner = pickletools.optimize(b"\x80\x02" + shapes + b".")[2:-1]
    sizes, strides = (pickle.dumps(s, protocol=2)[2:-1] for s in (size, stride))
    assert inner
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00" + _plain(sizes)
    call += _plain(strides) + b"\x89}tR"
    return b"\x80\x02}X\x0b\x00\x00\x00stem.weight" + call + b"s."


def _plain(pickled: bytes) -> bytes:
    """A pickle without its memo, to be put into another."""
    return pickletools.optimize(b"\x80\x02" + pickled + b".")[2:-1]


def _tar(size: int) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name in ("storages", "tensors", "pickle"):
            part = io.BytesIO()
            pickle.dump(1, part, protocol=2)
            pickle.dump((0, "cpu", torch.FloatStorage), part, protocol=2)
            part.write(struct.pack("<q", size))
            info = tarfile.TarInfo(name)
            info.size = part.tell()
            part.seek(0)
            archive.addfile(info, part)
    return stream.getvalue()


def _saved(value: Any, old: bool = False) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream, _use_new_zipfile_serialization=not old)
    return stream.getvalue()


def _structures() -> Iterator[Made]:
    itself: dict[str, Any] = {}
    itself["state_dict"] = itself
    itself["list"] = [itself, (itself,)]
    state = trained().state_dict()
    yield "itself.pth", _saved(itself)
    yield "itself-with-weights.pth", _saved({**itself, **state})
    tower: nn.Module = nn.Sequential(nn.Linear(2, 2))
    for _ in range(40):
        tower = nn.Sequential(tower, tower)
    yield "tower.pth", _saved(tower)
    loop = nn.Sequential(nn.Linear(2, 2))
    loop._modules["self"] = loop
    yield "loop.pth", _saved({"model": loop})
    wide = nn.Sequential(*(nn.ReLU() for _ in range(4_000)))
    yield "wide.pth", _saved(wide)
    for prefixes in (60, 400):
        yield (
            f"prefixes-{prefixes}.pth",
            _saved({"module." * prefixes + k: v for k, v in state.items()}),
        )
    yield "dots.pth", _saved({"." * 900 + str(n): torch.ones(1) for n in range(2_000)})
    yield "long-names.pth", _saved({str(n) * 400_00: torch.ones(1) for n in range(100)})
    shared = torch.ones(1)
    yield "many-names.pth", _saved({f"a{n}.weight": shared for n in range(150_000)})
    yield "many-places.pth", _saved({f"a{n}": {"stem.weight": shared} for n in range(60_000)})
    deep: Any = state
    for _ in range(150):
        deep = {"state_dict": deep}
    yield "deep.pth", _saved(deep)
    level: Any = {"a": shared}
    for _ in range(60):
        level = {"b": level, "c": level, "d": [level, level]}
    yield "web.pth", _saved(level)
    escape = {"\x1b[2J\x1b]0;owned\x07" + k: v for k, v in state.items()}
    yield "escape.pth", _saved({"\x1b[31mred": escape, "\r\n\x1b[A": 1})
    yield "sparse.pth", _saved({**state, "fc.bias": torch.ones(7).to_sparse()})
    yield "expanded.pth", _saved({k: torch.ones(1).expand(1 << 40) for k in state})
    yield (
        "expanded-fitting.pth",
        _saved({k: torch.ones(()).expand(v.shape) for k, v in state.items()}),
    )


def _wrong_types(dice: random.Random) -> Iterator[Made]:
    state = trained().state_dict()
    odd = [None, 1, 1.5, "x", b"x", [], {}, (), set(), torch.float32, torch.Size([3]), object(),
           torch.ones(()), torch.ones(0), torch.ones(2, 0), nn.Linear(2, 2), 1 + 2j, float("nan"),
           torch.empty(3, device="meta"), torch.ones(3).requires_grad_(),
           slice(1), range(3)]  # fmt: skip
    for at, value in enumerate(odd):
        yield f"value-{at}.pth", _saved({**state, dice.choice(list(state)): value}, at % 2 == 0)
        yield f"root-{at}.pth", _saved(value, at % 2 == 1)
    keys = [1, None, (1, 2), b"x", 2.5, frozenset({1})]
    for at, key in enumerate(keys):
        yield f"key-{at}.pth", _saved({key: torch.ones(1), **state})
    bad = trained()
    for at, name in enumerate(["_parameters", "_buffers", "_modules"]):
        bad.__dict__[name] = dice.choice([{1: 2}, {"x": 3}, {None: bad}])
        yield f"module-{at}.pth", _saved(bad)
        bad = trained()
    bad._non_persistent_buffers_set = 3  # type: ignore[assignment]
    yield "module-buffers.pth", _saved(bad)


_CODES = [code.code.encode("latin-1") for code in pickletools.opcodes]


def _random_pickles(dice: random.Random, count: int) -> Iterator[Made]:
    """Opcodes in any order, with arguments that are mostly short."""
    pieces = [
        *(_CODES), b"K\x01", b"X\x01\x00\x00\x00a", b"}", b"]", b"(", b")", b"N",
        b"ctorch._utils\n_rebuild_tensor_v2\n", b"ccollections\nOrderedDict\n",
        b"c__builtin__\nset\n", b"cnumpy\ndtype\n", b"ctorch\nFloatStorage\n",
        b"cnumpy.core.multiarray\n_reconstruct\n", b"c_codecs\nencode\n", b"q\x00", b"h\x00",
        b"X\x07\x00\x00\x00storage", b"R", b"b", b"s", b"u", b"t", b"\x85", b"\x86", b"Q",
    ]  # fmt: skip
    for at in range(count):
        body = b"".join(dice.choice(pieces) for _ in range(dice.randrange(3, 60)))
        made = b"\x80\x02" + body + b"."
        yield f"random-{at}.pth", [made, _zipped(made), _old(made)][at % 3]


def _mutated(folder: Path, dice: random.Random, each: int) -> Iterator[Made]:
    """Good files with bytes flipped, cut out, doubled, or the end missing."""
    good = ["state-dict", "before-zip", "tar", "packed-zip", "safetensors", "safetensors-shards",
            "pickle-of-arrays", "oldest-pickle", "whole-network", "whole-network-before-zip",
            "torchscript", "lightning", "parameters", "training-script"]  # fmt: skip
    for name in good:
        model = trained()
        state = {key: value.clone() for key, value in model.state_dict().items()}
        place = folder / f"good-{name}"
        place.mkdir()
        path = FORMS[name](place, model, state)
        whole, ending = path.read_bytes(), path.name.removeprefix("w")
        for at in range(each):
            broken = bytearray(whole)
            for _ in range(dice.choice([1, 3, 20])):
                spot = dice.randrange(len(broken))
                kind = dice.randrange(4)
                if kind == 0:
                    broken[spot] ^= 1 << dice.randrange(8)
                elif kind == 1:
                    broken[spot : spot + dice.randrange(1, 40)] = b""
                elif kind == 2:
                    broken[spot:spot] = broken[spot : spot + dice.randrange(1, 40)]
                else:
                    broken[spot] = dice.choice(b"\x00\x7f\xff.(}]R")
                if len(broken) < 10:
                    break
            if at % 5 == 4:
                broken = broken[: dice.randrange(1, len(broken))]
            yield f"{name}-{at}{ending}", bytes(broken)
