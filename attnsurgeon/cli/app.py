"""The command `attnsurgeon`."""

from __future__ import annotations

import click

from attnsurgeon.cli.groups import Files
from attnsurgeon.version import __version__

_EPILOG = """\b
Completion of commands, options, placements and mechanisms:
  bash  eval "$(_ATTNSURGEON_COMPLETE=bash_source attnsurgeon)"
  zsh   eval "$(_ATTNSURGEON_COMPLETE=zsh_source attnsurgeon)"
  fish  _ATTNSURGEON_COMPLETE=fish_source attnsurgeon | source

\b
Exit codes: 0 done, 1 a check or a budget refused, 2 wrong usage,
3 model or checkpoint, 4 rule or mechanism.
"""


@click.command(
    cls=Files,
    names=(
        "insert",
        "plan",
        "inspect",
        "cost",
        "compare",
        "sweep",
        "suggest",
        "verify",
        "status",
        "audit",
        "heatmap",
        "gates",
        "prune",
        "report",
        "save",
        "remove",
        "export",
        "attn",
        "rules",
    ),
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="attnsurgeon")
def app() -> None:
    """Add attention to a pretrained vision network: weights intact, price known.

    \b
    attnsurgeon insert resnet50 --attn eca --where bottleneck -o r50-eca
    """
