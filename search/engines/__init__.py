"""search/engines."""
