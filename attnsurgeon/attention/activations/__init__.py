"""Attention in the place of an activation."""
