"""The mechanisms: torch only, one file each, found by name through the registry."""

from __future__ import annotations

import attnsurgeon.attention.catalogue  # noqa: F401 -- fills the registry
