"""Training time: a row over what the stages cost when they were made."""

from __future__ import annotations

from typing import Final

from ..measurement import Measurement, missing
from ..metric import Evidence, Metric


def training_time(evidence: Evidence) -> Measurement:
    """Seconds of the Train stages when they were made, whichever trial made them."""
    if evidence.stages is None:
        return missing("second", "the stages' costs are not known")
    trained = [stage for stage in evidence.stages if stage.trains]
    return Measurement(
        float(sum(stage.seconds for stage in trained)),
        "second",
        "measured",
        n=1,
        over="repeats",
        conditions=evidence.conditions(
            "threads", stages=len(trained), cached=sum(stage.cached for stage in trained)
        ),
    )


METRICS: Final = (
    Metric(
        name="training_time",
        unit="second",
        direction="minimize",
        resource="computation",
        needs="trained",
        pieces=frozenset({"stages"}),
        definition="Wall time of all Train stages when they were made; shared ones count in full.",
        source="the stage store's clock",
        evaluate=training_time,
    ),
)
