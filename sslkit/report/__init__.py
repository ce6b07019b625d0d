"""What a run shows for itself: tables and the HTML page."""
