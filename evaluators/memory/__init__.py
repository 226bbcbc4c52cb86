"""evaluators/memory."""
