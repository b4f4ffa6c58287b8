"""An operated network as a readable file of Python that needs no attnsurgeon."""
