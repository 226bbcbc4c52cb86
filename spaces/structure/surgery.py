"""Cuts a module to a smaller paper: builds the smaller module and copies what stays.

Nothing here knows a family: where units lie follows from the two papers, see `cuts.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ..build import build, fill, kept_tensors
from ..candidate import Candidate
from ..paper import Paper
from ..profile import Profile, Weight
from ..steps import Bench
from ..word_table import word_maps
from .counts import Importance
from .cuts import Units, channel_axes, cuts_of
from .gradients import unit_gradients
from .importance import (
    activation_scores,
    channel_activations,
    channel_weights,
    strongest,
    weight_scores,
)


def cut_units(
    candidate: Candidate, after: Paper, units: Units, importance: Importance, bench: Bench
) -> Candidate:
    """The candidate with some units of each layer removed.

    Args:
        candidate: the larger one; left as it is.
        after: the smaller paper: it says how many units stay in each layer.
        units: `heads` (groups of heads) or `ffn` (neurons).
        importance: how units are judged. bench: where calibration data comes from.

    Returns:
        The smaller candidate without training state; `notes[units]` lists the kept units by layer.
    """
    cuts = cuts_of(candidate.paper.profile, after.profile, units)
    if importance == "weights":
        scores = weight_scores(candidate.module, cuts)
    elif importance == "activations":
        scores = activation_scores(candidate.module, cuts, bench)
    else:
        scores = unit_gradients(candidate.module, cuts, bench)
    kept = {layer: strongest(scores[layer], cuts[layer][0].stay) for layer in cuts}
    rows = {
        cut.weight.name: (cut.axis, cut.rows(kept[layer]))
        for layer, layer_cuts in cuts.items()
        for cut in layer_cuts
    }
    old = kept_tensors(candidate.module)
    new = {name: _taken(tensor, rows.get(name)) for name, tensor in old.items()}
    notes = {**(candidate.notes or {}), units: {str(layer): k for layer, k in kept.items()}}
    return Candidate(filled(after.profile, new), after, notes=notes)


def cut_layers(candidate: Candidate, after: Paper, stay: Sequence[int]) -> Candidate:
    """The candidate with only some of its blocks.

    Args:
        candidate: the deeper one; left as it is.
        after: the shallower paper.
        stay: places of the blocks that stay, ascending.

    Returns:
        The shallower candidate without training state; `notes["layers"]` lists `stay`.
    """
    old = kept_tensors(candidate.module)
    blocks = _by_layer(candidate.paper.profile)
    new = word_maps(candidate.module)
    for place, weights in _by_layer(after.profile).items():
        source = weights if place is None else blocks[stay[place]]
        new |= {w.name: old[s.name] for w, s in zip(weights, source, strict=True)}
    notes = {**(candidate.notes or {}), "layers": list(stay)}
    return Candidate(filled(after.profile, new), after, notes=notes)


def cut_channels(candidate: Candidate, after: Paper, judge: Bench | None) -> Candidate:
    """The candidate with fewer hidden channels, the same ones in every tensor.

    Args:
        candidate: the wider one; left as it is.
        after: the narrower paper.
        judge: where calibration data comes from; None: weights alone say which channels stay.

    Returns:
        The narrower candidate without training state; `notes["width"]` lists the kept channels.
    """
    axes = channel_axes(candidate.paper.profile, after.profile)
    if judge is None:
        scores = channel_weights(candidate.module, axes)
    else:
        scores = channel_activations(candidate.module, axes, judge)
    kept = strongest(scores, after.profile.width)
    new = kept_tensors(candidate.module)
    for weight, axis in axes:
        new[weight.name] = nn.Parameter(new[weight.name].index_select(axis, torch.tensor(kept)))
    notes = {**(candidate.notes or {}), "width": kept}
    return Candidate(filled(after.profile, new), after, notes=notes)


def filled(profile: Profile, tensors: Mapping[str, Tensor]) -> nn.Module:
    """A module of that structure that holds those tensors, in eval mode.

    Raises:
        ValueError: a tensor is missing or of another shape than on paper.
    """
    module = build(profile)
    wrong = fill(module, tensors)
    if wrong:
        raise ValueError(f"what was cut does not fit the paper: {', '.join(wrong)}")
    return module.eval()


def _by_layer(profile: Profile) -> dict[int | None, list[Weight]]:
    blocks: dict[int | None, list[Weight]] = {}
    for weight in profile.weights():
        blocks.setdefault(weight.layer, []).append(weight)
    return blocks


def _taken(tensor: Tensor, rows: tuple[int, Tensor] | None) -> Tensor:
    return tensor if rows is None else tensor.index_select(*rows)
