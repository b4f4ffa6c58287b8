"""`python -m attnsurgeon` -> the command line."""

from __future__ import annotations

from attnsurgeon.cli import main

if __name__ == "__main__":
    main()
