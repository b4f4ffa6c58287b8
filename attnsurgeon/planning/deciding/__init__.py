"""Request -> Cut or the reason why not: each kind of attention decides in a file of its own."""
