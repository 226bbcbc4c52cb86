"""Names: what a configuration is called in front of people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from .configuration import SLOTS, Choice, Configuration, Settings

SLOT_TITLES: Final = {slot: "fine-tuning" if slot == "finetuning" else slot for slot in SLOTS}

PROPER: Final = {
    "lora": "LoRA",
    "adalora": "AdaLoRA",
    "p_tuning": "P-tuning",
    "ia3": "IA3",
    "bitfit": "BitFit",
    "layernorm": "LayerNorm",
    "gptq": "GPTQ",
    "awq": "AWQ",
    "hqq": "HQQ",
    "smoothquant": "SmoothQuant",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
}
"""Methods as their authors write them."""

_STORES: Final = {"smoothquant": "int8", "mixed_bits": "int8", "int8_static": "int8"}
"""What methods that are not named after a format store; those with a knob for bits say it there."""

_SIZES: Final = ("rank", "tokens", "keep", "layers", "depth", "average_bits")
"""Knobs that belong to a short name."""


def choice_in_words(choice: Choice) -> str:
    """What a slot holds.

    >>> choice_in_words(Choice.of("lora", rank=8, learning_rate=0.0005))
    'LoRA, learning rate 0.0005, rank 8'
    """
    knobs = [_knob(name.replace("_", " "), value) for name, value in choice.settings]
    return ", ".join([_method(choice.method), *knobs])


def in_short(configuration: Configuration) -> str:
    """The methods alone, as a name for a row.

    >>> in_short(Configuration.of(finetuning=Choice.of("lora", rank=8), precision=Choice.of("q8")))
    'LoRA 8 · q8'
    >>> sizes = {"depth": 0.5, "heads_first": 1.0, "heads_last": 1.0, "ffn_1": 0.25, "ffn_2": 0.5}
    >>> in_short(Configuration.of(architecture=Choice.of("subnet", **sizes)))
    'subnet 0.5 heads 1 ffn 0.25-0.5'
    """
    parts = [_short(choice) for slot, choice in configuration if slot != "recipe"]
    return " · ".join(parts) or "as it is"


def _method(name: str) -> str:
    return PROPER.get(name, name.replace("_", " "))


def _short(choice: Choice) -> str:
    settings = dict(choice.settings)
    told = [value for name, value in choice.settings if name in _SIZES]
    told += [f"int{settings['bits']}"] if "bits" in settings else []
    tables = settings.get("embeddings", choice.method)
    usual = (_STORES.get(choice.method, choice.method), *told)
    told += [
        f"{part} {_ends(sizes)}" for part in ("heads", "ffn") if (sizes := _sizes(part, settings))
    ]
    apart = [] if tables in usual else [f"(embeddings {tables})"]
    return " ".join([_method(choice.method), *(_setting(value) for value in told), *apart])


def _sizes(part: str, settings: Settings) -> list[float]:
    """The shares that a sub-network's blocks keep of a part, first to last."""
    return [float(value) for name, value in settings.items() if name.startswith(f"{part}_")]


def _ends(sizes: Sequence[float]) -> str:
    low, high = min(sizes), max(sizes)
    return _setting(low) if low == high else f"{_setting(low)}-{_setting(high)}"


def _knob(name: str, value: Any) -> str:
    return name if value == name else f"{name} {_setting(value)}"


def _setting(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
