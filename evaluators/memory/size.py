"""Sizes: parameters and bytes, on paper and as written."""

from __future__ import annotations

from typing import Final

from ...spaces.profile import parameters as count_parameters
from ..compute.flops import training_papers
from ..measurement import Measurement, missing
from ..metric import Evidence, Metric


def parameters(evidence: Evidence) -> Measurement:
    """Elements of all parameter tensors of the deployed model, tied ones once."""
    return Measurement(float(count_parameters(evidence.paper.profile)), "count", "exact")


def trainable_parameters(evidence: Evidence) -> Measurement:
    """Elements that train, in the Train step that trains most."""
    papers = training_papers(evidence)
    counts = [paper.trainable_parameters for paper in papers if paper.recipe.total_steps > 0]
    return Measurement(float(max(counts, default=0)), "count", "exact")


def model_bytes(evidence: Evidence) -> Measurement:
    """Bytes of every file that the deployed model needs."""
    if evidence.files is None:
        return missing("byte", "the candidate was not deployed")
    return Measurement(
        float(sum(evidence.files.values())),
        "byte",
        "exact",
        conditions=evidence.conditions("runtime", files=len(evidence.files)),
    )


def payload_bytes(evidence: Evidence) -> Measurement:
    """Bytes of all tensors that the runtime writes, without headers and graph."""
    from ...spaces.runtimes import RUNTIMES

    name = evidence.paper.runtime
    if name is None:
        return missing("byte", "the candidate has no runtime yet")
    if name not in RUNTIMES:
        return missing("byte", f"no runtime {name!r} in the table")
    runtime = RUNTIMES[name]
    return Measurement(
        float(runtime.payload_bytes(evidence.paper.profile)),
        "byte",
        "exact",
        conditions=evidence.conditions("runtime"),
    )


METRICS: Final = (
    Metric(
        name="parameters",
        unit="count",
        direction="minimize",
        resource="memory",
        needs="paper",
        pieces=frozenset(),
        definition="Elements of all parameter tensors of the deployed model, tied ones once.",
        source="counted on the Profile",
        evaluate=parameters,
    ),
    Metric(
        name="trainable_parameters",
        unit="count",
        direction="minimize",
        resource="memory",
        needs="paper",
        pieces=frozenset(),
        definition="Elements that gradients reach, in the Train step that trains most.",
        source="counted on the Profile",
        evaluate=trainable_parameters,
    ),
    Metric(
        name="model_bytes",
        unit="byte",
        direction="minimize",
        resource="memory",
        needs="built",
        pieces=frozenset({"files"}),
        definition="Bytes on disk of every file that the deployed model needs, headers included.",
        source="the artifact's files",
        evaluate=model_bytes,
    ),
    Metric(
        name="payload_bytes",
        unit="byte",
        direction="minimize",
        resource="memory",
        needs="paper",
        pieces=frozenset(),
        definition="Bytes of the tensors that the runtime writes, headers and graph apart.",
        source="the runtime's formats; arXiv 2210.17323 for scales and zero points",
        evaluate=payload_bytes,
    ),
)
