"""A joint space on a small model on paper, and a table of it that is made up."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from paretune.benchmarks.joint_table import Ground, every_configuration
from paretune.evaluators.measurement import Measurement
from paretune.evaluators.metric import StageCost
from paretune.search.records import Record, Rung
from paretune.search.study import load_study
from paretune.search.subject import Material, baseline_of
from paretune.spaces.configuration import Configuration
from paretune.spaces.lower import Subject, lower
from paretune.spaces.profile import Attention, FeedForward, Head, Layer, Profile
from paretune.spaces.recipe import Recipe
from paretune.spaces.steps import Phase

EXAMPLE = Path(__file__).parents[1] / "examples" / "joint.yaml"
SECONDS = {"train.finetune": 20.0, "train.recover": 6.0, "onnxruntime.deploy": 3.0}
JUDGING = 6.0
ACCURACY = {"full": 0.60, "lora": 0.59, "bitfit": 0.54, "head": 0.53}


@dataclass(frozen=True)
class Given:
    """Stands for the step that loads a model."""

    name = "load"
    version = 1
    phase = Phase.LOAD
    draws = False
    reads = frozenset()
    settings = {}  # noqa: RUF012

    def on_paper(self, paper):
        return paper


def made_up_ground() -> Ground:
    """The example's space on a small model on paper, without its mildest cuts: 180 candidates.

    Drawn at random, for speed; what is tested here holds for every sampler.
    """
    knobs = "{keep: 0.5, when: after, importance: activations, slope: 0.0}"
    cuts = f"space.structure={{methods: [none, ffn, heads], ffn: {knobs}, heads: {knobs}}}"
    study = load_study(EXAMPLE, [cuts, "sampler=random"])
    layer = Layer(Attention(4, 4, 16), FeedForward(128))
    profile = Profile("bert", 64, 1000, 64, 2, (layer,) * 6, Head("classification", 4))
    subject = Subject(
        load=cast("object", Given()),
        profile=profile,
        recipe=Recipe(train_items=64, epochs=3.0),
        digests={"model": "m", "train": "t", "calibration": "c"},
    )
    subject = replace(subject, baseline=baseline_of(study, subject))
    return Ground(study, cast("Material", SimpleNamespace(subject=subject)))


def made_up_table(ground: Ground) -> list[Record]:
    """Figures by rule: every part of a configuration moves accuracy, latency or bytes."""
    subject, made = ground.material.subject, set()
    records = []
    for number, configuration in enumerate([subject.baseline, *every_configuration(ground)]):
        stages = []
        for node in lower(configuration, subject):
            seconds = SECONDS.get(node.step.name, 0.1)
            known = node.key in made
            made.add(node.key)
            stages.append(
                StageCost(node.key, node.step.name, seconds, node.trains, known, node.training)
            )
        paid = sum(stage.seconds for stage in stages if not stage.cached)
        rung = Rung(0, figures(configuration), JUDGING)
        purpose = "search" if number else "baseline"
        records.append(
            Record(
                number, configuration, "final", 0, purpose, (rung,),
                stages=tuple(stages), seconds=paid + JUDGING,
            )
        )  # fmt: skip
    return records


def figures(configuration: Configuration) -> dict[str, Measurement]:
    methods = {slot: choice.method for slot, choice in configuration}
    tuned = configuration.get("finetuning")
    accuracy = ACCURACY[methods["finetuning"]] + 0.001 * dict(tuned.settings).get("rank", 0)
    cut = {"ffn": (0.04, 0.7), "heads": (0.03, 0.8)}.get(methods.get("structure", ""), (0.0, 1.0))
    bits = {"int8": (0.005, 0.3), "int4": (0.05, 0.2)}.get(methods.get("precision", ""), (0.0, 1.0))
    healed = 0.5 if "recovery" in methods else 1.0
    fast = 0.5 if "runtime" in methods else 1.0
    return {
        "accuracy": Measurement(accuracy - healed * cut[0] - bits[0], "fraction", "measured"),
        "latency_p50": Measurement(10.0 * cut[1] * fast * bits[1] ** 0.2, "ms", "measured"),
        "model_bytes": Measurement(1e6 * cut[1] * bits[1], "byte", "exact"),
    }
