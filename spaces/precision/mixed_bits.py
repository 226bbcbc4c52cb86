"""mixed_bits: more bits for the layers whose rounding moves the answers most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Final, Literal

from ..configuration import Settings
from ..hyperparameter import Hyperparameter, OneOf
from ..paper import Paper
from ..profile import BITS, Format, FormatName, Group, Profile
from ..steps import Bench, Phase, Reads, Step
from ..technique import Targets
from .declare import GROUP_SIZE, Calibrated, Declare, embeddings_knob, form, head_knob
from .gptq import RoundByColumns
from .mix import AVERAGES, Kin, Reach, as_reach, by_layer, dealt_on_paper, mixes

if TYPE_CHECKING:
    from ..candidate import Candidate

_USUAL: Final = 5.0
REACH: Final = OneOf("reach", ("near", "far"), "near")
"""The two formats around the average, or int8 and int3 as far as they go."""


@dataclass(frozen=True)
class DeclareLayers:
    """Declares how many layers of one size have which format.

    Args:
        average: bits of a stored weight at most, scales apart. reach: see `mix`.
        group_size: weights that share a scale below 8 bits.
        formats: of the groups outside the layers.
    """

    average: float
    reach: Reach
    group_size: int
    formats: tuple[tuple[Group, Format], ...]
    name: ClassVar[str] = "mixed_bits.declare"
    version: ClassVar[int] = 1
    phase: ClassVar[Phase] = Phase.PRECISION
    draws: ClassVar[bool] = False
    reads: ClassVar[frozenset[Reads]] = frozenset()
    amends: ClassVar[Literal[True]] = True

    @property
    def settings(self) -> Settings:
        """The average, the reach, the group size, and the other groups' formats."""
        told = dict(Declare(self.formats).settings)
        own = {"average": self.average, "reach": self.reach, "group_size": self.group_size}
        return {**told, **own}

    def on_paper(self, paper: Paper) -> Paper:
        """The first layers of each size with the most bits: which ones is for data to say."""
        profile = paper.profile.with_formats(dict(self.formats))
        dealt = {
            kin: tuple(form(name, self.group_size) for name in names)
            for kin, names in mixes(profile, self.average, self.reach).items()
        }
        return replace(paper, profile=profile.with_layers(by_layer(profile, dealt)))


@dataclass(frozen=True)
class PickLayers(Calibrated):
    """Picks the layers for the declared formats: the least divergence of the answers in sum."""

    name: ClassVar[str] = "mixed_bits.pick"

    @property
    def settings(self) -> Settings:
        """None: formats and how many there are of each were declared before."""
        return {}

    def apply(self, candidate: Candidate | None, bench: Bench, seed: int) -> Candidate:
        """The same weights; `notes["formats"]` says which layer is stored how.

        Raises:
            DataError: the calibration split is empty.
            StepFailed: kind `diverged`, an answer is not finite.
        """
        from ..runtimes.picked import as_note
        from .assignment import assigned
        from .sensitivity import sensitivities

        assert candidate is not None  # only the step that loads starts from nothing
        profile = candidate.paper.profile
        dealt = dealt_on_paper(profile)
        open_ = {kin: forms for kin, forms in dealt.items() if len(set(forms)) > 1}
        pieces = {
            (group, layer): tuple(dict.fromkeys(forms))
            for (group, layers), forms in open_.items()
            for layer in layers
        }
        errors = sensitivities(candidate, bench, pieces)
        for (group, layers), forms in open_.items():
            dealt[group, layers] = assigned([errors[group, layer] for layer in layers], forms)
        note = as_note(by_layer(profile, dealt))
        notes = {**(candidate.notes or {}), **note}
        return replace(candidate, notes=notes, train_state=None)


class MixedBits:
    """int8, int4 and int3 side by side: layers whose rounding moves the answers most get more bits.

    Settings say how many layers of one size get which format, so that bytes are known on paper; the
    calibration split says which: each layer's attention and each layer's feed-forward is rounded
    alone, and the assignment with the least sum of divergences is taken (exactly).
    """

    name: ClassVar[str] = "mixed_bits"
    version: ClassVar[int] = 1
    moves: ClassVar[frozenset[str]] = frozenset({"bytes", "outputs"})
    source: ClassVar[str] = "arXiv 2001.00281 (eq. 2, section 3.3); as a knapsack in 2011.10680"

    def hyperparameters(self, paper: Paper) -> Sequence[Hyperparameter]:
        """Bits in the mean, how far formats lie apart, how integers are chosen, the rest's."""
        return (
            _average_knob(paper.profile),
            REACH,
            OneOf("rounding", ("nearest", "gptq"), "nearest"),
            embeddings_knob("int8"),
            *head_knob(paper, "int8"),
            GROUP_SIZE,
        )

    def objections(self, paper: Paper, settings: Settings, targets: Targets) -> list[str]:
        """Nothing for data to choose, or what another setting says more simply."""
        average, reach = float(settings["average_bits"]), as_reach(settings["reach"])
        found = mixes(paper.profile, average, reach)
        if not _chooses(found):
            names = sorted({name for names in found.values() for name in names})
            return [
                f"average_bits {average:g} with reach {reach} leaves nothing to choose between "
                f"layers of one size: it comes to {' and '.join(names) or 'no layer at all'}; "
                "choose another average_bits or reach, or a precision of one format"
            ]
        if reach == "far" and found == mixes(paper.profile, average, "near"):
            return [f"reach far comes to what near is at average_bits {average:g}; choose near"]
        return []

    def steps(self, paper: Paper, settings: Settings) -> Sequence[Step]:
        """Declare, pick, and round where it is not left to the runtime."""
        size = int(settings["group_size"])
        apart: dict[Group, Format] = {"embeddings": form(settings["embeddings"], size)}
        if "head" in settings:
            apart["head"] = form(settings["head"], size)
        average, reach = float(settings["average_bits"]), as_reach(settings["reach"])
        declare = DeclareLayers(average, reach, size, tuple(apart.items()))
        if settings["rounding"] == "gptq":
            return (declare, PickLayers(), RoundByColumns(ordered=True))
        return (declare, PickLayers())


def _chooses(found: Mapping[Kin, Sequence[FormatName]]) -> bool:
    return any(len(set(names)) > 1 for names in found.values())


def _average_knob(profile: Profile) -> OneOf:
    """The averages that mean something here; of those that come to the same, the nearest to it."""
    best: dict[tuple[object, ...], tuple[float, float]] = {}
    for average in AVERAGES:
        near, far = (
            mixes(profile, average, reach) for reach in (as_reach("near"), as_reach("far"))
        )
        if _chooses(near) or _chooses(far):
            off = average - _mean(near)
            key = (*near.values(), *far.values())
            best[key] = min(best.get(key, (off, average)), (off, average))
    values = tuple(average for _, average in best.values()) or (_USUAL,)
    usable = [v for v in values if _chooses(mixes(profile, v, "near"))] or list(values)
    default = min(usable, key=lambda value: abs(value - _USUAL))
    return OneOf("average_bits", values, default, ordered=True)


def _mean(found: Mapping[Kin, Sequence[FormatName]]) -> float:
    bits = [BITS[name] for names in found.values() for name in names]
    return sum(bits) / len(bits)
