"""Fine-tuning: the elements with the most Fisher information (the FISH mask)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from ..configuration import Settings
from ..hyperparameter import Hyperparameter, Integer, Real
from ..paper import Paper
from ..profile import parameters, trainable_parameters
from ..steps import Bench, Phase, Reads, Step
from ..technique import Targets
from ..training import FinetuneStep
from .full import everything
from .selection import Select, learning_rate, mask_over

if TYPE_CHECKING:
    from ..candidate import Candidate


@dataclass(frozen=True)
class ChooseElements:
    """Chooses the elements that will train, on training items, before any training.

    It reads nothing of the recipe: trainings of one density share its mask.

    Args:
        density: share of all elements but a classifier's own.
        items: training items whose Fisher information is added up, one backward pass each.
    """

    density: float
    items: int
    name: ClassVar[str] = "fish.choose"
    version: ClassVar[int] = 1
    phase: ClassVar[Phase] = Phase.ATTACH
    draws: ClassVar[bool] = True
    reads: ClassVar[frozenset[Reads]] = frozenset({"train"})

    @property
    def settings(self) -> Settings:
        """Density and items."""
        return {"density": self.density, "items": self.items}

    def on_paper(self, paper: Paper) -> Paper:
        """The same paper: which elements they are, paper does not know."""
        return paper

    def apply(self, candidate: Candidate | None, bench: Bench, seed: int) -> Candidate:
        """The candidate with the state of a training that has not begun; the seed draws the items.

        Raises:
            StepFailed: kind `diverged`, a gradient is not finite.
            DataError: the train split is empty.
        """
        from ..masks import masked_state
        from .fisher import fisher_information, most_informed

        assert candidate is not None  # only the step that loads starts from nothing
        profile = candidate.paper.profile
        mask = mask_over(profile, self.density)
        scores = fisher_information(candidate.module, profile, mask, bench, self.items, seed)
        count = mask.count(sum(score.numel() for score in scores.values()))
        for name, free in candidate.masks.items():
            if name in scores:  # what may not move is chosen last
                scores[name] = scores[name].masked_fill(~free, -1.0)
        return replace(candidate, train_state=masked_state(most_informed(scores, count)))


class Fish:
    """Trains the elements with the most Fisher information, and a classifier's own parameters.

    Diagonal empirical Fisher information on a few training items, computed once on the given model;
    all other elements stay the same to the bit. The optimiser's state is as small as the mask; the
    gradient is computed whole, so that a step costs what full fine-tuning's does. The pass that
    chooses is not among `training_flops`.
    """

    name: ClassVar[str] = "fish"
    version: ClassVar[int] = 1
    moves: ClassVar[frozenset[str]] = frozenset({"trainable", "outputs", "recipe"})
    source: ClassVar[str] = "arXiv 2111.09839"

    def hyperparameters(self, paper: Paper) -> Sequence[Hyperparameter]:
        """Share of the elements, items for their Fisher information, and the learning rate."""
        return (
            Real("density", 5e-4, 0.1, 5e-3, log=True),
            Integer("items", 16, 1024, 128, log=True),
            learning_rate(5e-4),
        )

    def objections(self, paper: Paper, settings: Settings, targets: Targets) -> list[str]:
        """Nothing to learn from, or a share that is less than one element."""
        if not paper.recipe.train_items:
            return ["the task has no training items to judge by; give it a train split"]
        density, profile = float(settings["density"]), paper.profile
        mask = mask_over(profile, density)
        elements = parameters(profile) - trainable_parameters(profile, mask.whole)
        if mask.count(elements):
            return []
        return [f"a share of {density:g} of {elements} elements is none; choose a higher density"]

    def steps(self, paper: Paper, settings: Settings) -> Sequence[Step]:
        """Choose, Select, Train."""
        density, rate = float(settings["density"]), float(settings["learning_rate"])
        choose = ChooseElements(density, int(settings["items"]))
        return (choose, Select(self.name, rate, everything, density), FinetuneStep())
