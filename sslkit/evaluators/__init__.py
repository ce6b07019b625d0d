"""The evaluators that ship with the core."""
