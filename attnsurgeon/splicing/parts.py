"""Cut -> the module that goes into the network, with what it shares with the modules of others."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from attnsurgeon.attention.heads.tapped import InputTap, Mailbox, OutputTap, Tapped
from attnsurgeon.attention.linked.chain import Chain, Link, Linked
from attnsurgeon.attention.pooling import leave_out
from attnsurgeon.attention.registry import REPLACES_A_CONV, build_part
from attnsurgeon.planning.cut import Cut

# Layout -> the permutation that brings the channels to axis 1.
CHANNELS_FIRST = {"NHWC": (0, 3, 1, 2), "NDHWC": (0, 4, 1, 2, 3)}


@dataclass(eq=False)
class Parts:
    """Builds the modules of one plan: sites of one chain share its state, or all of a module."""

    _chains: dict[str, Chain] = field(default_factory=dict)
    _tied: dict[str, nn.Module] = field(default_factory=dict)
    _mailboxes: dict[str, Mailbox] = field(default_factory=dict)

    def build(self, cut: Cut, like: Tensor, replaced: nn.Module | None) -> nn.Module:
        """Returns the module of a cut.

        Args:
            cut: what is built.
            like: a tensor of the device and dtype that it belongs on.
            replaced: the module it takes the place of, where there is one.
        """
        card = cut.card
        with torch.device(like.device):
            made = self._tied.get(cut.chain) if card.tied else None
            if made is None:
                made = self._part(cut, replaced).to(like.dtype)
        if card.kind == "linked":
            if card.tied:
                self._tied[cut.chain] = made
            assert isinstance(made, Linked)
            chain = self._chains.setdefault(cut.chain, Chain())
            return Link(made, chain, cut.link, tied=card.tied)
        if not cut.taps:
            return made
        first = "logits" in card.inputs(cut.attn_args)
        orders = tuple(CHANNELS_FIRST.get(layout) for layout in cut.tapped)
        mailbox = self._mailboxes.setdefault(cut.module_path, Mailbox())
        return Tapped(
            made, mailbox, orders, logits_first=first, old_last=cut.keeps_old and not first
        )

    def _part(self, cut: Cut, replaced: nn.Module | None) -> nn.Module:
        card = cut.card
        source: int | nn.Module = cut.channels
        if card.kind in REPLACES_A_CONV:
            assert cut.conv is not None
            source = cut.conv
        made = build_part(card, source, cut.rank, cut.init, cut.attn_args)
        if cut.tokens is not None and not cut.as_map:
            leave_out(made, cut.tokens.before, cut.tokens.after)
        if card.adopt is not None and replaced is not None:
            inner = made.get_submodule("inner") if card.within and cut.keeps_old else made
            card.adopt(inner, replaced)
        return made

    def tap(self, model: nn.Module, cut: Cut) -> None:
        """Hangs the hooks that tap the maps of a head."""
        for index, place in enumerate(cut.taps):
            module = model.get_submodule(place.host)
            mailbox = self._mailboxes[cut.module_path]
            if place.technique == "output-hook":
                module.register_forward_hook(OutputTap(mailbox, index, place.copies))
            else:
                module.register_forward_pre_hook(InputTap(mailbox, index, place.copies))
