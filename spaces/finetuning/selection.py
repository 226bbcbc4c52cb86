"""Select: the Amend that says which parameters train, and how fast."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from ..configuration import Scalar, Settings
from ..hyperparameter import Real
from ..paper import Paper
from ..profile import Profile, Weight
from ..recipe import Mask, RankBudget
from ..steps import Phase, Reads

Chooser = Callable[[Profile], tuple[str, ...]]
"""The trainable parameters of a model, as fnmatch patterns over their names."""


@dataclass(frozen=True)
class Select:
    """Sets what trains and the peak learning rate of the recipe.

    Args:
        method: the technique's name.
        learning_rate: peak.
        choose: the patterns for the model as it then is.
        density: share of the elements that train, a classifier's own apart, which all do; None:
            whole tensors.
        ranks: how many ranks of the adapters stay; None: all.
    """

    method: str
    learning_rate: float
    choose: Chooser
    density: float | None = None
    ranks: RankBudget | None = None
    name: ClassVar[str] = "finetuning.select"
    version: ClassVar[int] = 1
    phase: ClassVar[Phase] = Phase.AMEND
    draws: ClassVar[bool] = False
    reads: ClassVar[frozenset[Reads]] = frozenset()
    amends: ClassVar[Literal[True]] = True

    @property
    def settings(self) -> Settings:
        """The method, its learning rate, its density and ranks where it has any."""
        told: dict[str, Scalar] = {"method": self.method, "learning_rate": self.learning_rate}
        if self.ranks is not None:
            told |= {f"ranks.{name}": value for name, value in vars(self.ranks).items()}
        return told if self.density is None else {**told, "density": self.density}

    def on_paper(self, paper: Paper) -> Paper:
        """The recipe with what trains."""
        profile = paper.profile
        mask = None if self.density is None else mask_over(profile, self.density)
        recipe = replace(
            paper.recipe,
            trainable=self.choose(profile),
            learning_rate=self.learning_rate,
            mask=mask,
            ranks=self.ranks,
        )
        return replace(paper, recipe=recipe)


def learning_rate(default: float) -> Real:
    """The knob: a factor of ten to either side of a method's usual peak."""
    return Real("learning_rate", default / 10, default * 10, default, log=True)


def new_answers(profile: Profile) -> tuple[str, ...]:
    """Names of a classifier's own parameters: new for every task, so every method trains them.

    A language model's head was trained with the rest: none.
    """
    if profile.head.kind != "classification":
        return ()
    heads = (section for section in profile.sections if "head" in section.groups)
    return tuple(w.name for section in heads for w in section.weights if w.group == "head")


def mask_over(profile: Profile, density: float) -> Mask:
    """A mask over all but a classifier's own parameters, which train whole."""
    return Mask(density, new_answers(profile))


def names(profile: Profile, wanted: Callable[[Weight], bool]) -> tuple[str, ...]:
    """Names of the weights that are wanted, in the order of the model."""
    return tuple(weight.name for weight in profile.weights() if wanted(weight))
