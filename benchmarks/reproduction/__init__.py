"""Reproduction of the RotNet paper: which figures there are, which are still missing, and the document that shows them."""
