"""Data sets as tasks: four splits, encoded with the model's tokenizer.

`docstrings` is built in; local files, data sets of the hub and functions are read by name.
"""

from __future__ import annotations

from .load import describe_task, load_task
from .spec import SPLITS, TaskSpec

__all__ = ["SPLITS", "TaskSpec", "describe_task", "load_task"]
