"""Attention in a network with real pretrained weights: before training, and after."""
