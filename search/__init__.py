"""WHICH configuration to try next, and running it."""
