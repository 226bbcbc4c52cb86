"""evaluators/compute."""
