"""Fine-tuning: keys and values before those of the text, in every attention (prefix tuning)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Final

from ..configuration import Settings
from ..hyperparameter import Hyperparameter, OneOf
from ..paper import Paper
from ..profile import Adapter, Product, Profile, Weight
from ..steps import Step
from ..technique import Targets
from .adapters import adapted, beside
from .selection import learning_rate
from .virtual_tokens import PREFIX, Fold, home, tokens_knob, too_long

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn

TAKE_NO_PAST: Final = frozenset({"distilbert"})
"""Families whose attention in transformers takes no keys and values from before."""


class Prefix:
    """Trains n keys and values per attention of the frozen model, before the text's own.

    They begin as what each layer keeps of n words drawn from the vocabulary, and are attended to:
    nothing else is computed for them. With `encoder_width` an MLP makes them all from n vectors
    (none is drawn from words then); after training it is folded, exactly, into the tables that
    `encoder_width: 0` trains. They cannot be merged. A classifier trains too.
    """

    name: ClassVar[str] = "prefix"
    version: ClassVar[int] = 1
    moves: ClassVar[frozenset[str]] = frozenset(
        {"parameters", "trainable", "flops", "bytes", "outputs", "recipe"}
    )
    source: ClassVar[str] = "arXiv 2101.00190"

    def hyperparameters(self, paper: Paper) -> Sequence[Hyperparameter]:
        """How many, width of the MLP that makes them (0: none), and the learning rate."""
        width = OneOf("encoder_width", (0, 64, 128, 256, 512), 0, ordered=True)
        return (tokens_knob(paper, 10), width, learning_rate(5e-3))

    def objections(self, paper: Paper, settings: Settings, targets: Targets) -> list[str]:
        """No room for the text behind them, or nothing that would attend to them."""
        profile = paper.profile
        if profile.family in TAKE_NO_PAST:
            return [
                f"{profile.family}'s attention takes no keys from before; choose prompt or p_tuning"
            ]
        if not _widths(profile):
            return ["no layer has attention, so that nothing would see a prefix; choose full"]
        return too_long(paper, settings, targets)

    def steps(self, paper: Paper, settings: Settings) -> Sequence[Step]:
        """Attach, Select, Train, and Fold where an MLP made them."""
        steps = adapted(self, settings, beside(f"{PREFIX}.*"))
        return (*steps, Fold(self)) if settings["encoder_width"] else steps

    def adapter(self, profile: Profile, settings: Settings) -> Adapter:
        """One table of keys and values per attention, or the vectors and the MLP."""
        tokens, inner = int(settings["tokens"]), int(settings["encoder_width"])
        path, widths = home(profile, PREFIX), _widths(profile)
        told = (("encoder_width", inner), ("tokens", tokens))
        if not inner:
            weights = [
                Weight(f"{path}.layers.{seat}.weight", (tokens, width), "adapter", "table", layer)
                for seat, (layer, width) in enumerate(widths.items())
            ]
            return Adapter(self.name, told, (), tuple(weights), past=tokens)
        shape = (tokens, profile.width)
        weights = [Weight(f"{path}.embedding.weight", shape, "adapter", "table")]
        products = []
        sides = ((0, (inner, profile.width)), (2, (sum(widths.values()), inner)))
        for place, shape in sides:
            name = f"{path}.transform.{place}"
            weights.append(Weight(f"{name}.weight", shape, "adapter", "factor"))
            weights.append(Weight(f"{name}.bias", shape[:1], "adapter", "vector"))
            made = tokens * shape[0] * shape[1]
            products.append(Product(path, None, made, once=True, gradients=2))
        return Adapter(self.name, told, (), tuple(weights), tuple(products), past=tokens)

    def attach(self, module: nn.Module, adapter: Adapter) -> nn.Module:
        """The module with the tables in it, in place; drawn from torch's random state."""
        from .virtual_layers import prefixed

        return prefixed(module, adapter)

    def begin(self, module: nn.Module, adapter: Adapter) -> None:
        """What the layers keep of words that are drawn from torch's random state."""
        from .virtual_layers import begin_prefix

        if not dict(adapter.settings)["encoder_width"]:
            begin_prefix(module, adapter)

    def folded(self, profile: Profile, adapter: Adapter) -> Adapter:
        """As many keys and values as plain tables."""
        bare = replace(profile, adapters=())
        return self.adapter(bare, {"tokens": adapter.past, "encoder_width": 0})

    def fold(self, module: nn.Module) -> nn.Module:
        """The module with the keys and values that the MLP made, in place."""
        from .virtual_layers import folded_prefix

        return folded_prefix(module)

    def peft_config(self, adapter: Adapter, transposed: bool) -> PeftConfig:
        """What peft is told."""
        from peft import PrefixTuningConfig

        return PrefixTuningConfig(num_virtual_tokens=adapter.past)


def _widths(profile: Profile) -> dict[int, int]:
    """Keys and values of a token, by layer; layers without attention have none."""
    parts = ((index, layer.attention) for index, layer in enumerate(profile.layers))
    return {i: 2 * part.kv_heads * part.head_width for i, part in parts if part is not None}
