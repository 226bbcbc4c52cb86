"""WHAT can be tried, and how it is made real."""
