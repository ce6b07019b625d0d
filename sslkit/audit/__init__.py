"""The shortcut audit: how well a pretext task can be solved on images without content."""
