"""How fast candidates are looked at on paper: everything that is known before one costs anything.

    python -m paretune.benchmarks.paper --model minilm --count 1000 --repeats 5

A whole look: draw it from the space, ask for objections, fold all its steps, name its trainings,
take its features and its exact figures (parameters, FLOPs, bytes). One process, one thread; every
slot with every method and every knob that it has. Runs follow each other with other draws: the
first begins with empty memories. The figure is the best run's, in seconds of the processor, which
other work on the machine disturbs least. What is refused is counted too, by its first objection.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np

from ..errors import ParetuneError, UnknownName
from ..evaluators.catalogue import metrics
from ..search.foresight import on_paper
from ..search.rules import Lookup
from ..search.samplers.pool import draw, uniform
from ..spaces.candidate import Candidate
from ..spaces.configuration import SLOTS, Configuration, Settings
from ..spaces.families import family_of
from ..spaces.lower import Subject
from ..spaces.paper import Paper, Workload
from ..spaces.paper_features import paper_features
from ..spaces.profile import Head, Profile
from ..spaces.recipe import Recipe
from ..spaces.space import Space
from ..spaces.steps import Bench, Phase, Reads

FIGURES: Final = ("parameters", "flops", "payload_bytes")
SHOWN: Final = 20
"""Reasons of refusals in the table; all are in the JSON."""

_NUMBER: Final = re.compile(r"\d+(\.\d+)?(e-?\d+)?")

_GPT2: Final = {"n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024}
MODELS: Final[Mapping[str, tuple[str, dict[str, Any], Head]]] = {
    "minilm": (
        "bert",
        {
            "hidden_size": 384,
            "num_hidden_layers": 6,
            "num_attention_heads": 12,
            "intermediate_size": 1536,
            "vocab_size": 30522,
            "max_position_embeddings": 512,
            "type_vocab_size": 2,
        },
        Head("classification", 10),
    ),
    "gpt2": (
        "gpt2",
        {**_GPT2, "vocab_size": 50257},
        Head("language-modelling", 50257, tied=True),
    ),
}
"""Sizes of published models: family, config.json, head."""


@dataclass(frozen=True)
class Given:
    """In the place of Load: a model without files."""

    name: ClassVar[str] = "given"
    version: ClassVar[int] = 1
    phase: ClassVar[Phase] = Phase.LOAD
    draws: ClassVar[bool] = False
    reads: ClassVar[frozenset[Reads]] = frozenset()

    @property
    def settings(self) -> Settings:
        """None."""
        return {}

    def on_paper(self, paper: Paper) -> Paper:
        """The paper as it came."""
        return paper

    def apply(self, candidate: Candidate | None, bench: Bench, seed: int) -> Candidate:
        """Never: there are no weights."""
        raise ParetuneError("a model on paper cannot be made")


def profile_named(name: str) -> Profile:
    """One of `MODELS`.

    Raises:
        UnknownName: no such model.
    """
    if name not in MODELS:
        raise UnknownName("model", name, MODELS)
    family, config, head = MODELS[name]
    return family_of(family).profile(config, head)


@dataclass(frozen=True)
class Run:
    """One run of the benchmark.

    Args:
        candidates: drawn. legal: of these.
        seconds, cpu_seconds: on the wall's clock, and of this process.
        refusals: how many were refused for which reason, numbers left out.
    """

    candidates: int
    legal: int
    seconds: float
    cpu_seconds: float
    refusals: Counter[str]


def runs(profile: Profile, count: int, repeats: int = 1, seed: int = 0) -> list[Run]:
    """Looks at candidates of a model, in several runs.

    Args:
        profile: the given model. count: candidates to draw in each run.
        repeats: runs. seed: of the first one's draws; each has its own.
    """
    recipe = Recipe(trainable=("*",), train_items=1200, epochs=2)
    digests = dict.fromkeys(("model", "train", "calibration"), "0")
    subject = Subject(Given(), profile, recipe, digests, rungs=(0.25, 1.0))
    lookup = Lookup(subject)
    space = Space.of({slot: {} for slot in SLOTS}, subject.paper)
    return [_run(lookup, space, count, seed + repeat) for repeat in range(repeats)]


def _run(lookup: Lookup, space: Space, count: int, seed: int) -> Run:
    figures = [on_paper(metrics()[name], Workload()) for name in FIGURES]
    choose, refusals = uniform(np.random.default_rng(seed)), Counter[str]()
    start, cpu_start = time.perf_counter(), time.process_time()
    for _ in range(count):
        found = draw(space.suggest, choose).configuration
        assert isinstance(found, Configuration)
        paper = lookup.paper(found)
        if paper is None:
            refusals[lookup.objections(found)[0]] += 1
            continue
        lookup.trainings(found)
        paper_features(found, paper)
        for figure in figures:
            figure(paper)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    legal = count - refusals.total()
    return Run(count, legal, seconds, cpu_seconds, by_reason(refusals))


def by_reason(objections: Mapping[str, int]) -> Counter[str]:
    """Objections counted by reason: without their numbers and without what to do instead.

    >>> by_reason({"structure.ffn: keep 1.0 removes 0 of 8; choose less": 2})
    Counter({'structure.ffn: keep # removes # of #': 2})
    """
    found = Counter[str]()
    for objection, times in objections.items():
        found[_NUMBER.sub("#", objection.partition(";")[0])] += times
    return found


def summary(found: Sequence[Run]) -> dict[str, Any]:
    """What is reported of some runs, JSON-ready; refusals of all, most frequent first."""
    drawn = sum(run.candidates for run in found)
    refusals = sum((run.refusals for run in found), Counter[str]())
    return {
        "candidates": drawn,
        "legal": sum(run.legal for run in found),
        "a_cpu_second": max(run.candidates / run.cpu_seconds for run in found),
        "a_second": max(run.candidates / run.seconds for run in found),
        "runs": [
            {
                "a_cpu_second": run.candidates / run.cpu_seconds,
                "a_second": run.candidates / run.seconds,
            }
            for run in found
        ],
        "refusals": dict(refusals.most_common()),
    }


def table(told: Mapping[str, Any]) -> str:
    """A summary in words: the rate, and the most frequent reasons of refusals."""
    drawn, legal, refusals = told["candidates"], told["legal"], told["refusals"]
    lines = [
        f"{told['a_cpu_second']:.0f} candidates a second of the processor, "
        f"{told['a_second']:.0f} on the clock; {legal / drawn:.0%} of {drawn} legal"
    ]
    lines += [f"{times / drawn:6.1%}  {reason}" for reason, times in list(refusals.items())[:SHOWN]]
    rest = sum(list(refusals.values())[SHOWN:])
    return "\n".join([*lines, f"{rest / drawn:6.1%}  other reasons"] if rest else lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m paretune.benchmarks.paper")
    parser.add_argument("--model", default="minilm", help=", ".join(MODELS))
    parser.add_argument("--count", type=int, default=1000, help="candidates to draw in a run")
    parser.add_argument("--repeats", type=int, default=5, help="runs, of which the best counts")
    parser.add_argument("--json", action="store_true", help="JSON on standard output")
    asked = parser.parse_args(arguments)
    try:
        found = summary(runs(profile_named(asked.model), asked.count, asked.repeats))
    except ParetuneError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(json.dumps(found) if asked.json else table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
