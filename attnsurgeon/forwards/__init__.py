"""One module's forward -> a graph, and code that can be changed."""
