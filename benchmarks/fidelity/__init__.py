"""Whole networks of the mechanisms' authors, and what ours count."""
