"""The transformer and its sizes."""
