"""WHAT was found, and shipping it."""
