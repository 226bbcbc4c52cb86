"""Budget: when a search must stop asking; the bill: what it has cost.

Both count from what is stored - records and the time that drivers held the run - so that a budget
means the same across any number of resumes and crashes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from ..evaluators.measurement import Measurement, missing
from ..spaces.configuration import Configuration
from .records import Record

SECONDS_PER_HOUR: Final = 3600.0

IN_WORDS: Final = {
    "trials": "trials",
    "trainings": "trainings",
    "minutes": "minutes",
    "kwh": "kWh",
    "money": "usd",
}
"""The limits of a budget, each as a person is told of it; money by its key in the study file."""


@dataclass(frozen=True)
class Tariff:
    """What an hour of one worker draws, emits and costs; None: not known.

    Args:
        watts: draw of one busy worker, machine side.
        pue: energy of the site per energy of the machine.
        kg_per_kwh: carbon intensity of the electricity, kg CO2e.
        price_per_hour: rent of one worker, for the hours that it worked.
        instance_per_hour: rent of the whole machine, for the wall time of the search, however
            many workers it has; where it is known it is paid in place of `price_per_hour`.
        price_per_kwh: of the electricity, where it is paid beside the rent.
        currency: of both prices.
        sources: where the figures are from, for the reader of the bill.
    """

    watts: float | None = None
    pue: float = 1.0
    kg_per_kwh: float | None = None
    price_per_hour: float | None = None
    price_per_kwh: float | None = None
    currency: str = "USD"
    sources: str = ""
    instance_per_hour: float | None = None

    def to_json(self) -> dict[str, Any]:
        """JSON-ready form; `from_json` is its inverse."""
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Tariff:
        """A tariff from what `to_json` wrote."""
        return Tariff(**data)


@dataclass(frozen=True)
class Spent:
    """What a search has used of each limit; None: cannot be told.

    Args:
        trials: configurations that became trials, the baseline among them.
        minutes: wall time that a driver held the run.
        trainings: distinct long trainings, the baseline's among them.
        kwh, money: see `bill`.
        baseline: it is among the trials.
    """

    trials: int
    minutes: float
    trainings: int
    kwh: float | None
    money: float | None
    baseline: bool = True


@dataclass(frozen=True)
class Budget:
    """Limits of a search; None: no limit. Whichever is reached first ends it.

    Args:
        trials: how many configurations may become trials, the baseline among them.
        minutes: wall time.
        trainings: long trainings; when they are made, only what needs no new one is admitted.
        kwh: energy of the search.
        money: in the tariff's currency.
    """

    trials: int | None = None
    minutes: float | None = None
    trainings: int | None = None
    kwh: float | None = None
    money: float | None = None

    def seconds_a_trial(self, workers: int) -> float | None:
        """Seconds of work for one trial; 0 where trials have no bound, None where only they have.

        Args:
            workers: that work at once.
        """
        if self.trials is None:
            return 0.0
        if self.minutes is not None:
            return 60.0 * self.minutes * workers / self.trials
        return None if self.kwh is None and self.money is None else 0.0

    def over(self, spent: Spent) -> str | None:
        """Why nothing at all may be asked any more; None: something may.

        Trials and trainings are not judged here: when they are used up, what has begun goes on.
        """
        for name in ("minutes", "kwh", "money"):
            limit, used = getattr(self, name), getattr(spent, name)
            if limit is not None and used is not None and used >= limit:
                asked = ""
                if self.trials:
                    begun = spent.trials - spent.baseline
                    asked = f" after {begun} of {counted(self.trials, spent.baseline)}"
                return f"the budget of {limit:g} {IN_WORDS[name]} is spent ({used:.3g}){asked}"
        return None

    def full(self, spent: Spent) -> str | None:
        """Why no further configuration may become a trial; None: one may."""
        if self.trials is not None and spent.trials >= self.trials:
            return f"all of the budget was begun: {counted(self.trials, spent.baseline)}"
        return None


def counted(trials: int, baseline: bool = True) -> str:
    """So many trials in the words in which all counts are told: the baseline apart.

    Args:
        trials: as a budget counts them. baseline: it is among them.

    >>> counted(45), counted(2), counted(1), counted(1, baseline=False)
    ('44 trials and the baseline', '1 trial and the baseline', 'the baseline', '1 trial')
    """
    searched = max(trials - baseline, 0)
    words = f"{searched} trial{'' if searched == 1 else 's'}"
    if not baseline:
        return words
    return f"{words} and the baseline" if searched else "the baseline"


def trainings_of(record: Record) -> frozenset[str]:
    """Names of the long trainings that a record rests on, whoever paid for them."""
    return frozenset(stage.training for stage in record.stages if stage.training is not None)


def trainings_used(
    records: Iterable[Record], trainings: Callable[[Configuration], Sequence[str]]
) -> frozenset[str]:
    """Names of the long trainings that a search has made, begun or tried.

    A trial that failed may have paid for its trainings: only an illegal one surely did not.

    Args:
        records: every trial.
        trainings: names of those that a configuration rests on.
    """
    used: set[str] = set()
    for record in records:
        used |= trainings_of(record)
        if record.failure is None or record.failure.kind != "illegal":
            used.update(trainings(record.configuration))
    return frozenset(used)


def bill(records: Iterable[Record], spent_seconds: float, tariff: Tariff) -> dict[str, Measurement]:
    """The search's own cost so far.

    Args:
        records: trials and confirmations.
        spent_seconds: wall time that drivers held the run.
        tariff: what an hour of a worker draws and costs.

    Returns:
        `hours` (wall), `worker_hours` (work, all workers), `kwh`, `kg_co2e`, `money`.
        kWh = hours x W x PUE / 1000 (arXiv 2302.13971), kg = kWh x kg per kWh (arXiv 2104.10350).
    """
    hours = spent_seconds / SECONDS_PER_HOUR
    worker_hours = sum(record.seconds for record in records) / SECONDS_PER_HOUR
    kwh = energy(worker_hours, tariff)
    return {
        "hours": Measurement(hours, "hour", "measured"),
        "worker_hours": Measurement(worker_hours, "hour", "measured"),
        "kwh": kwh,
        "kg_co2e": _carbon(kwh, tariff),
        "money": _money(hours, worker_hours, kwh, tariff),
    }


def spent(
    records: Iterable[Record],
    spent_seconds: float,
    trainings: int,
    tariff: Tariff,
    confirmations: Iterable[Record] = (),
) -> Spent:
    """What a search has used of its budget.

    Args:
        records: every trial.
        spent_seconds: wall time that drivers held the run.
        trainings: distinct long trainings, those under way among them.
        tariff: for energy and money.
        confirmations: no trials, but paid for.
    """
    records = list(records)
    costs = bill([*records, *confirmations], spent_seconds, tariff)
    return Spent(
        trials=len(records),
        minutes=spent_seconds / 60.0,
        trainings=trainings,
        kwh=costs["kwh"].value,
        money=costs["money"].value,
        baseline=any(record.purpose == "baseline" for record in records),
    )


def energy(worker_hours: float, tariff: Tariff) -> Measurement:
    """What so many hours of busy workers draw, machine side and site together, in kWh."""
    if tariff.watts is None:
        return missing("kWh", "the draw of a worker is not known")
    kwh = worker_hours * tariff.watts * tariff.pue / 1000.0
    conditions = (("pue", tariff.pue), ("sources", tariff.sources), ("watts", tariff.watts))
    return Measurement(kwh, "kWh", "modelled", conditions=conditions)


def _carbon(kwh: Measurement, tariff: Tariff) -> Measurement:
    if kwh.value is None:
        return missing("kg", kwh.reason or "the energy is not known")
    if tariff.kg_per_kwh is None:
        return missing("kg", "the carbon intensity of the electricity is not known")
    conditions = (("kg_per_kwh", tariff.kg_per_kwh), *kwh.conditions)
    return Measurement(kwh.value * tariff.kg_per_kwh, "kg", "modelled", conditions=conditions)


def _money(hours: float, worker_hours: float, kwh: Measurement, tariff: Tariff) -> Measurement:
    whole = tariff.instance_per_hour
    rate, paid_hours = (tariff.price_per_hour, worker_hours) if whole is None else (whole, hours)
    if rate is None and tariff.price_per_kwh is None:
        return missing(tariff.currency, "no price is known")
    if tariff.price_per_kwh is not None and kwh.value is None:
        return missing(tariff.currency, f"the electricity cannot be priced: {kwh.reason}")
    energy = (tariff.price_per_kwh or 0.0) * (kwh.value or 0.0)
    money = paid_hours * (rate or 0.0) + energy
    prices = (
        ("price_per_hour", rate),
        ("price_per_kwh", tariff.price_per_kwh),
        ("sources", tariff.sources),
    )
    return Measurement(money, tariff.currency, "modelled", conditions=prices)
