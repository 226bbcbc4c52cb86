"""The steps of a super-network: order the units, widen the recipe, train, extract.

Only the last one knows which sub-network was chosen. So all sub-networks of the same bounds share
one training, and the key of that training says nothing of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from ..configuration import Settings
from ..paper import Paper
from ..steps import Bench, Phase, Reads
from .shapes import Blocks, bounds, shrunk

if TYPE_CHECKING:
    from ..candidate import Candidate


@dataclass(frozen=True)
class OrderUnits:
    """Finds out in which order blocks, heads and neurons would go; changes nothing."""

    name: ClassVar[str] = "supernet.order"
    version: ClassVar[int] = 1
    phase: ClassVar[Phase] = Phase.ARCHITECTURE
    draws: ClassVar[bool] = False
    reads: ClassVar[frozenset[Reads]] = frozenset({"calibration"})

    @property
    def settings(self) -> Settings:
        """Nothing: all of the model is put in order."""
        return {}

    def on_paper(self, paper: Paper) -> Paper:
        """The same paper."""
        return paper

    def apply(self, candidate: Candidate | None, bench: Bench, seed: int) -> Candidate:
        """The same candidate with the order in its notes."""
        from .live import ORDER, importance_order

        assert candidate is not None  # only the step that loads starts from nothing
        order = importance_order(candidate, bench)
        return replace(candidate, notes={**(candidate.notes or {}), ORDER: order})


@dataclass(frozen=True)
class Widen:
    """Turns the recipe into one for a super-network.

    Args:
        smallest: share of each block's units in the smallest sub-network.
        random: sub-networks drawn at every step.
        length: of the training, in the recipe's epochs.
        learning_rate: peak.
    """

    smallest: float
    random: int
    length: float
    learning_rate: float
    name: ClassVar[str] = "supernet.widen"
    version: ClassVar[int] = 1
    phase: ClassVar[Phase] = Phase.ARCHITECTURE_AMEND
    draws: ClassVar[bool] = False
    reads: ClassVar[frozenset[Reads]] = frozenset()
    amends: ClassVar[Literal[True]] = True

    @property
    def settings(self) -> Settings:
        """The four."""
        return {
            "smallest": self.smallest,
            "random": self.random,
            "length": self.length,
            "learning_rate": self.learning_rate,
        }

    def on_paper(self, paper: Paper) -> Paper:
        """Everything trains, with sub-networks along."""
        recipe = replace(
            paper.recipe,
            trainable=("*",),
            epochs=paper.recipe.epochs * self.length,
            learning_rate=self.learning_rate,
            elastic=bounds(paper.profile, self.smallest, self.random),
        )
        return replace(paper, recipe=recipe)


@dataclass(frozen=True)
class Extract:
    """Makes a sub-network a model of its own, and the recipe an ordinary one again.

    Args:
        blocks: what stays.
        length: what `Widen` made longer; later trainings count in the recipe's own epochs.
    """

    blocks: Blocks
    length: float
    name: ClassVar[str] = "supernet.extract"
    version: ClassVar[int] = 1
    phase: ClassVar[Phase] = Phase.EXTRACT
    draws: ClassVar[bool] = False
    reads: ClassVar[frozenset[Reads]] = frozenset()

    @property
    def settings(self) -> Settings:
        """Groups of heads and neurons of each block, first to last."""
        return {
            "groups": ",".join(str(block.groups) for block in self.blocks),
            "neurons": ",".join(str(block.neurons) for block in self.blocks),
            "length": self.length,
        }

    def on_paper(self, paper: Paper) -> Paper:
        """The smaller model, of which nothing trains until another step says so."""
        epochs = paper.recipe.epochs / self.length
        recipe = replace(paper.recipe, trainable=(), epochs=epochs, elastic=None)
        return replace(paper, profile=shrunk(paper.profile, self.blocks), recipe=recipe)

    def apply(self, candidate: Candidate | None, bench: Bench, seed: int) -> Candidate:
        """The smaller candidate; `notes["architecture"]` says which units stayed."""
        from .live import extracted

        assert candidate is not None  # only the step that loads starts from nothing
        return extracted(candidate, self.on_paper(candidate.paper), self.blocks)
