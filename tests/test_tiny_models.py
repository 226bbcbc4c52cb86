from __future__ import annotations

from pathlib import Path


def test_every_family_is_saved_with_weights_and_a_tokenizer(tiny_models: dict[str, Path]):
    for family, folder in tiny_models.items():
        assert (folder / "model.safetensors").is_file(), family
        assert (folder / "tokenizer.json").is_file(), family
