"""Runs that are killed again and again, and must end as if nothing had happened."""
