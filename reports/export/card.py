"""README.md: the card of an exported model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from ...evaluators.measurement import Measurement
from ...spaces.configuration import Configuration
from ...spaces.names import PROPER, SLOT_TITLES, choice_in_words
from ..words import figure_in_words, listed, range_in_words, title
from .description import Description
from .targets import target_of
from .verify import latency_doubts

_LIBRARIES: Final = {"hf": "transformers", "onnx": "onnxruntime", "paretune": "paretune"}
_PIPELINES: Final = {
    "classification": "text-classification",
    "language-modelling": "text-generation",
}


def write_card(folder: Path, described: Description) -> None:
    """Writes README.md."""
    parts = [
        _front_matter(described),
        f"# {described.run}, trial {described.trial}",
        _about(described),
        "## Load",
        f"In this folder:\n\n```python\n{target_of(described.format).usage(described)}```",
        "## Configuration",
        _configuration(described),
        "## Figures",
        _figures(described),
        "## Proof",
        _proof(described),
        "## Licence",
        f"The weights derive from `{shared_name(described.base['id'])}`: the licence of that model "
        "applies to them, and so do the terms of the data.",
    ]
    (folder / "README.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def shared_name(name: str) -> str:
    """A model or data set as others know it: a hub id, or the name of a local file or folder.

    >>> shared_name("/home/someone/models/bert"), shared_name("org/bert")
    ('bert', 'org/bert')
    """
    return Path(name).name if Path(name).is_absolute() else name


def _front_matter(described: Description) -> str:
    library = "peft" if described.options else _LIBRARIES.get(described.format, described.format)
    lines = [f"library_name: {library}", f"pipeline_tag: {_PIPELINES[described.kind]}"]
    if "/" in described.base["id"] and not Path(described.base["id"]).is_absolute():
        lines.insert(0, f"base_model: {described.base['id']}")
    return "\n".join(["---", *lines, "tags: [paretune]", "---"])


def _about(described: Description) -> str:
    task = described.task
    labels = f" into {', '.join(described.labels)}" if described.labels else ""
    purpose = "classifies text" if described.labels else "models language"
    runtime = PROPER.get(described.runtime, described.runtime)
    said = (
        f"A model that {purpose}{labels}, texts of at most {task['max_length']} tokens. paretune "
        f"found it for the task `{task['name']}`, starting from "
        f"`{shared_name(described.base['id'])}`; it ran on {runtime}."
    )
    return " ".join([said, *described.remarks])


def _configuration(described: Description) -> str:
    chosen = Configuration.from_json(described.configuration)
    lines = [f"- {SLOT_TITLES[slot]}: {choice_in_words(choice)}" for slot, choice in chosen]
    lines.append(f"- seed: {described.seed}")
    return "\n".join(lines)


def _figures(described: Description) -> str:
    rows = ["| figure | this trial | baseline | source |", "|---|---|---|---|"]
    rows += _rows("", described.figures, described.baseline)
    rows += _rows(", test split", described.test, described.baseline_test)
    load, where = described.workload, listed(_devices(described))
    said = (
        f"± is a 95 % interval. Quality is of the validation split, on which the trial was chosen"
        f"{', and of the test split, on which it was not' if described.test else ''}. Speed is of "
        f"{load['batch']} x {load['prompt_tokens']} tokens on {load['threads']} thread(s)"
        f"{f' of {where}' if where else ''}."
    )
    return "\n".join([*rows, "", " ".join([said, *_trained_anew(described)])])


def _devices(described: Description) -> list[str]:
    """Where the search timed the trial and the baseline: not always the same, nor here."""
    timed = [figures.get("latency_p50", {}) for figures in (described.figures, described.baseline)]
    found = [figure.get("conditions", {}).get("device") for figure in timed]
    return list(dict.fromkeys(device for device in found if device))


def _trained_anew(described: Description) -> Iterator[str]:
    for name, (low, high) in described.over_seeds.items():
        edges = range_in_words(low, high, described.test[name]["unit"])
        yield (
            f"Trained under further seeds as well, {title(name)} on the test split was {edges}; "
            "the model in this folder has the figure of the table."
        )


def _rows(where: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    known = {name: data for name, data in ours.items() if data["value"] is not None}
    return [
        f"| {title(name)}{where} | {_cell(data)} | {_cell(theirs.get(name))} | {data['source']} |"
        for name, data in known.items()
    ]


def _cell(data: Mapping[str, Any] | None) -> str:
    if data is None or data["value"] is None:
        return "-"
    return figure_in_words(Measurement.from_json(dict(data)))


def _proof(described: Description) -> str:
    found = described.proved["figures"]
    doubts = latency_doubts(described, described.proved)
    quality = "accuracy" if "accuracy" in found else "perplexity"
    return (
        f"Before this folder was handed over, a fresh process loaded it with "
        f"{described.proved['proved_in']} and asked it {found['items']} validation items: "
        f"{100 * found['agreement']:.4g} % of the answers are those of the searched model, "
        f"{quality} is {found[quality]:.4g} (searched: {found[f'searched_{quality}']:.4g}), "
        f"answers differ by at most {found['largest_difference']:.2g}; median latency was "
        f"{found['latency_p50_ms']:.3g} ms on {described.made_with['processor']}, its files have "
        f"{found['model_bytes']:,} bytes. `paretune verify .` repeats this."
        + "".join(f" Latency is doubtful: {doubt}." for doubt in doubts)
    )
