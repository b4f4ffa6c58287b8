"""A call's words, mechanism, place, start, -> the rules that they stand for."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from attnsurgeon.attention.own.card import Own, is_code
from attnsurgeon.attention.registry import INITS, REPLACES_A_CONV, create_part, lookup
from attnsurgeon.attention.shapes import CONV
from attnsurgeon.errors import MechanismError, RuleError, UsageError, nearest
from attnsurgeon.models.own_attention import (
    Attention,
    find_attention,
    named,
    objection,
)
from attnsurgeon.models.vocabulary import shown
from attnsurgeon.rules.fields import Attn
from attnsurgeon.rules.narrowing import Narrowing
from attnsurgeon.rules.schema import Rule, RuleFile
from attnsurgeon.rules.where import Where, paths_of, resolve_where


def rules_for(
    attn: Attention | None,
    where: Where | None,
    rules: str | Path | RuleFile | None,
    attn_args: Mapping[str, Any] | None,
    init: str,
    narrow: Narrowing | None = None,
    *,
    trust: bool = False,
) -> RuleFile:
    """Returns the rules that a call stands for, each with its mechanism and its start.

    Code that the call names is imported; code that rules name only where the caller says `trust`.
    """
    if init not in INITS:
        raise MechanismError(f"init={init!r} is not a way to start", nearest(str(init), INITS))
    if where is not None and rules is not None:
        raise UsageError("both `where` and `rules` say where", "give one of them")
    if attn is None and attn_args:
        raise UsageError("attn_args need a mechanism", "name it: attn='eca'")
    card = None
    if attn is not None:
        attn, given = find_attention(attn)
        card, attn_args = lookup(attn), {**given, **(attn_args or {})}
    if where is None and rules is None and card is None:
        raise UsageError("nothing says what to insert", "name a mechanism, or give a rule file")
    asked = rules if rules is not None else where
    paper = card.placement if card is not None else None
    check = functools.partial(check_attn, trust=trust, said=attn)
    file = resolve_where("paper" if asked is None else asked, paper=paper, check_attn=check)
    if isinstance(asked, RuleFile):  # read elsewhere
        for rule in file.rules:
            if rule.attn is not None:
                _refuse_untrusted(rule.attn, trust=trust, said=attn)
    _refuse_unheard(file, attn, attn_args, init)
    if narrow:
        file = narrow.applied(file, own=asked is None)
    return file.model_copy(
        update={"rules": tuple(_complete(rule, attn, attn_args, init) for rule in file.rules)}
    )


def _refuse_unheard(
    file: RuleFile, attn: str | None, attn_args: Mapping[str, Any] | None, init: str
) -> None:
    """Refuses what the call says where every rule says something else: nothing would hear it.

    A rule that leaves it open hears it, and the others of its file keep what they say. What every
    rule says as well is no contradiction: the answer is what both of them ask for.
    """
    named = [(rule.id, rule.attn) for rule in file.rules if rule.attn is not None]
    if attn is not None and len(named) == len(file.rules):
        ours = Attn(attn, dict(attn_args or {}))
        for rule, theirs in named:
            if ours.type != theirs.type or (ours.args and ours.args != theirs.args):
                raise UsageError(
                    f"the call asks for {_in_words(ours)}, and rule {rule!r} names its own"
                    f" mechanism, {_in_words(theirs)}",
                    "leave attn= out to follow the rules, or take `attn:` out of them",
                )
    starts = [(rule.id, rule.init) for rule in file.rules if rule.init is not None]
    # "identity" is also what a call says that says nothing.
    if init != "identity" and len(starts) == len(file.rules):
        for rule, theirs in starts:
            if theirs != init:
                raise UsageError(
                    f"the call asks for the start {init!r}, and rule {rule!r} names its own,"
                    f" {theirs!r}",
                    "leave init= out to follow the rules, or take `init:` out of them",
                )


def _in_words(attn: Attn) -> str:
    return " ".join([attn.type, *(f"{name}={value}" for name, value in attn.args.items())])


def check_attn(attn: Attn, *, trust: bool = False, said: str | None = None) -> None:
    """Raises MechanismError for a mechanism that no site at all could build.

    Args:
        attn: as a rule file has it.
        trust: let the file name code, which is imported.
        said: the name of the mechanism that the caller has named themselves.
    """
    _refuse_untrusted(attn, trust=trust, said=said)
    card = lookup(attn.type)
    if isinstance(card, Own):  # what it can be built for, only its sites tell
        return card.check_args(attn.args)
    refusals = []
    for rank in card.ranks:
        try:
            with torch.device("meta"):
                conv = CONV[rank](4096, 4096, 3, padding=1, bias=False)
                size = (56, 48, 40)[:rank]
                facts = {"conv": conv, "classes": 1000, "stages": (256, 512, 1024)}
                facts |= {"source_channels": 4096, "source_size": size}
                args = card.args_at(size, attn.args, **facts)
                source = conv if card.kind in REPLACES_A_CONV else 4096
                create_part(card.name, source, rank=rank, **args)
            return
        except MechanismError as error:
            refusals.append(error)
    raise refusals[0]


def _refuse_untrusted(attn: Attn, *, trust: bool, said: str | None) -> None:
    """Refuses a mechanism that is code where nobody but a file says so; else imports it."""
    if attn.type == said:
        return
    wrong = objection(attn.type, attn.args)
    if wrong and not trust:
        raise MechanismError(
            f"the rules name the mechanism {shown(attn.type)}; {wrong}",
            "if you trust the file, say so: trust=True",
        )
    if is_code(attn.type):
        named(attn.type)


def _complete(rule: Rule, attn: str | None, attn_args: Mapping[str, Any] | None, init: str) -> Rule:
    """Fills in what a rule leaves to the call: mechanism and start."""
    chosen = rule.attn
    if chosen is None:
        if attn is None:
            raise RuleError(
                f"rule {rule.id!r} is a placement: it names no mechanism",
                "name one: attn='eca', or add `attn:` to the rule",
            )
        chosen = Attn(attn, dict(attn_args or {}))
    return rule.model_copy(update={"attn": chosen, "init": rule.init or init})


def spelled(where: Any, rules: Any, narrow: Narrowing) -> str:
    """Where, for reports: the placement, and what narrows it."""
    place = _spell(where if rules is None else rules)
    return f"{place}, {narrow}" if narrow else place


def _spell(where: Any) -> str:
    if where is None:
        return "paper"
    if listed := paths_of(where):
        return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")
    if isinstance(where, RuleFile):
        return where.name or "rules"
    if isinstance(where, Mapping):
        return ", ".join(f"{key}: {value}" for key, value in where.items())
    return getattr(where, "__name__", str(where))
