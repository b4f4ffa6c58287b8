"""Saved variants of a comparison -> trained, each by the user's function, on Ray Tune."""
