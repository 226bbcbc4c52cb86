"""evaluators/quality."""
