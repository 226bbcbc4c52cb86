"""How an exported folder is loaded, in a few lines of Python run inside it."""

from __future__ import annotations

from typing import Final

from ...spaces.runtimes.onnx_runtime import EXACT_PRODUCTS
from .description import Description

AUTO: Final = {
    "classification": "AutoModelForSequenceClassification",
    "language-modelling": "AutoModelForCausalLM",
}
"""The transformers class that loads a model, by what it answers."""

_TEXTS: Final = ('"some text"', '"the text that goes with it"')


def hf_usage(described: Description) -> str:
    """With transformers."""
    auto = AUTO[described.kind]
    return f"""\
from transformers import {auto}, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")
model = {auto}.from_pretrained(".")
inputs = tokenizer({_encode(described)}, return_tensors="pt")
logits = model(**inputs).logits
"""


def peft_usage(described: Description) -> str:
    """With peft, on the base."""
    auto = AUTO[described.kind]
    told = {k: v for k, v in described.options.items() if k != "dtype"}
    more = "".join(f", {name}={value!r}" for name, value in told.items())
    if described.kind == "classification":
        more += ", ignore_mismatched_sizes=True"
    return f"""\
from peft import PeftModel
from transformers import {auto}, AutoTokenizer

base = {auto}.from_pretrained({described.base["id"]!r}{more})
model = PeftModel.from_pretrained(base, ".").eval()
inputs = AutoTokenizer.from_pretrained(".")({_encode(described)}, return_tensors="pt")
logits = model(**inputs).logits
"""


def onnx_usage(described: Description) -> str:
    """With ONNX Runtime."""
    return f"""\
import onnxruntime
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")
options = onnxruntime.SessionOptions()
options.add_session_config_entry{EXACT_PRODUCTS}  # int8 without overflow
session = onnxruntime.InferenceSession("model.onnx", options)
inputs = tokenizer({_encode(described)}, return_tensors="np")
logits = session.run(["logits"], dict(inputs))[0]
"""


def native_usage(described: Description) -> str:
    """With paretune."""
    return f"""\
from pathlib import Path
from paretune.spaces.runtimes import open_artifact
from paretune.spaces.task import Batch
from transformers import AutoTokenizer

encoded = AutoTokenizer.from_pretrained(".")({_encode(described, many=True)}, return_tensors="np")
ids, mask = encoded["input_ids"], encoded["attention_mask"]
logits = open_artifact(Path("artifact")).logits(Batch(ids, mask, ids, ids[:, 0]))
"""


def _encode(described: Description, *, many: bool = False) -> str:
    texts = [f"[{text}]" if many else text for text in _TEXTS[: described.task["texts"]]]
    return f"{', '.join(texts)}, truncation=True, max_length={described.task['max_length']}"
