"""Plugins: who offers which classes, and imports by address."""
