"""search/samplers."""
