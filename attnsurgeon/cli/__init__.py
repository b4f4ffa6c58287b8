"""argv -> operate -> report -> exit code; one file a command, and the only door to click."""

from __future__ import annotations

import gc
import sys

INTERRUPTED = 130  # as shells report a process that SIGINT ended


def main() -> None:
    """Runs the command line and ends the process."""
    # A process that runs one command and ends: collecting while torch and timm are imported takes
    # a tenth of their import, and finds nothing.
    gc.disable()
    try:
        # Not at the top, so that an interrupt while it is imported is answered as well.
        from attnsurgeon.cli.app import app
        from attnsurgeon.report.streams import claim_streams

        claim_streams()
        app(prog_name="attnsurgeon")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
