"""Every adapter that peft has a file for, written as peft's folder and loaded by peft."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from paretune.reports.export.hf_runner import HfRunner
from paretune.reports.export.peft_folder import write_peft
from paretune.reports.export.target import Piece
from paretune.spaces.candidate import Candidate
from paretune.spaces.finetuning import TABLE
from paretune.spaces.finetuning.adapters import ThroughPeft
from paretune.spaces.runtimes import RUNTIMES
from paretune.spaces.runtimes.refusals import hf_refusals
from paretune.spaces.testing import MemoryBench, random_items

sys.path.insert(0, str(Path(__file__).parent))

from finetuning_cases import answers, done, given, objections, steps

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*"),
    # PeftModel asks transformers for something by its old name.
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning"),
]

KINDS = [name for name, row in TABLE.items() if isinstance(row, ThroughPeft)]
SMALL = {"vera": {"rank": 16}, "oft": {"block": 8}, "ia3": {}, "prefix": {"tokens": 5}}
HEADS = {
    "bert": "classification",
    "roberta": "classification",
    "gpt2": "language-modelling",
    "llama": "language-modelling",
}


def trained(folder: Path, method: str, kind: str) -> Candidate | None:
    start = given(folder, kind)
    told: dict[str, Any] = {**SMALL.get(method, {"rank": 4}), "merge": "keep"}
    if objections(TABLE[method], start.paper, **told):
        return None
    return done(start, steps(TABLE[method], start.paper, learning_rate=2e-2, **told))[-1]


@pytest.mark.parametrize("family", HEADS)
@pytest.mark.parametrize("method", KINDS)
def test_peft_answers_from_its_folder_as_the_trial_did(tiny_models, tmp_path, method, family):
    base, kind = tiny_models[family], HEADS[family]
    candidate = trained(base, method, kind)
    if candidate is None:  # refused on this family; tests/test_adapters.py says so
        assert (method, family) in {("loha", "gpt2"), ("lokr", "gpt2"), ("oft", "gpt2")}
        return
    assert not list(hf_refusals(candidate.paper))
    artifact, folder = tmp_path / "artifact", tmp_path / "peft"
    artifact.mkdir()
    folder.mkdir()
    (deploy,) = RUNTIMES["eager"].steps(candidate.paper, {})
    deploy.deploy(candidate, artifact, MemoryBench(candidate))
    task: Any = None  # labels are the card's concern
    piece = Piece(artifact, deploy.on_paper(candidate.paper), task, str(base), base)
    options = write_peft(piece, folder)
    runner = HfRunner(folder, kind, torch.get_num_threads(), base=base, options=options)
    found = runner.logits(random_items(candidate.paper.profile, 4, 8, seed=3))
    runner.close()
    assert np.allclose(found, answers(candidate).numpy(), atol=1e-6)
    plain = answers(given(base, kind)).numpy()
    assert not np.allclose(found, plain, atol=1e-4)


def test_bottlenecks_and_two_adapters_make_no_folder(tiny_models):
    start = given(tiny_models["bert"])
    bottleneck = done(start, steps(TABLE["bottleneck"], start.paper)[:1])[0].paper
    assert "peft has no file for bottleneck adapters" in "; ".join(hf_refusals(bottleneck))
    lora = done(start, steps(TABLE["lora"], start.paper)[:1])[0].paper
    adapters = (*lora.profile.adapters, *bottleneck.profile.adapters)
    both = replace(lora, profile=replace(lora.profile, adapters=adapters))
    assert "holds one adapter, not lora, bottleneck" in "; ".join(hf_refusals(both))
