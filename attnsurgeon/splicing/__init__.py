"""A plan -> the changed network, and back."""
