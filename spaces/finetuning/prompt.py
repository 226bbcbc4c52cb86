"""Fine-tuning: soft tokens before the text (prompt tuning), in peft's table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from ..configuration import Settings
from ..hyperparameter import Hyperparameter
from ..paper import Paper
from ..profile import Adapter, Profile, Weight
from ..steps import Step
from ..technique import Targets
from .adapters import adapted, beside
from .selection import learning_rate
from .virtual_tokens import PROMPT, home, tokens_knob, too_long

if TYPE_CHECKING:
    from torch import nn


class Prompt:
    """Trains n soft tokens before the embedded text of the frozen model; a classifier trains too.

    They begin as words drawn from the vocabulary, and are positions 0 to n - 1; the text follows.
    The head never answers for them: an encoder classifies by the text's own first token (peft by
    the first soft one), language models answer for the text alone. They cannot be merged: every
    layer computes n positions more, a cache holds them.
    """

    name: ClassVar[str] = "prompt"
    version: ClassVar[int] = 1
    moves: ClassVar[frozenset[str]] = frozenset(
        {"parameters", "trainable", "flops", "bytes", "outputs", "recipe"}
    )
    source: ClassVar[str] = "arXiv 2104.08691"

    def hyperparameters(self, paper: Paper) -> Sequence[Hyperparameter]:
        """How many soft tokens, and the learning rate."""
        return (tokens_knob(paper, 20), learning_rate(1e-2))

    def objections(self, paper: Paper, settings: Settings, targets: Targets) -> list[str]:
        """No room for the text behind them."""
        return too_long(paper, settings, targets)

    def steps(self, paper: Paper, settings: Settings) -> Sequence[Step]:
        """Attach, Select, Train."""
        return adapted(self, settings, beside(f"{PROMPT}.embedding.weight"))

    def adapter(self, profile: Profile, settings: Settings) -> Adapter:
        """One table."""
        return soft_tokens(profile, int(settings["tokens"]))

    def attach(self, module: nn.Module, adapter: Adapter) -> nn.Module:
        """The module with the table in it, in place."""
        from .virtual_layers import prompted

        return prompted(module, adapter)

    def begin(self, module: nn.Module, adapter: Adapter) -> None:
        """Draws the words from torch's random state."""
        from .virtual_layers import begin_prompt

        begin_prompt(module)


def soft_tokens(profile: Profile, tokens: int) -> Adapter:
    """So many soft tokens as a plain table."""
    name = f"{home(profile, PROMPT)}.embedding.weight"
    table = Weight(name, (tokens, profile.width), "adapter", "table")
    return Adapter(Prompt.name, (("tokens", tokens),), (), (table,), tokens=tokens)
