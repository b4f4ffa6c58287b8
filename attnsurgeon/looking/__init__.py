"""Operated network and an input -> what its attention does to it."""
