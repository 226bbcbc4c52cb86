"""Rounding: a candidate in the making whose weights are put on grids one after the other."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..candidate import Candidate
from ..profile import Format, Weight
from ..runtimes.grid import Grid, extremes, is_whole, rows_of, told
from ..runtimes.payload import stored_format
from ..runtimes.picked import picked
from .fed import Fed
from .folds import Fold, fold, folds_of

Choose = Callable[[Fold, Sequence[tuple[Tensor, Format]], Sequence[Fed]], Tensor]
"""The numbers of a fold, from the rows and formats of its readers and what these are fed."""


class Rounding:
    """A copy of a candidate; its weights become exactly what will be stored.

    Args:
        given: declared in whole numbers; left as it is.
    """

    def __init__(self, given: Candidate) -> None:
        module = copy.deepcopy(given.module)
        self.candidate = replace(given, module=module, train_state=None, grids={})
        self.profile = picked(given)

    def whole(self, role: str) -> list[Weight]:
        """The matrices, or the tables, that are stored in whole numbers."""
        return [w for w in self.profile.weights() if w.role == role and is_whole(self.profile, w)]

    def form(self, weight: Weight) -> Format:
        """The format of a weight."""
        return stored_format(self.profile, weight)

    def rows(self, weight: Weight) -> Tensor:
        """A weight as it is now, `(n, k)` fp32."""
        return rows_of(weight, self.candidate.module.get_parameter(weight.name).detach())

    @torch.no_grad()
    def put(self, weight: Weight, grid: Grid, integers: Tensor) -> None:
        """Gives a weight its integers, `(n, k)`."""
        parameter = self.candidate.module.get_parameter(weight.name)
        parameter.copy_(rows_of(weight, grid.values(integers)))
        self.candidate.grids.update(told(weight.name, grid))

    def round_tables(self) -> None:
        """Rounds tables to the nearest.

        A word is looked up alone: no other weight can make up for its error.
        """
        for weight in self.whole("table"):
            rows = self.rows(weight)
            grid = extremes(rows, self.form(weight))
            self.put(weight, grid, grid.nearest(rows))

    def fold(
        self, weights: Sequence[Weight], fed: Mapping[str, Fed], choose: Choose
    ) -> dict[str, Fed]:
        """Scales channels at every fold of one block, from its input to its output.

        Args:
            weights: the block's matrices. fed: what each is fed.
            choose: says by how much.

        Returns:
            What each is fed then.
        """
        now, named = dict(fed), {weight.name: weight for weight in weights}
        axes = {w.name: w.input_axis for w in self.profile.weights() if w.role == "matrix"}
        layers = {weight.layer for weight in weights if weight.layer is not None}
        for place in (place for layer in layers for place in folds_of(self.profile, layer)):
            readers = [named.get(f"{path}.weight") for path in place.readers]
            found = [weight for weight in readers if weight is not None]
            if len(found) == len(readers):
                given = [(self.rows(weight), self.form(weight)) for weight in found]
                numbers = choose(place, given, [now[weight.name] for weight in found])
                fold(self.candidate.module, place, numbers, axes)
                columns = place.read(1 / numbers)
                now |= {weight.name: now[weight.name].scaled(columns) for weight in found}
        return now
