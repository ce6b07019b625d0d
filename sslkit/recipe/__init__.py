"""TOML and checked values."""
