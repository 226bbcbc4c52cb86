"""What can be known on paper is known without torch."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import sys
from paretune.spaces.families import family_of
from paretune.spaces.paper import Paper
from paretune.spaces.profile import Head, forward_flops, parameters
from paretune.spaces.recipe import Recipe
from paretune.spaces.runtimes.runtime import Runtime
from paretune.spaces.slots import slots
from paretune.spaces.technique import Targets

sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4,
         "intermediate_size": 64, "vocab_size": 43, "max_position_embeddings": 64}
count = 0
for family in ("bert", "llama"):
    profile = family_of(family).profile(sizes, Head("classification", 3))
    start = Paper(profile, Recipe(train_items=8, epochs=1))
    for slot in slots().values():
        for row in slot.techniques.values():
            settings = {knob.name: knob.default for knob in row.hyperparameters(start)}
            if row.objections(start, settings, Targets()):
                continue
            paper = start
            for step in sorted(row.steps(start, settings), key=lambda step: step.phase):
                paper = step.on_paper(paper)
                count += 1
            assert parameters(paper.profile) and forward_flops(paper.profile, 1, 8)
            if isinstance(row, Runtime):
                assert row.payload_bytes(paper.profile)
heavy = {"torch", "transformers", "peft", "onnx", "onnxruntime"} & set(sys.modules)
print(count, sorted(heavy))
"""


def test_every_row_walks_on_paper_without_torch():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    count, heavy = done.stdout.split(maxsplit=1)
    assert int(count) > 10
    assert heavy.strip() == "[]"
