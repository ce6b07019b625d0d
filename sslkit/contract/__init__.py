"""What plugins are written against."""
