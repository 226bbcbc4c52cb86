"""Parameters of fine-tuning on paper, against figures that were published or counted by peft."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from paretune.spaces.finetuning import TABLE
from paretune.spaces.finetuning.bitfit import biases
from paretune.spaces.paper import Paper
from paretune.spaces.profile import (
    Attention,
    FeedForward,
    Head,
    Layer,
    Profile,
    parameters,
    trainable_parameters,
)


def model(family: str, width: int, layers: int, hidden: int, *, only_attention: int = 0) -> Profile:
    """A model whose last `only_attention` layers have no feed-forward part."""
    gated, heads = family == "llama", width // 128 if width >= 4096 else width // 64
    attention = Attention(heads, heads, width // heads)
    whole = Layer(attention, FeedForward(hidden, gated))
    bare = Layer(attention, None)
    head = Head("language-modelling", 32000) if gated else Head("classification", 2)
    rows = (32000, 0, 0) if gated else (50265, 514, 1)
    stack = (whole,) * (layers - only_attention) + (bare,) * only_attention
    extra = (("max_position_embeddings", 4096),) if gated else ()
    return Profile(family, width, *rows, stack, head, extra=extra)


def added(profile: Profile, method: str, **settings: object) -> int:
    technique = TABLE[method]
    told = {k.name: k.default for k in technique.hyperparameters(Paper(profile))} | settings
    return sum(weight.count for weight in technique.adapter(profile, told).weights)


def all_bitfit(profile: Profile) -> int:
    """Biases of the encoder, pooler included as in `RobertaModel`, without the classifier's."""
    own = trainable_parameters(profile, [name for name in biases(profile) if name == "*.bias"])
    return own - profile.head.outputs


def llama_with_lora() -> int:
    profile = model("llama", 4096, 32, 11008)
    return parameters(profile) + added(profile, "lora", rank=8)


COUNTS: dict[str, Callable[[], int]] = {
    "lora-gpt3-r1": lambda: added(model("llama", 12288, 96, 1), "lora", rank=1),
    "lora-roberta-base-r8": lambda: added(model("roberta", 768, 12, 3072), "lora", rank=8),
    "lora-deberta-xxl-r16": lambda: added(model("bert", 1536, 48, 6144), "lora", rank=16),
    "lora-llama-7b-r8-qv": lambda: added(model("llama", 4096, 32, 11008), "lora", rank=8),
    "lora-mt0-large-r8": lambda: added(model("bert", 1024, 72, 2816), "lora", rank=8),
    "ia3-mt0-large": lambda: added(model("bert", 1024, 72, 2816, only_attention=24), "ia3"),
    "total-llama-7b-lora-r8": llama_with_lora,
    "bitfit-roberta-base": lambda: all_bitfit(model("roberta", 768, 12, 3072)),
    "prompt-bloomz-560m": lambda: added(model("bert", 1024, 24, 4096), "prompt", tokens=8),
}
"""Ours for each row. Families that we lack are stood in for by one with the same matrices."""


@pytest.fixture(scope="module")
def rows() -> dict[str, dict[str, str]]:
    """Rows of the reference figures about parameters, by their id."""
    bench = Path(os.environ.get("PARETUNE_BENCH_DATA", Path(__file__).parents[2] / "shared/bench"))
    path = bench.parent / "reference_figures.csv"
    if not path.is_file():
        pytest.skip(f"no reference figures at {path}; set PARETUNE_BENCH_DATA to the folder beside")
    with path.open(newline="") as file:
        return {r["id"]: r for r in csv.DictReader(file) if r["group"] == "peft-parameters"}


def test_every_reference_row_is_compared(rows):
    assert set(rows) == set(COUNTS)


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_on_paper_are_the_reference(rows, name):
    row = rows[name]
    scale = json.loads(row["inputs_json"]).get("scale", 1.0)
    found = COUNTS[name]() / scale
    assert found == pytest.approx(float(row["published"]), rel=float(row["rel_tolerance"]))


def test_the_closed_forms_hold_on_large_models_without_their_weights():
    profile = model("llama", 4096, 32, 11008)
    assert added(profile, "lora", rank=8) == 4_194_304
    assert added(profile, "rslora", rank=8) == 4_194_304
    assert added(profile, "dora", rank=8) == 4_194_304 + 32 * 2 * 4096
    assert added(profile, "vera", rank=256) == 32 * 2 * (4096 + 256)
    assert added(profile, "loha", rank=8) == 2 * 4_194_304
    # 4096 = 64 x 64: C is 64 x 64, A B is 64 x 8 x 64.
    assert added(profile, "lokr", rank=8) == 32 * 2 * (64 * 64 + 8 * 128)
    assert added(profile, "oft", block=32) == 32 * 2 * (4096 // 32) * 32 * 31 // 2
    # n h; n L 2 h; n h and an MLP h -> m -> m -> h.
    assert added(profile, "prompt", tokens=20) == 20 * 4096
    assert added(profile, "prefix", tokens=10) == 10 * 32 * 2 * 4096
    mlp = 4096 * 128 + 128 + 128 * 128 + 128 + 128 * 4096 + 4096
    assert added(profile, "p_tuning", tokens=20, encoder_width=128) == 20 * 4096 + mlp
    roberta = model("roberta", 768, 12, 3072)
    # 2hm + h + m a piece, 24 pieces (arXiv 1902.00751).
    houlsby = added(roberta, "bottleneck", reduction=16, places="houlsby")
    assert houlsby == 24 * (2 * 768 * 48 + 768 + 48)
