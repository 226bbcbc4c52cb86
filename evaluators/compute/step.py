"""FLOPs of one optimiser step as a recipe asks for it; the products themselves: `backward.py`.

A super-network's step (arXiv 2003.11142) is several: the largest network's, the smallest one's and
those of random ones, which count as expected. Products of attention and feed-forward parts grow
evenly with what stays of them, so that an average size costs the average. What the largest answers
is taught as it is: distillation in place takes no pass of its own. A teacher's pass is not counted.
Where ranks go while they train (arXiv 2303.10512), a regulariser multiplies the vectors of a matrix
with each other, once a step.
"""

from __future__ import annotations

from dataclasses import replace

from ...spaces.architecture.shapes import Block, expected_size, shrunk
from ...spaces.paper import Paper
from ...spaces.profile import Layer, Profile
from .backward import training_step_flops


def step_flops(paper: Paper, batch: int, tokens: int) -> float:
    """FLOPs of the forward and backward passes of one optimiser step.

    Args:
        paper: the candidate that trains, and how.
        batch: texts. tokens: positions per text.
    """
    profile, recipe = paper.profile, paper.recipe

    def once(model: Profile) -> float:
        return float(sum(training_step_flops(model, recipe.trainable, batch, tokens)))

    elastic = recipe.elastic
    if elastic is None:
        return once(profile) + (0.0 if recipe.ranks is None else _regulariser(profile))
    least = (Block(elastic.groups, elastic.neurons),) * elastic.depth
    around = once(replace(profile, layers=()))
    attention, ffn = (
        once(replace(profile, layers=layers)) - around
        for layers in (
            tuple(Layer(layer.attention, None) for layer in profile.layers),
            tuple(Layer(None, layer.feed_forward) for layer in profile.layers),
        )
    )
    heads, neurons = expected_size(profile, elastic)
    drawn = around + heads * attention + neurons * ffn
    return once(profile) + once(shrunk(profile, least)) + elastic.random * drawn


def training_run_flops(paper: Paper, tokens: int) -> float:
    """FLOPs of all optimiser steps of a recipe; what is made once a step counts once.

    Args:
        paper: the candidate that trains, and how. tokens: positions per text.
    """
    recipe = paper.recipe
    one, two = (step_flops(paper, batch, tokens) for batch in (1, 2))
    # a step costs the same for every text, and something whatever their number
    texts = recipe.train_items * recipe.epochs
    return (two - one) * texts + (2 * one - two) * recipe.total_steps


def _regulariser(profile: Profile) -> float:
    """Forward and backward passes of the products of factors with themselves, `ranks.py`."""
    sides = [
        weight.shape
        for adapter in profile.adapters
        for weight in adapter.weights
        if weight.role == "matrix"
    ]
    return float(sum(3 * 2 * min(shape) ** 2 * max(shape) for shape in sides))
