"""Tables of learning curves: candidates whose error is known after every share of their training.

Recorded (peft's comparison of fine-tunings) or made up. Below the last rung the error is the
curve's, on few items; at the last it is that of all items. What a candidate costs to keep is exact.
"""

from __future__ import annotations

import csv
import gzip
import io
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np

from ..errors import DataError
from ..evaluators.measurement import Measurement
from ..evaluators.metric import StageCost
from ..search.records import Record, Rung
from ..search.run import ObjectiveRow
from ..search.samplers.problem import Problem
from ..spaces.configuration import Choice, Configuration
from ..spaces.paper import Paper
from ..spaces.profile import Head, Profile
from .benchmark import Array, Benchmark
from .small_tables import Row

OBJECTIVES: Final = (
    ObjectiveRow("error", "fraction", "minimize"),
    ObjectiveRow("cost", "dimensionless", "minimize"),
)

NUMBERS: Final = ("r", "lora_alpha", "lr", "num_virtual_tokens", "file_size_bytes")
"""Columns that say what a recorded fine-tuning is, beside its method and what it costs."""

RECORDED_ITEMS: Final = (50, 1319)
"""Items that a recorded curve's points, and the test accuracy, were judged on."""

MADE_ITEMS: Final = (100, 1000)
"""The same of a made-up table."""


@dataclass(frozen=True)
class Priced(Paper):
    """A candidate of a table on paper: what it costs."""

    cost: float = 0.0


@dataclass(frozen=True, eq=False)
class CurveTable(Benchmark):
    """A table, every row of which is a candidate.

    Args:
        objectives: error and what the cost is. rows: groups, variants, positive losses in the end.
        about: what it is. steps: of a whole training. seconds: `(n,)` that it takes.
        curves: `(n, k)` errors after 1/k, 2/k, ... of the steps.
        features: `(n, d)` numbers that describe a candidate.
        items: that a point of a curve and a final error were judged on.
        on_paper: what a candidate costs is known before it is trained.
    """

    objectives: tuple[str, ...]
    rows: tuple[Row, ...]
    about: str
    steps: int
    seconds: Array
    curves: Array
    features: Array
    items: tuple[int, int]
    on_paper: bool = True
    log = True

    @property
    def bounds(self) -> tuple[Array, Array]:
        """The best of each objective, and a hundredth beyond the worst."""
        return self.final.min(axis=0), 1.01 * self.final.max(axis=0)

    @cached_property
    def optimum(self) -> float:
        """Of the whole table."""
        return self.hypervolume(self.final)

    @cached_property
    def names(self) -> list[tuple[str, str]]:
        """Group and variant of every candidate."""
        return [(group, variant) for group, variant, _ in self.rows]

    @cached_property
    def final(self) -> Array:
        """Losses of the whole trainings, `(n, 2)`."""
        return np.array([losses for _, _, losses in self.rows])

    def volume(self, losses: list[tuple[float, ...]]) -> float:
        """Hypervolume of some candidates."""
        return self.hypervolume(np.array(losses))

    def suggest(self, trial: Any) -> Configuration:
        """A candidate: its group, then the variant, where the group has several."""
        group = trial.suggest_categorical("group", tuple(self._variants))
        variants = self._variants[group]
        if len(variants) == 1:
            return self._made[group, variants[0]]
        return self._made[group, trial.suggest_categorical(f"variant of {group}", variants)]

    def losses(self, made: Configuration) -> tuple[float, ...]:
        """The candidate's, in the end."""
        return self.rows[self.place(made)][2]

    def configuration(self, place: int) -> Configuration:
        """The candidate of a row."""
        return self._made[self.names[place]]

    def place(self, configuration: Configuration) -> int:
        """The row of a candidate."""
        return self._places[configuration.digest]

    def parameters(self, configuration: Configuration) -> dict[str, str]:
        """The answers with which `suggest` makes it."""
        group, variant = self.names[self.place(configuration)]
        alone = len(self._variants[group]) == 1
        return {"group": group} if alone else {"group": group, f"variant of {group}": variant}

    def known(self) -> Problem:
        """What is known of a candidate before it is trained."""
        profile = Profile("table", 1, 1, 1, 0, (), Head("classification", 2))

        def paper(configuration: Configuration) -> Paper:
            return Priced(profile, cost=float(self.final[self.place(configuration), 1]))

        def cost(paper: Paper) -> float:
            assert isinstance(paper, Priced)
            return paper.cost

        def features(configuration: Configuration, _: Paper) -> Array:
            return np.asarray(self.features[self.place(configuration)])

        exact = {1: cost} if self.on_paper else {}
        return Problem(
            self.suggest,
            paper=paper,
            known=exact,
            features=features,
            reference=lambda: self.bounds[1].tolist(),
        )

    def records(self, rungs: tuple[float, ...]) -> list[Record]:
        """Every candidate as a record with all rungs, to be replayed.

        Args:
            rungs: shares of the steps, ascending, the last 1.

        Raises:
            DataError: a rung at which the curves have no point.
        """
        count = self.curves.shape[1]
        for share in rungs:
            if not math.isclose(share * count, round(share * count)) or round(share * count) < 1:
                raise DataError(f"rung {share:g}: curves have points at every 1/{count} alone")
        return [self._record(i, rungs) for i in range(len(self.names))]

    @cached_property
    def _variants(self) -> Mapping[str, tuple[str, ...]]:
        groups = dict.fromkeys(group for group, _ in self.names)
        return {group: tuple(v for g, v in self.names if g == group) for group in groups}

    @cached_property
    def _made(self) -> Mapping[tuple[str, str], Configuration]:
        return {
            (group, variant): Configuration.of(finetuning=Choice.of(group, variant=variant))
            for group, variant in self.names
        }

    @cached_property
    def _places(self) -> Mapping[str, int]:
        return {self._made[name].digest: i for i, name in enumerate(self.names)}

    def _record(self, place: int, rungs: tuple[float, ...]) -> Record:
        reached, stages = list[Rung](), list[StageCost]()
        for k, (below, share) in enumerate(zip((0.0, *rungs), rungs, strict=False)):
            seconds = float(self.seconds[place]) * (share - below)
            reached.append(Rung(k, self._figures(place, share), seconds))
            key = f"{place}-{share:g}"
            stages += [
                StageCost(key, "train.finetune", seconds, True, False, str(place)),
                StageCost(f"{key}-eager", "eager.deploy", 0.0, False, False),
            ]
        return Record(
            place,
            self.configuration(place),
            "final",
            rungs=tuple(reached),
            stages=tuple(stages),
            seconds=float(self.seconds[place]),
        )

    def _figures(self, place: int, share: float) -> dict[str, Measurement]:
        error, cost = self.final[place]
        items = self.items[1]
        if share < 1.0:
            error = self.curves[place, round(share * self.curves.shape[1]) - 1]
            items = self.items[0]
        smoothed = (error * items + 1.0) / (items + 2.0)  # as accuracy has it
        stderr = math.sqrt(smoothed * (1.0 - smoothed) / items)
        return {
            "error": Measurement(float(error), "fraction", "measured", stderr, items, "items"),
            "cost": Measurement(float(cost), "dimensionless", "exact"),
        }


def recorded(folder: Path, cost: str) -> CurveTable:
    """63 fine-tunings of Llama-3.2-3B (peft's comparison), with their validation curves.

    Args:
        folder: of measured data. cost: `trainable_params`, which paper knows, or `mem_max_bytes`.

    Raises:
        DataError: the folder lacks it.
    """
    told = list(_read(folder / "peft_metamath_llama32_3b.csv.gz"))
    curves: dict[str, list[float]] = {}
    for row in _read(folder / "peft_metamath_curves.csv.gz"):
        curves.setdefault(row["experiment"], []).append(1.0 - float(row["valid_accuracy"]))
    rows: list[Row] = []
    for row in told:
        group, _, variant = row["experiment"].partition("/")
        losses = 1.0 - float(row["test_accuracy"]), float(row[cost])
        rows.append((group, variant, losses))
    return CurveTable(
        ("error", cost),
        tuple(rows),
        about=f"peft's fine-tunings of Llama-3.2-3B, test error and {cost}",
        steps=int(told[0]["max_steps"]),
        seconds=np.array([float(row["train_time_s"]) for row in told]),
        curves=np.array([curves[row["experiment"]] for row in told]),
        features=_features(told),
        items=RECORDED_ITEMS,
        on_paper=cost == "trainable_params",
    )


def synthetic(seed: int, candidates: int = 60, points: int = 20) -> CurveTable:
    """Made-up curves that cross: slow starters, late ones, and the noise of few items.

    Args:
        seed: of everything that is drawn. candidates: rows. points: of a curve.
    """
    rng = np.random.default_rng(seed)
    method = rng.integers(4, size=candidates)
    cost = np.exp(rng.uniform(0.0, 8.0, candidates))
    scatter = rng.lognormal(0.0, 0.3, candidates)
    floor = np.minimum(0.1 + 0.5 * np.exp(-np.log(cost) / 3.0) * scatter, 0.9)
    pace = np.exp(rng.normal(np.log([0.05, 0.1, 0.15, 0.3])[method], 0.4))
    late = (method == 3) & (rng.random(candidates) < 0.5)
    share = np.arange(1, points + 1) / points
    true = floor[:, None] + 0.8 * (1.0 - floor[:, None]) * np.exp(-share / pace[:, None])
    true = np.where(late[:, None] & (share < 0.15), np.maximum(true, 0.95), true)
    few, many = MADE_ITEMS
    final = np.maximum(rng.binomial(many, true[:, -1]), 1) / many
    one_hot = np.eye(4)[method]
    rows = tuple(
        (f"method {method[i]}", str(i), (float(final[i]), float(cost[i])))
        for i in range(candidates)
    )
    return CurveTable(
        ("error", "cost"),
        rows,
        about=f"made-up curves, seed {seed}",
        steps=5000,
        seconds=np.full(candidates, 1200.0),
        curves=rng.binomial(few, true) / few,
        features=np.column_stack([np.log(cost), one_hot]),
        items=MADE_ITEMS,
    )


def _features(told: list[dict[str, str]]) -> Array:
    """Numbers of a fine-tuning on scales of their own, and which method of several rows it is."""
    numbers = [[math.log1p(float(row[name] or 0.0)) for name in NUMBERS] for row in told]
    methods = sorted({row["method"] for row in told})
    several = [m for m in methods if sum(row["method"] == m for row in told) > 1]
    which = [[float(row["method"] == m) for m in several] for row in told]
    size = [[math.log(float(row["trainable_params"]))] for row in told]
    return np.hstack([numbers, size, which])


def _read(path: Path) -> Iterator[dict[str, str]]:
    if not path.is_file():
        raise DataError(f"no {path.name} in {path.parent}; say where it lies with --data")
    text = gzip.decompress(path.read_bytes()).decode()
    yield from csv.DictReader(io.StringIO(text))
