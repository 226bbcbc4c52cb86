"""evaluators/communication."""
