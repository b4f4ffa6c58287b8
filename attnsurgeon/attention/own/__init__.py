"""Mechanisms of the user's own code: from a class to a card, a module, and a first run."""
