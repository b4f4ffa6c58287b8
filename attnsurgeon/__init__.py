"""Model surgery for vision networks: add attention, keep the weights, know the price."""

from __future__ import annotations

from attnsurgeon.version import __version__

__all__ = ["__version__"]
