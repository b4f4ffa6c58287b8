"""A seed -> a damaged surgery.json, a command line or a rule file, always the same one."""

from __future__ import annotations

import copy
import functools
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.cli.command import TINY

ODD: list[Any] = [
    *(None, True, False, 0, 1, -1, 3, 2**31, 2**63, 10**30, 0.5, -0.0, 1e308),
    *("", "x", "../..", "~nouser/x", "a\0b", "\x1b[31m", "\u202e", "\ud800", "x" * 5000, "eca"),
    *([], [[]], [1], [3, 20, 28], [[3, 20], 5], {}, {"a": 1}, {"tuple": [1]}, {"tuple": 3}),
    *("identity", "paper", "NHWC", "insert-before", "replace", "fuse", "retype", "adapter"),
]


def places(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yields the keys that lead to every part of a JSON value."""
    yield way
    parts = dict(enumerate(value)) if isinstance(value, list) else value
    for key, part in parts.items() if isinstance(parts, dict) else ():
        yield from places(part, (*way, key))


def damaged_record(whole: dict[str, Any], seed: int) -> bytes:
    """Returns the text of a surgery.json that is damaged in one to three places."""
    dice = random.Random(seed)
    record = copy.deepcopy(whole)
    for _ in range(dice.choice([1, 1, 1, 2, 3])):
        *way, last = dice.choice([place for place in places(record) if place])
        holder = functools.reduce(lambda part, key: part[key], way, record)
        match dice.randrange(6):
            case 0:
                del holder[last]
            case 1 if isinstance(holder, dict):
                holder[str(dice.choice(ODD))[:40]] = dice.choice(ODD)
            case 2 if isinstance(holder, list):
                holder.extend(copy.deepcopy(holder) * dice.choice([1, 50]))
            case _:
                holder[last] = copy.deepcopy(dice.choice(ODD))
    text = json.dumps(record).encode()
    if dice.random() < 0.1:
        at = dice.randrange(len(text))
        text = text[:at] + bytes([dice.randrange(256)]) + text[at + dice.randrange(3) :]
    return text


RULE_WORDS = [
    *("version", "name", "define", "rules", "tests", "id", "message", "match", "attn", "action"),
    *("init", "scope", "expect", "site", "type", "stage", "channels", "resolution", "stride"),
    *("kernel", "conv_stride", "groups", "depthwise", "branch", "layout", "matches", "any", "all"),
    *("not", "inside", "has", "follows", "precedes", "nth", "first", "last", "model", "count"),
]
RULE_VALUES: list[Any] = [
    *ODD,
    *("residual-branch", "conv", "stage", "se", "ran", ">=128", "64..256", "2n+1", "-n+3", "odd"),
    *("re:(a+)+$", "re:^(([a-z0-9.])+)+!$", "re:(?!x)", "re:[", "layer[34].*", "*a*a*a*b", "wide"),
    *("1x1 spatial 1x1", "dw*", [3, 5], {"type": "se", "reduction": 0}, {"type": "cbam"}),
    *({"site": "conv"}, {"not": {"site": "conv"}}, {"matches": "wide"}, {"any": []}, "none"),
]
RULES = """\
version: 1
name: fuzzed
define:
  wide: {channels: ">=8"}
  late: {stage: [-1], not: {matches: wide}}
rules:
  - id: one
    message: Something.
    match: {site: residual-branch, name: "*", matches: wide, follows: {type: "re:conv"}}
    attn: {type: se, reduction: 4}
    init: identity
    expect: {count: "1..20"}
  - id: two
    match: {any: [{site: conv, kernel: 3}, {site: stage}], nth: 2n+1}
    attn: eca
"""


def rule_file(seed: int) -> bytes:
    """Returns the text of a rule file: one of sense, with its values or its letters damaged."""
    from attnsurgeon.rules.document import read_document, write_document

    dice = random.Random(seed)
    if dice.random() < 0.35:
        return _scrambled(RULES.encode(), dice)
    data = copy.deepcopy(read_document(RULES, source="rules").data)
    for _ in range(dice.choice([1, 1, 2, 4])):
        *way, last = dice.choice([place for place in places(data) if place])
        holder = functools.reduce(lambda part, key: part[key], way, data)
        match dice.randrange(5):
            case 0:
                del holder[last]
            case 1 if isinstance(holder, dict):
                holder[dice.choice(RULE_WORDS)] = copy.deepcopy(dice.choice(RULE_VALUES))
            case _:
                holder[last] = copy.deepcopy(dice.choice(RULE_VALUES))
    try:
        return write_document(data).encode("utf-8", "surrogatepass")
    except UnicodeError:  # the writer's own, for a half of a surrogate pair
        return json.dumps(data).encode()


def _scrambled(text: bytes, dice: random.Random) -> bytes:
    for _ in range(dice.randrange(1, 6)):
        at, length = dice.randrange(len(text) + 1), dice.randrange(12)
        piece = dice.choice([b"", b"\t", b"[", b"{", b"*a", b"&a ", b"!!x ", b"'", b"- ", b": ",
                             b"\n", b"\xff", b"\0", b"\xe2\x80\xae", bytes([dice.randrange(256)]),
                             text[at : at + length] * 3])  # fmt: skip
        text = text[:at] + piece + text[at + length * dice.randrange(2) :]
    return text


NET = f"{TINY}net"
COMMANDS = {
    "insert": [NET], "plan": [NET], "inspect": [NET], "cost": [NET], "compare": [NET],
    "verify": ["out"], "report": ["out"], "export": ["out"],
    "attn": ["show", "list", "se"], "rules": ["show", "check", "test", "list", "new", "schema"],
}  # fmt: skip
FITTING = {
    "--attn": ["se", "eca", "cbam", "ran"], "--where": ["stage", "stem", "conv3x3", "rules.yaml"],
    "--rules": ["rules.yaml"], "--arg": ["reduction=4", "reduction=0", "kernel_size=3"],
    "--init": ["identity", "paper"], "--input-size": ["3,40,24", "3x33x17", "3,1,1"],
    "--model-arg": ["num_classes=3"], "--base": [NET], "--base-arg": ["num_classes=7"],
    "--save": ["full", "adapter"], "--verify": ["none", "quick"], "--max-params": ["+2%", "9M"],
    "--max-macs": ["+0.1%", "1G"], "--role": ["conv", "stage"], "--explain": ["blocks.0:add"],
    "--input": ["out/model.safetensors"],
    "--html": ["report.html"], "-o": ["new", "net.pt2"], "--output": ["new", "net.pt2"],
    "--format": ["torch-export"], "--checkpoint": ["out/model.safetensors"],
}  # fmt: skip
SLOW = (
    "--latency",
    "--max-latency",
    "--max-memory",
    "--fold",
    "--dynamic-batch",
)  # legitimate work of seconds
WORDS = [
    *("se", "eca", "cbam", "ran", "se,eca", "stage", "stem", "paper", "rules.yaml", "out"),
    *("reduction=4", "reduction=0", "reduction=x", "kernel_size=3", "num_classes=3", "spec=3"),
    *("checkpoint=x", "3,40,24", "3x40x24", "99999999999,1,1", "0,0", "3,1,1", "7,", "x", ""),
    *("identity", "full", "none", "quick", "adapter", "+2%", "-1", "1e9M", "conv", "blocks.0:add"),
    *("tiny.py:Flat", "tiny.py:nett", "resnet5O", "nowhere.py:f", "~nouser/x.py:f", "os:system"),
    *("\x1b[31m", "\u202e", "a\udc80", "\0", "x" * 300, "new", "report.html", "net.pt2", "="),
    *("torchvision:x", "transformers:x", "ultralytics:\0", "a=[", "a={b: [1", "fuzz-file", "-"),
]  # fmt: skip


def command_line(seed: int) -> list[str]:
    """Returns a command line: one of sense, with options of its own and words from anywhere."""
    dice = random.Random(seed)
    command = dice.choice(list(COMMANDS))
    argv = [command]
    if dice.random() < 0.9:
        argv.append(dice.choice(COMMANDS[command]))
    given = []
    if dice.random() < 0.85 and command in ("insert", "plan", "compare"):
        given.append("--attn")
    if dice.random() < 0.8 and NET in argv:
        given.append("--input-size")
    if command in ("verify", "export") and dice.random() < 0.8:
        given.append("--trust-code")
    if command == "export" and dice.random() < 0.8:
        given.append("-o")
    takes = _options(command, argv[-1])
    given += dice.sample(sorted(takes), min(len(takes), dice.randrange(4)))
    for option in given:
        argv.append("--nonsense" if dice.random() < 0.02 else option)
        if takes.get(option, True) and option != "--trust-code" and dice.random() < 0.97:
            words = WORDS if dice.random() < 0.3 else FITTING.get(option, WORDS)
            argv.append(dice.choice(words))
    if argv[:2] == ["rules", "test"]:
        argv.append("rules.yaml")  # without a file it tests all the shipped ones: half a minute
    if dice.random() < 0.1:
        argv.insert(dice.randrange(1, len(argv) + 1), dice.choice(WORDS))
    return argv


@functools.cache
def _options(command: str, below: str) -> dict[str, bool]:
    """The options of a command, and whether each takes a value."""
    import click

    from attnsurgeon.cli.app import app

    context = click.Context(app)
    found = app.get_command(context, command)
    if isinstance(found, click.Group):
        found = found.get_command(context, below) or found
    assert found is not None
    options = [p for p in found.params if isinstance(p, click.Option) and p.opts[0] not in SLOW]
    return {option.opts[0]: not option.is_flag for option in options}


def lay_out(folder: Path) -> dict[str, Any]:
    """Writes what the command lines name; returns the record of the saved folder `out`."""
    import attnsurgeon
    from tests.cli.command import attnsurgeon as run

    done = run("insert", NET, "--input-size", "3,40,24", "--attn", "se", "-o", folder / "out")
    assert done.code == 0, done.err
    assert attnsurgeon.load(folder / "out", trust=True)
    (folder / "rules.yaml").write_text(RULES)
    shutil.copy(TINY.rstrip(":"), folder)  # words name it from here: they may be written to
    return json.loads((folder / "out" / "surgery.json").read_text())
