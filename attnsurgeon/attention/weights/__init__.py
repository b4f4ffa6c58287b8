"""Attention on the weight of a convolution, which stays where it is."""
