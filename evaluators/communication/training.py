"""What training sends between machines, on paper."""

from __future__ import annotations

from typing import Final

from ...spaces.paper import Paper
from ..compute.flops import training_papers
from ..measurement import Measurement
from ..metric import Evidence, Metric

BYTES_PER_ELEMENT: Final = 4
"""Gradients and updates travel as fp32."""


def training_payload_bytes(evidence: Evidence) -> Measurement:
    """Bytes of one update of everything that trains: what a federated client sends each round."""
    sizes = [_update_bytes(paper) for paper in training_papers(evidence)]
    return Measurement(
        float(max(sizes, default=0)),
        "byte",
        "exact",
        conditions=evidence.conditions(bytes_per_element=BYTES_PER_ELEMENT),
    )


def gradient_bytes(evidence: Evidence) -> Measurement:
    """Bytes that each rank sends per optimiser step: ring all-reduce, 2 (n - 1) / n x gradient."""
    plan = evidence.paper.plan
    ranks = plan.data_parallel if plan else 1
    sizes = [_update_bytes(paper) for paper in training_papers(evidence)]
    return Measurement(
        2 * (ranks - 1) / ranks * max(sizes, default=0),
        "byte",
        "exact",
        conditions=evidence.conditions(bytes_per_element=BYTES_PER_ELEMENT, ranks=ranks),
    )


def _update_bytes(paper: Paper) -> int:
    if paper.recipe.total_steps == 0:
        return 0
    return BYTES_PER_ELEMENT * paper.trainable_parameters


METRICS: Final = (
    Metric(
        name="training_payload_bytes",
        unit="byte",
        direction="minimize",
        resource="communication",
        needs="paper",
        pieces=frozenset(),
        definition="fp32 bytes of everything that trains: one client's update in one round, "
        "the larger of several Train steps.",
        source="arXiv 1602.05629",
        evaluate=training_payload_bytes,
        follows="trainable_parameters",
    ),
    Metric(
        name="gradient_bytes",
        unit="byte",
        direction="minimize",
        resource="communication",
        needs="paper",
        pieces=frozenset(),
        definition="fp32 bytes that each data-parallel rank sends per step (ring all-reduce); "
        "0 on one device.",
        source="arXiv 2006.15704",
        evaluate=gradient_bytes,
    ),
)
