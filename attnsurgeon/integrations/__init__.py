"""Doors to the training libraries of others; each module is imported by who needs it."""
