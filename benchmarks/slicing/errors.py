"""Mistakes that a user can mend. Apart from sslkit's own errors: on the other machine this is read before anything is installed."""


class SliceError(Exception):
    """One line: what, found, allowed, fix."""
