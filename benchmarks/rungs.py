"""Do rungs save training? Recorded learning curves, searched by the driver itself.

    python -m paretune.benchmarks.rungs --data DIR --seeds 10
    python -m paretune.benchmarks.rungs --table synthetic --seeds 10

A trial is one recorded fine-tuning. Below the last rung its error is what the curve had after that
share of the steps, on the curve's 50 validation items; at the last rung it is the test error, as a
last rung judges on all items. The second objective is known on paper. A higher rung pays for the
further steps alone. When all candidates were begun, the search goes on with what is paused until
everything is trained: so each share of the optimum is reached at some time, and `stop` is what
there was before that. Rungs, promotion, sampler, records and replay are those of a search.

An arm is a sampler and a schedule: `random` asks in a shuffled order, `optuna-tpe` is Optuna's own
loop, for which a candidate that it asks again is free. Differences are paired by seed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from ..errors import ParetuneError, UnknownName
from ..search.budget import Budget
from ..search.driver import Done, Driver, Rules, Wait
from ..search.engines.replay import Replay, VirtualClock
from ..search.fidelity import PROMOTED, promotions, rank_flips
from ..search.front import errors_of, losses_of
from ..search.records import Ask, Record
from ..search.run import Header
from ..search.samplers import sampler
from ..search.samplers.problem import Memory
from ..search.storage import StudyStorage
from .contenders import contender
from .learning_curves import OBJECTIVES, CurveTable, recorded, synthetic

TABLES: Final[Mapping[str, Callable[[Path], CurveTable]]] = {
    "parameters": partial(recorded, cost="trainable_params"),
    "memory": partial(recorded, cost="mem_max_bytes"),
    "synthetic": lambda folder: synthetic(0),
}
"""By name: the folder of measured data to a table."""

SHARES: Final = (0.95, 0.99)
"""Of the table's hypervolume: what it takes to reach each is told."""

MISSED: Final = 0.01
"""Share of the hypervolume that a front may lack without being missed."""

IN_MEMORY: Final = "sqlite:///:memory:"
"""Where a search keeps its records: nobody reads them afterwards."""

MOST_ASKS: Final = 2000
"""After which Optuna's own loop is ended, whatever it has not asked."""


@dataclass(frozen=True)
class Arm:
    """One way to search.

    Args:
        sampler: `greybox`, `random` or `optuna-tpe`. rungs: shares of the steps.
        promote: share that goes on.
    """

    sampler: str
    rungs: tuple[float, ...] = (1.0,)
    promote: float = PROMOTED

    @property
    def name(self) -> str:
        """As tables write it."""
        if len(self.rungs) == 1:
            return f"{self.sampler}, full"
        return f"{self.sampler}, {'/'.join(f'{r:g}' for r in self.rungs)}, {self.promote:.2g} go on"


SCHEDULES: Final = (
    ((1.0,), PROMOTED),
    ((0.25, 1.0), PROMOTED),
    ((0.1, 0.3, 1.0), PROMOTED),
    ((0.1, 0.3, 1.0), 0.33),
)
"""The first is full fidelity, with which the others are compared."""

ARMS: Final = (
    *(Arm(name, *schedule) for name in ("random", "greybox") for schedule in SCHEDULES),
    Arm("optuna-tpe"),
)


@dataclass
class Traced:
    """A driver whose progress is written down; a `Source`.

    Args:
        driver: asks and is told. table: whose steps are counted.
        rungs: shares of the steps.
        rows: steps and seconds so far and the front's hypervolume, after each answer.
    """

    driver: Driver
    table: CurveTable
    rungs: tuple[float, ...]
    rows: list[tuple[float, float, float]] = field(default_factory=list)
    _final: list[Record] = field(default_factory=list)
    _steps: float = 0.0

    def next(self) -> Ask | Wait | Done:
        """As the driver has it."""
        return self.driver.next()

    def prior(self, ask: Ask) -> Record | None:
        """As the driver has it."""
        return self.driver.prior(ask)

    def beat(self) -> None:
        """As the driver has it."""
        self.driver.beat()

    def tell(self, record: Record) -> Record:
        """Counts what it took before the driver takes it in."""
        told = self.driver.tell(record)
        rung = told.rungs[-1].rung
        below = self.rungs[rung - 1] if rung else 0.0
        self._steps += self.table.steps * (self.rungs[rung] - below)
        if told.state == "final":
            self._final.append(told)
        volume = self.table.volume([loss(one) for one in self._final])
        self.rows.append((self._steps, told.finished or 0.0, volume))
        return told


def loss(record: Record) -> tuple[float, ...]:
    """Objective figures of a record that has all of them."""
    losses = losses_of(record, OBJECTIVES)
    assert losses is not None
    return tuple(losses)


def searched(
    table: CurveTable, arm: Arm, seed: int, memory: Memory | None = None
) -> dict[str, Any]:
    """One search of everything in a table.

    Args:
        table: what is asked. arm: how. seed: of the order, the sampler.
        memory: shared between searches of one table.

    Returns:
        `steps`, `seconds`, `volume` after each answer, the last in shares of the optimum; `stop`,
        the row where everything had been begun and none was promoted any more; `flips`, see
        `rank_flips`, as `(pairs, flipped, lost)` for each pair of rungs.
    """
    if arm.sampler == "optuna-tpe":
        return _by_optuna(table, arm.sampler, seed)
    clock = VirtualClock()
    header = Header("rungs", {"budget": {}}, OBJECTIVES, {})
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(StudyStorage.open(Path(folder), header, IN_MEMORY, clock)) as storage,
    ):
        order = partial(
            promotions,
            losses=lambda record: losses_of(record, OBJECTIVES),
            rungs=arm.rungs,
            errors=lambda record: errors_of(record, OBJECTIVES),
        )
        rules = _rules(table, arm, seed, storage, memory)
        rules = replace(rules, promote=partial(order, share=arm.promote))
        ends = list[int]()

        def finish(records: Sequence[Record]) -> Sequence[int]:
            ends.append(len(traced.rows))
            return order(records, share=1.0)

        traced = Traced(Driver(storage, replace(rules, finish=finish)), table, arm.rungs)
        Replay(table.records(arm.rungs), clock).run(traced)
        flips = rank_flips(
            list(storage.records.values()),
            lambda record: losses_of(record, OBJECTIVES),
            arm.rungs,
        )
    steps, seconds, volumes = np.array(traced.rows).T
    return {
        "steps": steps.tolist(),
        "seconds": seconds.tolist(),
        "volume": (volumes / table.optimum).tolist(),
        "stop": (ends[0] if ends else len(steps)) - 1,
        "flips": [(row.pairs, row.flipped, len(row.lost)) for row in flips],
    }


def _rules(
    table: CurveTable, arm: Arm, seed: int, storage: StudyStorage, memory: Memory | None
) -> Rules:
    """A search whose budget is of time and never ends it."""
    rules = Rules(
        suggest=table.suggest,
        make_sampler=lambda number: sampler("random").make(table.known(), number),
        budget=Budget(minutes=1e9),
        seed=seed,
        rungs=len(arm.rungs),
        parameters=table.parameters,
    )
    if arm.sampler == "random":
        shuffled = np.random.default_rng(seed).permutation(len(table.names))
        return replace(rules, enqueue=tuple(table.configuration(int(i)) for i in shuffled))
    problem = replace(
        table.known(),
        objectives=tuple(row.name for row in OBJECTIVES),
        history=lambda: list(storage.records.values()),
        rungs=arm.rungs,
        memory=memory,
    )
    row = sampler(arm.sampler)
    return replace(rules, make_sampler=lambda number: row.make(problem, number))


def _by_optuna(table: CurveTable, name: str, seed: int) -> dict[str, Any]:
    """Optuna's own loop at full fidelity, until it has asked everything or asks too long."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    made = contender(name).make(table, seed)
    study = optuna.create_study(directions=["minimize"] * len(OBJECTIVES), sampler=made)
    asked: dict[int, None] = {}
    rows: list[tuple[float, float, float]] = []
    seconds = 0.0
    for _ in range(MOST_ASKS):
        trial = study.ask()
        place = table.place(table.suggest(trial))
        study.tell(trial, table.final[place].tolist())
        if place in asked:
            continue
        asked[place] = None
        seconds += float(table.seconds[place])
        volume = table.volume([tuple(table.final[i]) for i in asked]) / table.optimum
        rows.append((float(table.steps * len(asked)), seconds, volume))
        if len(asked) == len(table.names):
            break
    steps, passed, volumes = np.array(rows).T.tolist()
    ended = len(rows) - 1
    return {"steps": steps, "seconds": passed, "volume": volumes, "stop": ended, "flips": []}


def reached(told: Mapping[str, Any], share: float, what: str = "steps") -> float:
    """Steps, or seconds, until so much of the optimum was there; infinite where it never was."""
    there = np.flatnonzero(np.array(told["volume"]) >= share - 1e-9)
    return float(told[what][there[0]]) if len(there) else float("inf")


def compared(table: CurveTable, seeds: int, arms: Sequence[Arm] = ARMS) -> dict[str, Any]:
    """All arms over seeds 0, 1, ...; JSON-ready.

    Returns:
        `arms`: by name, what `summary` says, against the full fidelity of the same sampler (for
        Optuna's, of random); `optimum`, `candidates`, `seeds`.
    """
    memory = Memory()
    found: dict[Arm, list[dict[str, Any]]] = {}
    for arm in arms:
        found[arm] = [searched(table, arm, seed, memory) for seed in range(seeds)]
        print(f"{arm.name}: done", file=sys.stderr)
    full = {arm.sampler: rows for arm, rows in found.items() if len(arm.rungs) == 1}
    full["optuna-tpe"] = full["random"]
    rows = {arm.name: summary(told, full[arm.sampler]) for arm, told in found.items()}
    return {
        "table": table.about,
        "candidates": len(table.names),
        "optimum": table.optimum,
        "seeds": seeds,
        "arms": rows,
    }


def summary(told: Sequence[Mapping[str, Any]], full: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Figures of one arm.

    Args:
        told, full: what `searched` returned for each seed, of the arm and at full fidelity.

    Returns:
        `reached`: for each of `SHARES` thousands of steps by seed, hours by seed, and `ratio`:
        the geometric mean over seeds of full fidelity's steps over this arm's, and the ends of its
        95 % interval (`ratio`); `stop`: steps, share of the optimum, by seed;
        `missed`: in how many seeds the front at `stop` lacked more than `MISSED`, and the most that
        it lacked; `flips`: share of ranked pairs that the next rung turned round.
    """
    ends = [(row["steps"][row["stop"]], row["volume"][row["stop"]]) for row in told]
    lacks = [1.0 - volume for _, volume in ends]
    pairs = [np.array(row["flips"], dtype=np.float64) for row in told if row["flips"]]
    counted = np.sum(pairs, axis=0) if pairs else np.zeros((0, 3))
    return {
        "reached": {f"{share:.0%}": _share(told, full, share) for share in SHARES},
        "stop": {"steps": [steps for steps, _ in ends], "share": [volume for _, volume in ends]},
        "missed": {"seeds": sum(lack > MISSED for lack in lacks), "most": max(lacks)},
        "flips": [float(row[1] / row[0]) if row[0] else None for row in counted],
        "lost": [float(row[2] / len(pairs)) for row in counted],
    }


def _share(
    told: Sequence[Mapping[str, Any]], full: Sequence[Mapping[str, Any]], share: float
) -> dict[str, Any]:
    steps = [reached(row, share) for row in told]
    before = [reached(row, share) for row in full]
    return {
        "steps": steps,
        "hours": [reached(row, share, "seconds") / 3600 for row in told],
        "ratio": ratio(before, steps),
    }


def ratio(before: Sequence[float], after: Sequence[float]) -> list[float] | None:
    """How many times less, over pairs: the geometric mean and its 95 % interval's ends.

    None where a pair has no finite figure, or there is one pair alone.

    >>> [round(value, 3) for value in ratio([2.0, 8.0, 4.0], [1.0, 2.0, 2.0])]
    [2.52, 0.932, 6.813]
    """
    from scipy.stats import t

    logs = np.log(before) - np.log(after)
    n = len(logs)
    if n < 2 or not np.isfinite(logs).all():
        return None
    mean, half = logs.mean(), t.ppf(0.975, n - 1) * logs.std(ddof=1) / np.sqrt(n)
    return [float(np.exp(value)) for value in (mean, mean - half, mean + half)]


def lines(result: Mapping[str, Any]) -> list[str]:
    """The figures of `compared` as a table in Markdown."""
    shares = [f"{share:.0%}" for share in SHARES]
    head = ["arm", *(f"to {s}, k steps (h)" for s in shares), *(f"less, {s}" for s in shares)]
    head += ["at stop: k steps", "share", "missed by > 1 %", "flipped"]
    rows = [head, ["---"] * len(head)]
    for name, told in result["arms"].items():
        cells, missed = [told["reached"][share] for share in shares], told["missed"]
        flips = ["-" if f is None else f"{f:.0%}" for f in told["flips"]]
        rows.append(
            [
                name,
                *(f"{_mean(c['steps'], 1e3)} ({_mean(c['hours'])})" for c in cells),
                *(_ratio_in_words(c["ratio"]) for c in cells),
                _mean(told["stop"]["steps"], 1e3),
                f"{np.mean(told['stop']['share']):.4f}",
                f"{missed['seeds']} of {result['seeds']}, most {missed['most']:.1%}",
                ", ".join(flips) or "-",
            ]
        )
    about = f"{result['table']}: {result['candidates']} candidates, {result['seeds']} seeds."
    return [about, "", *(f"| {' | '.join(row)} |" for row in rows)]


def _mean(values: Sequence[float], unit: float = 1.0) -> str:
    known = np.array([value for value in values if np.isfinite(value)]) / unit
    never = len(values) - len(known)
    if not len(known):
        return "never"
    spread = f" ± {known.std(ddof=1):.0f}" if len(known) > 1 else ""
    return f"{known.mean():.0f}{spread}" + (f", never {never}" if never else "")


def _ratio_in_words(told: Sequence[float] | None) -> str:
    return "-" if told is None else "{:.2f} ({:.2f} to {:.2f})".format(*told)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m paretune.benchmarks.rungs")
    parser.add_argument("--data", type=Path, default=Path("bench-data"))
    parser.add_argument("--table", default="parameters", help=", ".join(TABLES))
    parser.add_argument("--seeds", type=int, default=10, help="searches of each arm: 0, 1, ...")
    parser.add_argument("--json", action="store_true", help="JSON on standard output")
    asked = parser.parse_args(arguments)
    try:
        if asked.table not in TABLES:
            raise UnknownName("table", asked.table, TABLES)
        told = compared(TABLES[asked.table](asked.data), asked.seeds)
    except ParetuneError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(json.dumps(told) if asked.json else "\n".join(lines(told)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
