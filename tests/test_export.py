"""A searched point leaves as a folder that a fresh process has proved, or not at all."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from paretune.errors import BadRequest, UnknownName, VerificationFailed
from paretune.reports.export import export as exporting
from paretune.reports.export import export_trial, verify_export
from paretune.reports.export.card import write_card
from paretune.reports.export.compare import compared, shortfalls
from paretune.reports.export.description import read_description, write_description
from paretune.reports.export.files import copy_tokenizer
from paretune.reports.export.proof import Proof
from paretune.reports.export.target import Closeness
from paretune.reports.export.targets import default_target
from paretune.reports.export.usage import hf_usage, native_usage
from paretune.reports.export.verify import latency_doubts
from paretune.search.records import Ask, Failure, Record, State
from paretune.search.run import FORMAT, Header, write_json
from paretune.search.study import Study
from paretune.search.trial import Laboratory
from paretune.spaces.configuration import Choice, Configuration
from paretune.spaces.lower import walk

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

FULL = Choice.of("full", learning_rate=5e-3)
LORA = Choice.of(
    "lora", rank=4, alpha_ratio=2.0, targets="attention-qv", learning_rate=2e-2, merge="keep"
)
ONNX = Choice.of("onnxruntime")
IA3 = Choice.of("ia3", learning_rate=2e-2, merge="keep")
HEADS = Choice.of("heads", importance="weights", keep=0.5, slope=0.0, when="after")
INT4 = Choice.of("int4", embeddings="int4", head="fp32", group_size=32)
INT8 = Choice.of("int8", embeddings="int8", head="fp32")
BF16 = Choice.of("bf16", embeddings="bf16", head="fp32")
MERGED = Choice.of("lora", **{**dict(LORA.settings), "merge": "merge"})
SHORT = Choice.of("finetune", share=0.1, learning_rate=1e-3)
HALF = Choice.of("ffn", importance="weights", keep=0.5, slope=0.0, when="before")


def reviews(path: Path, *, labels: bool = True) -> Path:
    """Six letters and a word that decides, but for every tenth text; or a text alone."""
    draw = random.Random(0)
    letters = [chr(c) for c in range(97, 123)]
    with path.open("w") as file:
        file.write("text,label\n" if labels else "text\n")
        for _ in range(600):
            label = draw.choice(["good", "bad"])
            words = [*draw.choices(letters, k=6), label]
            draw.shuffle(words)
            said = label if draw.random() < 0.9 else "good"
            file.write(" ".join(words) + (f",{said}\n" if labels else "\n"))
    return path


class Bed:
    """A run folder whose trials are made when a test first asks for them."""

    def __init__(self, folder: Path, model: Path, task: Path, quality: str = "accuracy") -> None:
        self.folder = folder
        folder.mkdir()
        output = 0 if quality == "accuracy" else 2
        self.study = Study.from_dict(
            {
                "model": str(model),
                "task": {"name": str(task), "max_length": 12},
                "workload": {"prompt_tokens": 12, "output_tokens": output},
                "objectives": [quality, "model_bytes"],
                "budget": {"trials": 9},
            }
        )
        (folder / "study.yaml").write_text(self.study.dump_yaml())
        write_json(
            folder / "run.json", {"format": FORMAT, "name": "x", "storage": "sqlite:///study.db"}
        )
        self.numbers: dict[str, str] = {}
        self.records: list[Record] = []

    def trial(self, **choices: Choice) -> str:
        """The number of the trial of this configuration, made and judged if it is new."""
        configuration = Configuration.of(**choices)
        if configuration.digest not in self.numbers:
            number = len(self.records)
            ask = Ask(number, configuration, 0, 0, "search" if number else "baseline")
            blank = Record(number, configuration, "running", 0, ask.purpose)
            judged = Laboratory.of(self.folder).judge(ask, blank, lambda *what: None)
            self.numbers[configuration.digest] = self.store(judged)
        return self.numbers[configuration.digest]

    def unjudged(self, state: State, failure: Failure | None = None, **choices: Choice) -> str:
        """The number of a trial that nobody made."""
        configuration = Configuration.of(**choices)
        return self.store(Record(len(self.records), configuration, state, failure=failure))

    def store(self, record: Record) -> str:
        self.records.append(record)
        self.write()
        return str(record.number)

    def write(self) -> None:
        rows = self.study.objective_rows()
        figures = self.records[0].measurements
        about = {"direction": "minimize", "resource": "quality", "definition": "-"}
        metrics = {n: {**about, "unit": m.unit} for n, m in figures.items()}
        metrics |= {row.name: {**metrics[row.name], **asdict(row)} for row in rows}
        header = Header("reviews", self.study.to_json(), rows, metrics)
        write_json(
            self.folder / "snapshot.json",
            {
                "stamp": [],
                "format": FORMAT,
                "header": header.to_json(),
                "notes": {},
                "records": [record.to_json() for record in self.records],
                "confirmations": {},
                "spent_seconds": 1.0,
            },
        )


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("cache")
        patch.setenv("PARETUNE_CACHE", str(root))
        yield root


@pytest.fixture(scope="module")
def bed(tmp_path_factory, tiny_models, cache):
    root = tmp_path_factory.mktemp("export")
    made = Bed(root / "run", tiny_models["bert"], reviews(root / "reviews.csv"))
    made.trial(finetuning=FULL)
    return made


@pytest.fixture(scope="module")
def exported(bed, tmp_path_factory):
    """The baseline as a plain folder, and what was said of it."""
    folder = tmp_path_factory.mktemp("exported") / "model"
    said = export_trial(bed.folder, "0", folder, None)
    return folder, said


def copied(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def flipped(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def described_anew(folder: Path) -> None:
    """Hashes as if the files that lie there now had been exported."""
    write_description(folder, read_description(folder))


def test_a_plain_trial_becomes_a_transformers_folder_with_identical_answers(exported):
    folder, said = exported
    assert (said["format"], said["trial"], said["proved_as"]) == ("hf", 0, "same computation")
    assert said["proved_in"].startswith("transformers ")
    assert said["agreement"] == 1
    assert said["largest_difference"] <= 1e-4
    assert said["accuracy"] == said["searched_accuracy"] > 0.8
    assert said["latency_p50_ms"] > 0
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    assert said["files"] == len(sizes)
    assert said["bytes"] == sum(sizes.values()) - sizes["paretune.json"]
    assert said["model_bytes"] == sizes["config.json"] + sizes["model.safetensors"]
    assert json.loads((folder / "config.json").read_text())["id2label"]["1"] == "good"


def test_the_card_says_what_was_searched_and_what_it_costs(exported):
    card = (exported[0] / "README.md").read_text()
    assert "- fine-tuning: full, learning rate 0.005" in card
    assert "| accuracy | " in card
    assert "| FLOPs | 647 kFLOP | 647 kFLOP | exact |" in card
    assert "licence" in card
    assert "AutoModelForSequenceClassification.from_pretrained" in card


def test_the_card_says_where_the_search_was_timed_and_what_further_seeds_gave(exported, tmp_path):
    folder = copied(exported[0], tmp_path)
    described = read_description(folder)
    assert f"thread(s) of {described.made_with['processor']}." in (folder / "README.md").read_text()

    def timed(figures, device):
        latency = {**figures["latency_p50"], "conditions": {"device": device}}
        return {**figures, "latency_p50": latency}

    figures = timed(described.figures, "a fast one")
    moved = replace(
        described,
        figures=figures,
        baseline=timed(described.baseline, "a slow one"),
        test={"accuracy": figures["accuracy"]},
        over_seeds={"accuracy": [0.8, 0.9]},
    )
    write_card(folder, moved)
    card = (folder / "README.md").read_text()
    assert "on 1 thread(s) of a fast one and a slow one." in card
    assert "accuracy on the test split was 80.0 to 90.0 %;" in card
    assert f" ms on {described.made_with['processor']}, its files have" in card


def test_a_latency_that_does_not_compare_is_said_by_whoever_proves_it(exported, tmp_path):
    described = read_description(exported[0])
    quiet = {"cpu_share": 0.99, "probe_ms": 1.0}
    latency = {**described.figures["latency_p50"], "conditions": {**quiet, "threads": 1}}
    searched = replace(described, figures={**described.figures, "latency_p50": latency})
    assert latency_doubts(searched, {"figures": quiet}) == []
    moved = {**described.proved, "figures": {**described.proved["figures"], "probe_ms": 1.5}}
    moved["figures"]["cpu_share"] = 0.5
    assert latency_doubts(searched, moved) == [
        "this proof was timed beside other work",
        "the machine was 1.50 times as slow for this proof as in the search",
    ]
    folder = copied(exported[0], tmp_path)
    write_card(folder, replace(searched, proved=moved))
    assert "Latency is doubtful: this proof was timed beside" in (folder / "README.md").read_text()
    crowded = {**latency, "conditions": {"cpu_share": 0.5, "threads": 1}}
    searched = replace(described, figures={**described.figures, "latency_p50": crowded})
    assert latency_doubts(searched, {"figures": quiet}) == ["the search timed it beside other work"]
    assert "latency_doubts" in exported[1]


def test_an_exported_tokenizer_returns_what_the_model_was_trained_with(
    exported, tiny_models, tmp_path
):
    from transformers import AutoTokenizer

    source = Path(shutil.copytree(tiny_models["bert"], tmp_path / "source"))
    config = json.loads((source / "tokenizer_config.json").read_text())
    bert = {**config, "tokenizer_class": "BertTokenizer"}
    (source / "tokenizer_config.json").write_text(json.dumps(bert))
    assert "token_type_ids" in AutoTokenizer.from_pretrained(source)("a", "b")
    (tmp_path / "to").mkdir()
    copy_tokenizer(source, tmp_path / "to")
    for folder in (tmp_path / "to", exported[0]):
        encoded = AutoTokenizer.from_pretrained(folder)("a", "b")
        assert set(encoded) == {"input_ids", "attention_mask"}


def test_the_card_of_a_pair_task_asks_a_pair(exported):
    described = read_description(exported[0])
    pair = replace(described, task={**described.task, "texts": 2})
    assert 'tokenizer("some text", truncation' in hf_usage(described)
    assert 'tokenizer("some text", "the text that goes with it", truncation' in hf_usage(pair)
    assert '(["some text"], ["the text that goes with it"], truncation' in native_usage(pair)


def test_no_path_of_this_machine_leaves_with_a_whole_model(exported, bed):
    for path in exported[0].iterdir():
        assert str(bed.folder.parent).encode() not in path.read_bytes(), path.name


def test_a_moved_folder_is_proved_again_without_its_run(exported, tmp_path):
    folder, said = exported
    again = verify_export(copied(folder, tmp_path))
    moving = {"folder", "latency_p50_ms", "latency_stderr_ms", "cpu_share", "probe_ms"}
    moving.add("latency_doubts")
    assert {k: v for k, v in again.items() if k not in moving} == {
        k: v for k, v in said.items() if k not in moving
    }


def test_a_flipped_byte_is_caught_in_every_file_and_the_file_is_named(exported, tmp_path):
    folder = copied(exported[0], tmp_path)
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        flipped(path, len(whole) // 2)
        with pytest.raises(VerificationFailed, match=re.escape(path.name)):
            verify_export(folder)
        path.write_bytes(whole)


def test_the_description_tolerates_no_other_byte(exported, tmp_path):
    folder = copied(exported[0], tmp_path)
    path = folder / "paretune.json"
    whole = path.read_bytes()
    for place in range(0, len(whole), 101):
        flipped(path, place)
        with pytest.raises((VerificationFailed, BadRequest)):
            read_description(folder)
        path.write_bytes(whole)
    path.write_bytes(whole + b"\n")
    with pytest.raises(VerificationFailed, match="is not what was written"):
        read_description(folder)


def test_missing_and_additional_files_are_named_together(exported, tmp_path):
    folder = copied(exported[0], tmp_path)
    (folder / "tokenizer.json").unlink()
    (folder / "model-00002.safetensors").write_bytes(b"")
    (folder / ".gitattributes").write_bytes(b"")
    said = "model-00002.safetensors was not exported"
    with pytest.raises(VerificationFailed, match=f"tokenizer.json is missing; {said};"):
        verify_export(folder)


def test_any_other_folder_is_refused(tmp_path):
    with pytest.raises(BadRequest, match="give a folder that `paretune export` wrote"):
        verify_export(tmp_path)


def test_a_target_that_is_not_empty_is_refused_and_left_alone(bed, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    for taken in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(BadRequest, match="not an empty folder"):
            export_trial(bed.folder, "0", taken, None)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_a_proof_that_fails_leaves_nothing_at_the_target(bed, tmp_path, monkeypatch):
    def fails(folder, threads):
        assert (folder / "model.safetensors").is_file()
        raise VerificationFailed("other answers")

    monkeypatch.setattr(exporting, "fresh_proof", fails)
    (tmp_path / "empty").mkdir()
    with pytest.raises(VerificationFailed, match="other answers"):
        export_trial(bed.folder, "baseline", tmp_path / "empty", "hf")
    assert [p.name for p in tmp_path.rglob("*")] == ["empty"]


def test_an_artifact_that_is_not_what_was_searched_is_refused(bed, tmp_path, monkeypatch):
    stored = exporting.load_predictions

    def others(folder, name):
        heard = stored(folder, name)
        return replace(heard, logits=-heard.logits)

    monkeypatch.setattr(exporting, "load_predictions", others)
    with pytest.raises(VerificationFailed, match="trial 0 made again is not what was searched"):
        export_trial(bed.folder, "0", tmp_path / "to", None)
    assert not list(tmp_path.iterdir())


def test_what_a_plain_folder_cannot_hold_is_refused_with_another_way(bed, tmp_path):
    packed = bed.unjudged("final", precision=INT8)
    with pytest.raises(
        BadRequest, match=r"in int8, only in fp32 or bf16; .*, or use --format paretune"
    ):
        export_trial(bed.folder, packed, tmp_path / "to", "hf")
    heads = bed.unjudged("final", structure=HEADS)
    with pytest.raises(
        BadRequest, match=r"classes cannot hold this structure: .*--format paretune"
    ):
        export_trial(bed.folder, heads, tmp_path / "to", "hf")
    adapter = bed.unjudged("final", finetuning=LORA)
    with pytest.raises(BadRequest, match=r"cannot be exported as onnx: .*merge it"):
        export_trial(bed.folder, adapter, tmp_path / "to", "onnx")


def test_only_trials_that_ended_well_are_exported(bed, tmp_path):
    failed = bed.unjudged("failed", Failure("diverged", "the loss is NaN"), precision=INT4)
    for trial, said in ((failed, "is failed: the loss is NaN"), ("99", "no trial '99'; give")):
        with pytest.raises(BadRequest, match=said):
            export_trial(bed.folder, trial, tmp_path / "to", None)
    with pytest.raises(UnknownName, match="did you mean 'onnx'"):
        export_trial(bed.folder, "0", tmp_path / "to", "onxn")


def test_the_default_format_is_what_the_runtime_is_made_for(bed):
    subject = Laboratory.of(bed.folder).material.subject

    def default(**choices: Choice) -> str:
        return default_target(walk(Configuration.of(**choices), subject).paper).name

    assert default() == default(precision=BF16) == default(finetuning=LORA) == "hf"
    assert default(runtime=ONNX) == default(runtime=ONNX, precision=INT8) == "onnx"
    assert default(precision=INT8) == default(structure=HEADS) == "paretune"


def proof_of(logits: list[list[float]]) -> Proof:
    n = len(logits)
    none = np.zeros((n, 1), np.int64)
    labels = np.zeros(n, np.int64)
    return Proof(labels, none, none, labels, none, logits=np.array(logits, np.float32))


def test_nearer_claims_demand_more():
    asked = proof_of([[1.0, 0.0]] * 100)
    near = proof_of([[1.00001, 0.0]] * 100)
    one = proof_of([[1.0, 0.0]] * 99 + [[0.0, 1.0]])
    two = proof_of([[1.0, 0.0]] * 98 + [[0.0, 1.0]] * 2)
    three = proof_of([[1.0, 0.0]] * 97 + [[0.0, 1.0]] * 3)
    short = {
        (name, closeness): shortfalls(compared(asked, found), closeness)
        for name, found in {"same": asked, "near": near, "1": one, "2": two, "3": three}.items()
        for closeness in get_args(Closeness)
    }
    passed = {pair for pair, lacks in short.items() if not lacks}
    other = "other computation"
    assert passed == {
        ("same", "same files"), ("same", "same computation"), ("near", "same computation"),
        ("same", other), ("near", other), ("1", other),
    }  # fmt: skip
    assert short["2", other] == ["accuracy 0.9800 is not within one point of the searched 1.0000"]
    assert short["3", other][0] == "0.9700 of the answers agree, 0.98 must"


def test_a_language_model_is_held_to_its_perplexity():
    ids = np.zeros((2, 3), np.int64)
    base = Proof(
        np.arange(2), ids, ids, ids, ids,
        nll=np.array([4.0, 4.0]), tokens=np.array([2, 2]), likeliest=ids,
    )  # fmt: skip
    for nll, lacks in ((4.01, 0), (4.03, 1)):
        found = replace(base, nll=np.array([nll, nll]))
        assert len(shortfalls(compared(base, found), "other computation")) == lacks
    assert shortfalls(compared(base, base), "same files") == []


CASES = {
    "hf": (None, {"finetuning": FULL, "precision": BF16}, "transformers", "other computation"),
    "peft": ("hf", {"finetuning": LORA}, "peft", "same computation"),
    "ia3": (None, {"finetuning": IA3}, "peft", "same computation"),
    "onnx": (
        None,
        {"finetuning": FULL, "precision": INT8, "runtime": ONNX},
        "onnxrun",
        "same files",
    ),
    "other onnx": ("onnx", {"finetuning": FULL}, "onnxruntime", "other computation"),
    "other int8": ("onnx", {"finetuning": FULL, "precision": INT8}, "onnx", "other computation"),
    "other hf": ("hf", {"finetuning": FULL, "runtime": ONNX}, "transformers", "other computation"),
    "int4": (None, {"finetuning": FULL, "precision": INT4}, "torch", "same files"),
    "heads": (None, {"structure": HEADS}, "paretune", "same files"),
    "cut hf": (
        "hf",
        {"finetuning": MERGED, "structure": HALF, "recovery": SHORT},
        "transformers",
        "same computation",
    ),
    "kept, cut": (
        None,
        {"finetuning": LORA, "structure": HALF},
        "paretune",
        "same files",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_every_format_is_proved_loads_as_its_card_says_and_is_proved_again(bed, tmp_path, case):
    format_, choices, library, closeness = CASES[case]
    folder = tmp_path / "to"
    said = export_trial(bed.folder, bed.trial(**choices), folder, format_)
    assert library in said["proved_in"]
    assert said["proved_as"] == closeness
    assert said["agreement"] >= 0.98
    if closeness == "same files":
        assert said["largest_difference"] == 0
        assert said["model_bytes"] == said["searched_model_bytes"]
    code = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)[1]
    shown = [sys.executable, "-c", f"{code}\nprint(tuple(logits.shape))"]
    done = subprocess.run(shown, cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("(1, 2)")
    assert verify_export(folder)["accuracy"] == said["accuracy"]


@pytest.mark.slow
@pytest.mark.parametrize("case", ["hf", "onnx int8", "lora"])
def test_a_language_model_is_proved_by_its_likelihoods(tmp_path, tiny_models, cache, case):
    format_, choices = {
        "hf": ("hf", {"finetuning": FULL}),
        "onnx int8": ("onnx", {"precision": Choice.of("int8", embeddings="int8")}),
        "lora": ("hf", {"finetuning": LORA}),
    }[case]
    task = reviews(tmp_path / "text.csv", labels=False)
    bed = Bed(tmp_path / "run", tiny_models["gpt2"], task, "perplexity")
    said = export_trial(bed.folder, bed.trial(**choices), tmp_path / "to", format_)
    assert said["agreement"] >= 0.98
    assert said["perplexity"] == pytest.approx(said["searched_perplexity"], rel=0.01)
    assert said["latency_p50_ms"] > 0


@pytest.mark.slow
def test_other_weights_are_found_out_even_where_the_hashes_fit(exported, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = copied(exported[0], tmp_path)
    tensors = load_file(folder / "model.safetensors")
    tensors["classifier.weight"] *= -1
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    described_anew(folder)
    with pytest.raises(
        VerificationFailed, match=r"is not the searched one: .* of the answers agree"
    ):
        verify_export(folder)
    del tensors["classifier.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    described_anew(folder)
    with pytest.raises(VerificationFailed, match="tensors are missing or left over"):
        verify_export(folder)


@pytest.mark.slow
def test_an_adapter_whose_base_was_trained_too_is_refused(bed, tmp_path):
    trial = bed.trial(finetuning=LORA, recovery=SHORT)
    with pytest.raises(BadRequest, match=r"was trained as well; .*--format paretune"):
        export_trial(bed.folder, trial, tmp_path / "to", "hf")
    assert not (tmp_path / "to").exists()


@pytest.mark.slow
def test_the_proving_process_builds_no_model_of_its_own(exported):
    code = (
        "import sys; from pathlib import Path; from paretune.reports.export.prove import prove\n"
        "assert not prove(Path(sys.argv[1]))['shortfalls']\n"
        "print({'paretune.spaces.build', 'paretune.spaces.trainer'} & set(sys.modules))"
    )
    asked = [sys.executable, "-c", code, str(exported[0])]
    done = subprocess.run(asked, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"
