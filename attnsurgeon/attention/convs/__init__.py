"""Convolutions with attention inside: each takes the place of a convolution."""
