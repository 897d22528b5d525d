"""The backends, each in a file or folder of its own, and the registry that chooses among them."""
