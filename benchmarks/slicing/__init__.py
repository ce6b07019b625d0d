"""A slice of time on a machine without network: what is packed, what is run there, and what becomes of its results."""
