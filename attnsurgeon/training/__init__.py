"""An operated network -> what an optimiser trains."""
