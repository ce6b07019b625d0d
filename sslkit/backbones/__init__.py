"""The backbones that ship with the core."""
