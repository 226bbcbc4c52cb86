"""A small search without torch: a space of 48 configurations and exact objectives.

Tests put this folder on `sys.path` and import it, so that worker processes can do the same.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

from optuna.samplers import RandomSampler
from paretune.errors import StepFailed
from paretune.evaluators.measurement import Measurement
from paretune.evaluators.metric import StageCost
from paretune.evaluators.waits import WAITS
from paretune.search.budget import Budget
from paretune.search.driver import Rules
from paretune.search.records import Failure, Record, Rung
from paretune.search.run import Header, ObjectiveRow
from paretune.spaces.configuration import Choice, Configuration

BASELINE = Configuration.of(finetuning=Choice.of("full"))


def header(name="toy", **study):
    objectives = (
        ObjectiveRow("error", "fraction", "minimize"),
        ObjectiveRow("bytes", "byte", "minimize"),
    )
    metrics = {row.name: {"unit": row.unit, "direction": row.direction} for row in objectives}
    return Header(name, {"seed": 0, "budget": {"trials": 8}, **study}, objectives, metrics)


def suggest(trial):
    choices = {}
    if trial.suggest_categorical("finetuning", ["none", "lora"]) == "lora":
        choices["finetuning"] = Choice.of(
            "lora", rank=trial.suggest_int("finetuning.lora.rank", 1, 15)
        )
    formats = ["fp32", "int8", "int4"]
    choices["precision"] = Choice.of(trial.suggest_categorical("precision", formats))
    return Configuration.of(**choices)


def parameters(configuration):
    lora, precision = configuration.get("finetuning"), configuration.get("precision")
    values = {"finetuning": "lora" if lora else "none", "precision": precision.method}
    if lora:
        values["finetuning.lora.rank"] = dict(lora.settings)["rank"]
    return values


def trainings(configuration):
    choice = configuration.get("finetuning")
    return () if choice is None else (choice_name(choice),)


def choice_name(choice):
    return "-".join([choice.method, *(f"{k}{v}" for k, v in choice.settings)])


def figures(configuration, share=1.0):
    """Exact objectives: rank lowers the error, few bits raise it and save bytes."""
    lora, precision = configuration.get("finetuning"), configuration.get("precision")
    rank = dict(lora.settings).get("rank", 16) if lora else 0
    bits = {"fp32": 32, "int8": 8, "int4": 4}[precision.method if precision else "fp32"]
    error = 0.5 / (1 + rank) + 0.8 / bits + 0.1 * (1 - share)
    return {
        "error": Measurement(error, "fraction", "exact"),
        "bytes": Measurement(1000.0 * bits + 10 * rank, "byte", "exact"),
    }


def work(ask, prior, report, rungs=1):
    """The exact work of one ask; one second a rung, ten for a training."""
    report("judge", 1, 1)
    before = prior or Record(ask.number, ask.configuration, "running", ask.seed, ask.purpose)
    names = trainings(ask.configuration)
    stages = tuple(StageCost(f"key-{n}", "train.finetune", 10.0, True, False, n) for n in names)
    share = 1.0 if ask.rung == rungs - 1 else 0.25
    rung = Rung(ask.rung, figures(ask.configuration, share), 1.0)
    seconds = before.seconds + 1.0 + 10.0 * len(stages)
    return replace(before, rungs=(*before.rungs, rung), stages=stages, seconds=seconds)


def work_of_two_rungs(ask, prior, report):
    return work(ask, prior, report, rungs=2)


def troubled(ask, prior, report):
    """Every way to fail, by rank."""
    choice = ask.configuration.get("finetuning")
    rank = dict(choice.settings).get("rank", 0) if choice else 0
    if rank == 1 and ask.attempt == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    if rank == 2:
        time.sleep(600)
    if rank == 3:
        held = bytearray(os.urandom(1024)) * 1024 * 400
        time.sleep(600 + len(held))
    if rank == 4:
        raise StepFailed("diverged", "the loss is not a number")
    if rank == 5:
        raise ValueError("a mistake")
    return work(ask, prior, report)


def waits_a_minute(ask, prior, report):
    """Work that has waited a minute for others, and then does not end."""
    WAITS.cells[0] += 60.0
    report("waited", 0, 0)
    time.sleep(600)
    return work(ask, prior, report)


def full_disk(ask, prior, report):
    """Work that cannot be written from the third trial on."""
    if ask.number == 2:
        raise OSError(errno.ENOSPC, "No space left on device", "stage")
    return work(ask, prior, report)


def sampler(seed):
    return RandomSampler(seed=seed)


def rules(**changes):
    settings = {
        "suggest": suggest,
        "make_sampler": sampler,
        "baseline": BASELINE,
        "parameters": parameters,
        "trainings": trainings,
        "budget": Budget(trials=8),
        "initial": 3,
        **changes,
    }
    return Rules(**settings)


def lora(rank, precision="fp32"):
    tuned = Choice.of("lora", rank=rank)
    return Configuration.of(finetuning=tuned, precision=Choice.of(precision))


def failed(record, kind):
    failure = Failure(kind, "as the test wants it")
    return replace(record, rungs=record.rungs[:-1], failure=failure)


def plain(record):
    """A record without what differs from one execution to the next."""
    return replace(record, started=None, finished=None).to_json()


def finish(folder: Path, rules_=None, work_=work, **header_):
    """A whole search in this process; its records, without times."""
    from paretune.search.driver import Driver
    from paretune.search.engines.local import run_here
    from paretune.search.storage import StudyStorage

    storage = StudyStorage.open(folder, header(**header_))
    try:
        driver = Driver(storage, rules_ or rules())
        done = run_here(driver, work_)
        driver.end()
        return done, [plain(record) for _, record in sorted(storage.records.items())]
    finally:
        storage.close()
