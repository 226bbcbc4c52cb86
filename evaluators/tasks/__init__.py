"""evaluators/tasks."""
