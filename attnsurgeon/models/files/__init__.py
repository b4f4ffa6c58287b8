"""A file or folder of weights -> what it holds, as plain values; nothing in it is ever run."""
