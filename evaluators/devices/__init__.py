"""evaluators/devices."""
