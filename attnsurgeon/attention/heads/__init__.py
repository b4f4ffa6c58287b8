"""Attention in the place of pooling and classifier."""
