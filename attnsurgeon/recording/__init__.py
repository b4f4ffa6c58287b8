"""A network and an example -> one recorded forward."""
