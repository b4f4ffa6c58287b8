"""Attention in the place of an addition, or on two values of it."""
