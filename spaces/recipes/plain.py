"""Recipe: how long, in which batches, at which precision. AdamW with linear warm-up and decay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, cast

from ..configuration import Settings
from ..hyperparameter import Hyperparameter, OneOf, Real
from ..paper import Paper
from ..steps import Phase, Reads, Step
from ..technique import Targets


@dataclass(frozen=True)
class SetRecipe:
    """Amends the recipe that every later step of a training starts from.

    Args:
        epochs: passes over the training items, a share is allowed.
        batch: items per optimiser step.
        compute: precision of the products; weights and optimiser stay fp32.
        warmup_share: share of the steps in which the learning rate rises.
    """

    epochs: float
    batch: int
    compute: str
    warmup_share: float
    name: ClassVar[str] = "recipe.set"
    version: ClassVar[int] = 1
    # Before every training, a super-network's among them.
    phase: ClassVar[Phase] = Phase.RECIPE
    draws: ClassVar[bool] = False
    reads: ClassVar[frozenset[Reads]] = frozenset()
    amends: ClassVar[Literal[True]] = True

    @property
    def settings(self) -> Settings:
        """The four."""
        return {
            "epochs": self.epochs,
            "batch": self.batch,
            "compute": self.compute,
            "warmup_share": self.warmup_share,
        }

    def on_paper(self, paper: Paper) -> Paper:
        """The recipe with the four in it."""
        recipe = replace(
            paper.recipe,
            epochs=self.epochs,
            batch=self.batch,
            compute=cast(Literal["fp32", "bf16"], self.compute),
            warmup_share=self.warmup_share,
        )
        return replace(paper, recipe=recipe)


class Plain:
    """The usual recipe with its main knobs: three epochs of sixteen, a tenth of warm-up."""

    name: ClassVar[str] = "plain"
    version: ClassVar[int] = 1
    moves: ClassVar[frozenset[str]] = frozenset({"recipe"})
    source: ClassVar[str] = "arXiv 1711.05101 (AdamW), 1710.03740 (mixed precision)"

    def hyperparameters(self, paper: Paper) -> Sequence[Hyperparameter]:
        """Epochs, batch, precision of the products, warm-up."""
        return (
            Real("epochs", 0.5, 10.0, 3.0),
            OneOf("batch", (8, 16, 32, 64), 16, ordered=True),
            OneOf("compute", ("fp32", "bf16"), "fp32"),
            Real("warmup_share", 0.0, 0.5, 0.1),
        )

    def objections(self, paper: Paper, settings: Settings, targets: Targets) -> list[str]:
        """None: it fits every model and task."""
        return []

    def steps(self, paper: Paper, settings: Settings) -> Sequence[Step]:
        """One Amend."""
        return (
            SetRecipe(
                epochs=float(settings["epochs"]),
                batch=int(settings["batch"]),
                compute=str(settings["compute"]),
                warmup_share=float(settings["warmup_share"]),
            ),
        )
