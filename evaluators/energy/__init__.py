"""evaluators/energy."""
