"""Joules, kilowatt-hours and carbon, and what they are read from."""
