"""A search of three trainings of very different cost, with forty cheap compressions of each.

Objectives and seconds are known in closed form; the clock is virtual.
"""

from __future__ import annotations

import numpy as np
import optuna
from paretune.evaluators.measurement import Measurement
from paretune.evaluators.metric import StageCost
from paretune.search.pareto import hypervolume
from paretune.search.records import Record, Rung
from paretune.search.samplers.cost import Job, Piece
from paretune.search.samplers.greybox import GreyBoxSampler
from paretune.search.samplers.problem import Problem
from paretune.spaces.configuration import Choice, Configuration

TRAININGS = {"plain": 60.0, "adapters": 80.0, "wide": 400.0}
"""Seconds of each; the baseline is plain."""

LEARNT = {"plain": (0.2, 0.25), "adapters": (0.205, 0.16), "wide": (0.2, 0.13)}
"""Error of each, and what cutting everything adds to it: of all there is, plain reaches 97 %."""

FLOPS_A_SECOND = 1e9
JUDGING = 6.0
KEEPS = 10
BITS = (32, 16, 8, 4)
REFERENCE = np.array([0.32, 1.1])
BASELINE = Configuration.of(finetuning=Choice.of("plain"))


def suggest(trial):
    """One of 120."""
    tuned = trial.suggest_categorical("finetuning", list(TRAININGS))
    keep = trial.suggest_int("structure.keep", 1, KEEPS)
    bits = trial.suggest_categorical("precision.bits", list(BITS))
    return made(tuned, keep, bits)


def made(tuned, keep, bits):
    return Configuration.of(
        finetuning=Choice.of(tuned),
        structure=Choice.of("cut", keep=keep),
        precision=Choice.of("rounded", bits=bits),
    )


def losses(configuration):
    """Error and size in units of the baseline's: `(2,)`."""
    choices = {slot: choice for slot, choice in configuration}
    cut = choices.get("structure")
    keep = dict(cut.settings)["keep"] / KEEPS if cut else 1.0
    bits = dict(choices["precision"].settings)["bits"] if cut else 32
    learnt, harm = LEARNT[choices["finetuning"].method]
    error = learnt + harm * (1.0 - keep) ** 2 + 0.3 * (2.0 / bits) ** 2
    return np.array([error, keep * bits / 32])


def job(configuration, rung):
    """One training; compressions share nothing."""
    name = configuration.get("finetuning").method
    return Job((Piece(name, "train", TRAININGS[name] * FLOPS_A_SECOND),), "eager", 0)


def told(number, configuration, before, purpose="search"):
    """The record of a trial behind others, whose stages it finds made."""
    name = configuration.get("finetuning").method
    cached = any(stage.key == name for record in before for stage in record.stages)
    stage = StageCost(name, "train", TRAININGS[name], True, cached, name)
    seconds = JUDGING + (0.0 if cached else TRAININGS[name])
    figures = {
        metric: Measurement(float(value), "dimensionless", "measured")
        for metric, value in zip(("error", "size"), losses(configuration), strict=True)
    }
    return Record(
        number, configuration, "final", 0, purpose, (Rung(0, figures, seconds),),
        stages=(stage,), seconds=seconds,
    )  # fmt: skip


def whole():
    """Hypervolume of everything."""
    every = [made(t, k, b) for t in TRAININGS for k in range(1, KEEPS + 1) for b in BITS]
    return volume(every)


def volume(configurations):
    return hypervolume(np.array([losses(c) for c in configurations]), REFERENCE)


def search(seed, goal, job, most=60, pool=150):
    """Records of one search, until it has so much hypervolume or so many trials."""
    records = []
    problem = Problem(
        suggest, objectives=("error", "size"), history=lambda: records, job=job,
        reference=lambda: REFERENCE,
    )  # fmt: skip
    sampler = GreyBoxSampler(problem, seed, pool=pool)
    study = optuna.create_study(directions=["minimize"] * 2, sampler=sampler)
    study.add_trial(optuna.create_trial(state=optuna.trial.TrialState.FAIL))
    records.append(told(0, BASELINE, [], "baseline"))
    while len(records) < most and volume([r.configuration for r in records]) < goal:
        records.append(told(len(records), suggest(study.ask()), records))
    return records


def spent(records):
    return sum(record.seconds for record in records)
