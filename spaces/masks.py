"""Masks in practice: which elements of a parameter train.

Those elements are a vector of their own that the optimiser moves; after every step they are written
back. Nothing else touches the parameter, weight decay included: the rest stays the same to the bit,
and the optimiser's state is as small as what trains. The gradient is computed whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor, nn

from ..errors import StepFailed
from .candidate import TrainState
from .recipe import Mask

PLACES: Final = "places"
"""The kind of state that says which elements train, `parameter name/places`."""


def masked_state(places: Mapping[str, Tensor]) -> TrainState:
    """The state of a training that has not begun and whose mask is chosen.

    Args:
        places: by parameter, the places of the elements that train when it is laid flat,
            ascending int64.
    """
    return TrainState(0, {f"{name}/{PLACES}": found for name, found in places.items()})


def places_in(state: TrainState) -> dict[str, Tensor]:
    """What `masked_state` was given; empty where a training has no mask."""
    end = f"/{PLACES}"
    return {k.removesuffix(end): found for k, found in state.tensors.items() if k.endswith(end)}


class Part:
    """The elements of a parameter that train.

    Args:
        whole: the parameter.
        places: of the elements, as in `masked_state`.
    """

    def __init__(self, whole: nn.Parameter, places: Tensor) -> None:
        self.whole = whole
        self.places = places.to(whole.device)
        self.vector = nn.Parameter(whole.detach().flatten()[self.places])

    def take_gradient(self) -> None:
        """Moves the gradient of these elements to the vector."""
        found, self.whole.grad = self.whole.grad, None
        self.vector.grad = None if found is None else found.flatten()[self.places]

    @torch.no_grad()
    def write_back(self) -> None:
        """Puts the vector's values in their places."""
        self.whole.view(-1)[self.places] = self.vector


def parts_of(
    weights: Mapping[str, nn.Parameter], mask: Mask | None, state: TrainState
) -> dict[str, Part]:
    """The parts of all parameters under a mask, by name; none without a mask.

    Raises:
        StepFailed: kind `illegal`, the mask was never chosen.
    """
    if mask is None:
        return {}
    places = places_in(state)
    covered = {name: weight for name, weight in weights.items() if mask.covers(name)}
    if covered.keys() != places.keys():
        raise StepFailed(
            "illegal",
            f"the recipe masks {len(covered)} parameters and a mask was chosen for {len(places)}; "
            "choose the mask on the model that trains",
        )
    return {name: Part(weight, places[name]) for name, weight in covered.items()}
