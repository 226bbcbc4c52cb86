"""Fine-tuning: soft tokens made by a small network (P-tuning), through peft's encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from ..configuration import Settings
from ..hyperparameter import Hyperparameter, Integer
from ..paper import Paper
from ..profile import Adapter, Product, Profile, Weight
from ..steps import Step
from ..technique import Targets
from .adapters import adapted, beside
from .prompt import soft_tokens
from .selection import learning_rate
from .virtual_tokens import PROMPT, Fold, home, tokens_knob, too_long

if TYPE_CHECKING:
    from torch import nn


class PTuning:
    """Trains n soft tokens through an MLP of three layers, which makes them from n vectors.

    What it makes depends on nothing: after training it is folded, exactly, into the n soft tokens
    of `prompt`, and costs nothing more. The MLP is the paper's alternative to its LSTM, whose FLOPs
    torch does not count. Otherwise as `prompt`.
    """

    name: ClassVar[str] = "p_tuning"
    version: ClassVar[int] = 1
    moves: ClassVar[frozenset[str]] = frozenset(
        {"parameters", "trainable", "flops", "bytes", "outputs", "recipe"}
    )
    source: ClassVar[str] = "arXiv 2103.10385"

    def hyperparameters(self, paper: Paper) -> Sequence[Hyperparameter]:
        """How many soft tokens, width of the MLP, and the learning rate."""
        width = Integer("encoder_width", 32, 1024, 128, log=True)
        return (tokens_knob(paper, 20), width, learning_rate(1e-3))

    def objections(self, paper: Paper, settings: Settings, targets: Targets) -> list[str]:
        """No room for the text behind them."""
        return too_long(paper, settings, targets)

    def steps(self, paper: Paper, settings: Settings) -> Sequence[Step]:
        """Attach, Select, Train, Fold."""
        return (*adapted(self, settings, beside(f"{PROMPT}.*")), Fold(self))

    def adapter(self, profile: Profile, settings: Settings) -> Adapter:
        """The vectors and the MLP, which is computed once in a pass."""
        tokens, inner, width = (
            int(settings["tokens"]),
            int(settings["encoder_width"]),
            profile.width,
        )
        path = home(profile, PROMPT)
        weights = [Weight(f"{path}.embedding.weight", (tokens, width), "adapter", "table")]
        products = []
        for place, shape in ((0, (inner, width)), (2, (inner, inner)), (4, (width, inner))):
            name = f"{path}.mlp_head.{place}"
            weights.append(Weight(f"{name}.weight", shape, "adapter", "factor"))
            weights.append(Weight(f"{name}.bias", shape[:1], "adapter", "vector"))
            made = tokens * shape[0] * shape[1]
            products.append(Product(path, None, made, once=True, gradients=2))
        told = (("encoder_width", inner), ("tokens", tokens))
        return Adapter(self.name, told, (), tuple(weights), tuple(products), tokens=tokens)

    def attach(self, module: nn.Module, adapter: Adapter) -> nn.Module:
        """The module with vectors and MLP in it, in place; drawn from torch's random state."""
        from .virtual_layers import encoded

        return encoded(module, adapter)

    def folded(self, profile: Profile, adapter: Adapter) -> Adapter:
        """As many plain soft tokens."""
        return soft_tokens(profile, adapter.tokens)

    def fold(self, module: nn.Module) -> nn.Module:
        """The module with the soft tokens that the MLP made, in place."""
        from .virtual_layers import folded_prompt

        return folded_prompt(module)
