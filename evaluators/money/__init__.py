"""evaluators/money."""
