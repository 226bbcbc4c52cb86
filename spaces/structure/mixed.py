"""Structure: words, heads, neurons and blocks removed together, each with its own share.

What one kind should lose depends on what the others lost, so that the joint choice is a choice of
its own. Words go first, so that the rest is judged by the model as it will read; then blocks, then
heads, then neurons.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from ..configuration import Settings
from ..hyperparameter import Hyperparameter, OneOf
from ..paper import Paper
from ..steps import Step
from ..technique import Targets
from . import ffn, heads
from .counts import (
    IMPORTANCE,
    SLOPE,
    WHEN,
    keep_knob,
    kept_of,
    phase_of,
    refusals,
    unanswerable,
)
from .ffn import MULTIPLE, neurons
from .heads import groups
from .layers import CHOICE, drop_step, unequal_refusals
from .vocabulary import WORD_MULTIPLE, PruneWords, word_refusals, words_knob


class Mixed:
    """Heads, neurons and blocks removed together, and rows of the table of words."""

    name: ClassVar[str] = "mixed"
    version: ClassVar[int] = 2
    moves: ClassVar[frozenset[str]] = frozenset({"parameters", "flops", "bytes", "outputs"})
    source: ClassVar[str] = "arXiv 2305.11627, 1905.10650, 1906.10771, 2403.03853, 2010.05609"

    def hyperparameters(self, paper: Paper) -> Sequence[Hyperparameter]:
        """A share kept of each kind (1: all), when, how units are judged, more at which end."""
        return (
            *(_share(kind, paper) for kind in _MULTIPLES),
            WHEN,
            IMPORTANCE,
            SLOPE,
            replace(CHOICE, name="layer_importance"),
        )

    def objections(self, paper: Paper, settings: Settings, targets: Targets) -> list[str]:
        """Fewer than two kinds lose something, or one of them may not."""
        totals = _totals(paper)
        losing = [kind for kind in _MULTIPLES if _loses(kind, totals[kind], settings)]
        if len(losing) < 2:
            alone = losing[0] if losing else "none"
            return [f"fewer than two kinds lose something; choose structure {alone}"]
        found: dict[str, None] = {}
        for kind in losing:
            keep = _keep(kind, settings)
            found |= dict.fromkeys(refusals(paper, kind, totals[kind], keep, _MULTIPLES[kind]))
        if "vocabulary" in losing:
            found |= dict.fromkeys(word_refusals(paper, _keep("vocabulary", settings)))
        if "layers" in losing:
            found |= dict.fromkeys(unequal_refusals(paper, settings["layer_importance"]))
            found |= dict.fromkeys(unanswerable(paper, settings, "layer_importance", "similarity"))
        if {"heads", "ffn"} & set(losing):
            found |= dict.fromkeys(unanswerable(paper, settings))
        return [*found]

    def canonical(self, settings: Settings) -> Settings:
        """What judges units that all stay is written like its default."""
        told = dict(settings)
        if float(told["heads_keep"]) == float(told["ffn_keep"]) == 1:
            told |= {IMPORTANCE.name: IMPORTANCE.default, SLOPE.name: SLOPE.default}
        if float(told["layers_keep"]) == 1:
            told["layer_importance"] = CHOICE.default
        return told

    def steps(self, paper: Paper, settings: Settings) -> Sequence[Step]:
        """One Change per kind that loses something."""
        steps: list[Step] = []
        if _keep("vocabulary", settings) < 1:
            phase = phase_of(settings["when"])
            steps.append(PruneWords(_keep("vocabulary", settings), phase))
        if float(settings["layers_keep"]) < 1:
            place = settings["layer_importance"]
            steps.append(drop_step(settings["layers_keep"], place, settings["when"]))
        if float(settings["heads_keep"]) < 1:
            steps.append(heads.prune_step(settings["heads_keep"], settings))
        if float(settings["ffn_keep"]) < 1:
            steps.append(ffn.prune_step(settings["ffn_keep"], settings))
        return steps


_MULTIPLES = {"vocabulary": WORD_MULTIPLE, "layers": 1, "heads": 1, "ffn": MULTIPLE}


def _totals(paper: Paper) -> dict[str, list[int]]:
    profile = paper.profile
    return {
        "vocabulary": [profile.vocabulary],
        "layers": [len(profile.layers)],
        "heads": groups(profile),
        "ffn": neurons(profile),
    }


def _share(kind: str, paper: Paper) -> OneOf:
    name = f"{kind}_keep"
    if kind != "vocabulary":
        return keep_knob(_totals(paper)[kind], _MULTIPLES[kind], name=name, whole=True)
    # Unless asked for, no words go: language models need them all.
    if paper.profile.head.kind == "language-modelling":
        return OneOf(name, (1.0,), 1.0, ordered=True)
    return replace(words_knob(paper, name, whole=True), default=1.0)


def _keep(kind: str, settings: Settings) -> float:
    """The share; what was searched before words could go has none for them: all stay."""
    return float(settings.get(f"{kind}_keep", 1.0))


def _loses(kind: str, totals: Sequence[int], settings: Settings) -> bool:
    keep = _keep(kind, settings)
    return any(kept_of(total, keep, _MULTIPLES[kind]) != total for total in totals)
