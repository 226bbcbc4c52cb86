"""Small tables of real measurements as search problems: a few dozen points that can all be asked.

Two choices make a point: a group, and a variant within it.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from .benchmark import Array, Benchmark

Row = tuple[str, str, tuple[float, ...]]
"""Group, variant, losses."""


@dataclass(frozen=True)
class SmallTable(Benchmark):
    """A table, every row of which is a point.

    Args:
        objectives: what the losses are. rows: the table; losses are positive.
    """

    objectives: tuple[str, ...]
    rows: tuple[Row, ...]
    log = True

    @property
    def bounds(self) -> tuple[Array, Array]:
        """The best of each objective, and a hundredth beyond the worst."""
        losses = np.array([losses for _, _, losses in self.rows])
        return losses.min(axis=0), 1.01 * losses.max(axis=0)

    def suggest(self, trial: Any) -> tuple[str, str]:
        """A row: its group, then the variant, where the group has several."""
        group = trial.suggest_categorical("group", tuple(dict.fromkeys(g for g, _, _ in self.rows)))
        variants = tuple(variant for g, variant, _ in self.rows if g == group)
        if len(variants) == 1:
            return group, variants[0]
        return group, trial.suggest_categorical(f"variant of {group}", variants)

    def losses(self, made: tuple[str, str]) -> tuple[float, ...]:
        """The row's."""
        return next(losses for *names, losses in self.rows if tuple(names) == made)

    @property
    def optimum(self) -> float:
        """Of the whole table."""
        return self.hypervolume(np.array([losses for _, _, losses in self.rows]))


def llamacpp(folder: Path) -> SmallTable:
    """46 quantizations of Llama-3-8B (llama.cpp): size in GiB, perplexity on WikiText-2."""

    def row(told: Mapping[str, str]) -> Row:
        losses = float(told["model_size_gib"]), float(told["ppl_wikitext2"])
        return told["quantization"], told["imatrix"], losses

    return _read(folder / "llamacpp_llama3_8b_quant.csv", ("size_gib", "perplexity"), row)


def peft(folder: Path) -> SmallTable:
    """63 fine-tunings of Llama-3.2-3B (peft's comparison): error, trained parameters, memory."""

    def row(told: Mapping[str, str]) -> Row:
        group, _, variant = told["experiment"].partition("/")
        error = 1.0 - float(told["test_accuracy"])
        losses = error, float(told["trainable_params"]), float(told["mem_max_bytes"])
        return group, variant, losses

    objectives = ("error", "trained_parameters", "memory_bytes")
    return _read(folder / "peft_metamath_llama32_3b.csv.gz", objectives, row)


def _read(
    path: Path, objectives: tuple[str, ...], row: Callable[[Mapping[str, str]], Row]
) -> SmallTable:
    if not path.is_file():
        raise DataError(f"no {path.name} in {path.parent}; say where it lies with --data")
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
    return SmallTable(objectives, tuple(map(row, csv.DictReader(io.StringIO(text)))))
