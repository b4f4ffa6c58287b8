"""Small networks after published families; what is where in them stands in `expected.yaml`."""
