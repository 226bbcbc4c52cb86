"""TaskSpec: which data, and how it becomes four splits. Plain data; nothing is read here."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from ...spaces.task import TaskKind

SPLITS: Final = ("train", "calibration", "validation", "test")
"""Every task has these four: learnt from, fitted on, chosen on, reported on."""

SPLIT_NAMES: Final = {
    "train": "train",
    "training": "train",
    "calibration": "calibration",
    "calib": "calibration",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}
"""Names that data sets give their splits, lower case, and what they are here."""

DEFAULT_SHARES: Final = (("calibration", 0.1), ("validation", 0.1), ("test", 0.2))
"""Shares of the train rows that become a split that the data does not bring."""


@dataclass(frozen=True)
class TaskSpec:
    """A task as it is asked for.

    Args:
        name: `docstrings`; a `.csv`, `.tsv`, `.jsonl` or `.txt` file (also `.gz`) or a folder of
            split files; `hub:NAME[:CONFIG]` or a hub id `OWNER/NAME`; `module:function`; or an
            entry point of the group `paretune.tasks`. With `files` it is only a title.
        max_length: tokens per item, at least 2.
        kind: None: classification where there is a label column, else language modelling.
        text: text column, or two of them for sentence pairs; empty: `text`, else `sentence`.
        label: label column; None: `label`.
        group: rows that share this column's value never land in two splits; None: rows with the
            same text never do. A given split keeps such rows, and those before it lose them; by
            text only where there are labels.
        split: the column that names each row's split; None: `split`, where there is one.
        files: (split, path) pairs for data that lies in several files.
        shares: (split, share of the train rows in (0, 1)) for splits that the data does not bring.
        limits: (split, most items) pairs; a split left out keeps all.
        seed: of the carving and of the order of the items.
    """

    name: str
    max_length: int = 32
    kind: TaskKind | None = None
    text: tuple[str, ...] = ()
    label: str | None = None
    group: str | None = None
    split: str | None = None
    files: tuple[tuple[str, str], ...] = ()
    shares: tuple[tuple[str, float], ...] = DEFAULT_SHARES
    limits: tuple[tuple[str, int], ...] = ()
    seed: int = 0


def place(text: str, seed: int) -> float:
    """A pseudo-random number in [0, 1) that depends on a text and a seed alone.

    >>> place("abc", 0) == place("abc", 0) != place("abc", 1)
    True
    """
    raw = hashlib.sha256(f"{seed}:{text}".encode()).digest()[:8]
    return int.from_bytes(raw, "big") / 2**64
