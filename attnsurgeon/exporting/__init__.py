"""An operated network as a file for elsewhere, compared with the network before it is kept."""
