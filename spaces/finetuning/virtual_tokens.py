"""Virtual tokens on paper: what prompt tuning, P-tuning and prefix tuning share.

They stand before the text and take its first positions, as in peft: the text begins at position n.
Whatever makes them while they train is folded into plain tables afterwards.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Final, Protocol

from ..configuration import Settings
from ..families import family_of
from ..hyperparameter import Integer
from ..paper import Paper
from ..profile import Adapter, Profile
from ..steps import Bench, Phase, Reads
from ..technique import Targets

if TYPE_CHECKING:
    from torch import nn

    from ..candidate import Candidate

PROMPT: Final = "prompt"
PREFIX: Final = "prefix"
"""Where they hang below the backbone: soft tokens, and keys and values."""

_MOST: Final = 128


def tokens_knob(paper: Paper, default: int) -> Integer:
    """How many; at least half of the positions are left to the text."""
    most = max(1, min(_MOST, family_of(paper.profile.family).longest_text(paper.profile) // 2))
    return Integer("tokens", 1, most, min(default, most), log=True)


def too_long(paper: Paper, settings: Settings, targets: Targets) -> list[str]:
    """Why the longest text has no room behind them."""
    longest = family_of(paper.profile.family).longest_text(paper.profile)
    tokens, text = int(settings["tokens"]), max(targets.tokens, 1)
    if tokens + text <= longest:
        return []
    room = longest - text
    advice = f"choose tokens <= {room}" if room > 0 else "choose a shorter text, or lora"
    return [
        f"{tokens} virtual tokens and a text of {text} exceed the {longest} positions of this "
        f"{paper.profile.family} model; {advice}"
    ]


def home(profile: Profile, name: str) -> str:
    """Path of the module that holds them."""
    return f"{family_of(profile.family).base}.{name}"


class Folds(Protocol):
    """What Fold asks of a technique."""

    @property
    def name(self) -> str:
        """The kind of its adapters while they train."""
        ...

    def folded(self, profile: Profile, adapter: Adapter) -> Adapter:
        """The adapter that stays, on paper."""
        ...

    def fold(self, module: nn.Module) -> nn.Module:
        """The module with plain tables instead of what made them, in place."""
        ...


@dataclass(frozen=True)
class Fold:
    """Puts what an encoder makes, always the same, in the encoder's place: tables, to the bit.

    Args:
        technique: whose.
    """

    technique: Folds
    name: ClassVar[str] = "adapter.fold"
    version: ClassVar[int] = 1
    phase: ClassVar[Phase] = Phase.MERGE
    draws: ClassVar[bool] = False
    reads: ClassVar[frozenset[Reads]] = frozenset()

    @property
    def settings(self) -> Settings:
        """The kind."""
        return {"kind": self.technique.name}

    def on_paper(self, paper: Paper) -> Paper:
        """The profile with tables alone."""
        kept = tuple(
            self.technique.folded(paper.profile, adapter)
            if adapter.kind == self.technique.name
            else adapter
            for adapter in paper.profile.adapters
        )
        return replace(paper, profile=replace(paper.profile, adapters=kept))

    def apply(self, candidate: Candidate | None, bench: Bench, seed: int) -> Candidate:
        """The folded candidate."""
        import torch

        assert candidate is not None  # only the step that loads starts from nothing
        paper = self.on_paper(candidate.paper)
        with torch.random.fork_rng(devices=[]):  # torch's tables draw values that are filled
            module = self.technique.fold(copy.deepcopy(candidate.module))
        return replace(candidate, module=module.eval(), paper=paper, train_state=None)
