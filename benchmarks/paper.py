"""How fast candidates are looked at on paper: everything that is known before one costs anything.

    python -m paretune.benchmarks.paper --model minilm --count 3000

A whole look: draw it from the space, ask for objections, fold all its steps, name its trainings,
take its features and its exact figures (parameters, FLOPs, bytes). One process, one thread, from an
empty memory; the slots that a study names with every method and every knob that they have.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
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


def rate(profile: Profile, count: int, seed: int = 0) -> dict[str, Any]:
    """Candidates a second, and how many of those drawn were legal.

    Args:
        profile: the given model. count: candidates to draw. seed: of the draws.
    """
    recipe = Recipe(trainable=("*",), train_items=1200, epochs=2)
    digests = dict.fromkeys(("model", "train", "calibration"), "0")
    subject = Subject(Given(), profile, recipe, digests, rungs=(0.25, 1.0))
    lookup = Lookup(subject)
    space = Space.of({slot: {} for slot in SLOTS}, subject.paper)
    figures = [on_paper(metrics()[name], Workload()) for name in FIGURES]
    rng, legal = np.random.default_rng(seed), 0
    start = time.perf_counter()
    for _ in range(count):
        found = draw(space.suggest, uniform(rng)).configuration
        assert isinstance(found, Configuration)
        paper = lookup.paper(found)
        if paper is None:
            continue
        legal += 1
        lookup.trainings(found)
        paper_features(found, paper)
        for figure in figures:
            figure(paper)
    seconds = time.perf_counter() - start
    return {"candidates": count, "legal": legal, "seconds": seconds, "a_second": count / seconds}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m paretune.benchmarks.paper")
    parser.add_argument("--model", default="minilm", help=", ".join(MODELS))
    parser.add_argument("--count", type=int, default=3000, help="candidates to draw")
    parser.add_argument("--json", action="store_true", help="JSON on standard output")
    asked = parser.parse_args(arguments)
    try:
        found = rate(profile_named(asked.model), asked.count)
    except ParetuneError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    if asked.json:
        print(json.dumps(found))
    else:
        share = found["legal"] / found["candidates"]
        print(f"{found['a_second']:.0f} candidates a second, {share:.0%} of them legal")
    return 0


if __name__ == "__main__":
    sys.exit(main())
