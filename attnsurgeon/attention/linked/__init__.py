"""Attention whose sites hand something on to each other."""
