"""Tasks: local files, functions and the hub become four encoded splits."""

from __future__ import annotations

import gzip
import importlib.util
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from paretune.errors import BadRequest, DataError, UnknownName
from paretune.evaluators.tasks import SPLITS, TaskSpec, describe_task, load_task
from paretune.spaces.task import Task

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:(datasets|multiprocess|dill).*")

Load = Callable[[TaskSpec], Task]


@pytest.fixture
def load(tiny_models: dict[str, Path], tmp_path: Path) -> Load:
    """Loads a task with the encoder's tokenizer."""
    return lambda spec: load_task(spec, tiny_models["bert"], tmp_path / "cache")


@pytest.fixture
def load_decoder(tiny_models: dict[str, Path], tmp_path: Path) -> Load:
    """Loads a task with the decoder's tokenizer."""
    return lambda spec: load_task(spec, tiny_models["gpt2"], tmp_path / "cache")


def _reviews(count: int = 60) -> list[dict[str, str]]:
    words = ["good", "bad"]
    return [
        {
            "text": f"{chr(97 + i % 26)} {chr(97 + i // 26)} {words[i % 2]} film",
            "label": words[i % 2],
        }
        for i in range(count)
    ]


def _csv(path: Path, rows: list[dict[str, str]]) -> Path:
    lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_one_csv_becomes_four_splits_of_fixed_length(load: Load, tmp_path: Path) -> None:
    task = load(TaskSpec(str(_csv(tmp_path / "reviews.csv", _reviews())), max_length=8))
    assert tuple(task.splits) == SPLITS
    assert task.kind == "classification"
    assert task.labels == ("bad", "good")
    assert sum(len(items) for items in task.splits.values()) == 60
    for items in task.splits.values():
        assert items.input_ids.shape == items.attention_mask.shape == (len(items), 8)
        assert items.input_ids.dtype == items.labels.dtype == np.int64
        assert (items.input_ids[items.attention_mask == 0] == task.pad_token_id).all()
        assert (np.diff(items.attention_mask, axis=1) <= 0).all(), "padding stands right"


def test_encoded_labels_follow_their_texts(load: Load, tmp_path: Path) -> None:
    task = load(TaskSpec(str(_csv(tmp_path / "reviews.csv", _reviews())), max_length=8))
    good = 34  # in the vocabulary of the test tokenizer
    train = task.splits["train"]
    assert ((train.input_ids == good).any(axis=1) == (train.labels == 1)).all()


def test_carving_does_not_depend_on_the_order_of_the_rows(load: Load, tmp_path: Path) -> None:
    rows = _reviews()
    one = load(TaskSpec(str(_csv(tmp_path / "a.csv", rows)), max_length=8))
    other = load(TaskSpec(str(_csv(tmp_path / "b.csv", rows[::-1])), max_length=8))
    assert one.digest == other.digest


def test_another_seed_carves_otherwise(load: Load, tmp_path: Path) -> None:
    spec = TaskSpec(str(_csv(tmp_path / "reviews.csv", _reviews())), max_length=8)
    assert load(spec).digest != load(replace(spec, seed=1)).digest


def test_rows_of_one_group_stay_together(load: Load, tmp_path: Path) -> None:
    rows = [{**row, "author": row["text"][0]} for row in _reviews(78)]
    spec = TaskSpec(str(_csv(tmp_path / "r.csv", rows)), max_length=8, group="author")
    firsts = [set(items.input_ids[:, 1].tolist()) for items in load(spec).splits.values()]
    assert sum(len(first) for first in firsts) == len(set().union(*firsts))


def test_splits_that_are_given_are_kept(load: Load, tmp_path: Path) -> None:
    rows = [{"split": "train" if i < 40 else "dev", **r} for i, r in enumerate(_reviews())]
    sizes = {
        split: len(items)
        for split, items in load(TaskSpec(str(_csv(tmp_path / "r.csv", rows)))).splits.items()
    }
    assert sizes["validation"] == 20
    assert sizes["train"] + sizes["calibration"] + sizes["test"] == 40


def test_given_splits_lose_the_texts_that_a_later_one_has_too(load: Load, tmp_path: Path) -> None:
    rows = [{"split": "train", **row} for row in _reviews()]
    rows += [{"split": "dev", **row} for row in _reviews()[:6]]
    rows += [{"split": "test", **row} for row in _reviews()[4:10]]
    task = load(TaskSpec(str(_csv(tmp_path / "r.csv", rows)), max_length=8))
    texts = {split: set(map(bytes, items.input_ids)) for split, items in task.splits.items()}
    assert sum(map(len, texts.values())) == len(set().union(*texts.values())) == 60
    assert (len(texts["validation"]), len(texts["test"])) == (4, 6)
    same = "have a text or group that"
    assert task.notes == (
        f"2 of 6 validation rows {same} test has too, and were left out",
        f"10 of 60 train rows {same} validation or test has too, and were left out",
    )


def test_a_group_of_a_given_split_is_left_out_of_train(load: Load, tmp_path: Path) -> None:
    rows = [{**row, "author": row["text"][0]} for row in _reviews(78)]
    rows = [{"split": "test" if i < 3 else "train", **row} for i, row in enumerate(rows)]
    task = load(TaskSpec(str(_csv(tmp_path / "r.csv", rows)), max_length=8, group="author"))
    firsts = [set(items.input_ids[:, 1].tolist()) for items in task.splits.values()]
    assert sum(len(first) for first in firsts) == len(set().union(*firsts))
    assert task.notes[0].startswith("6 of 75 train rows")


def test_a_split_that_lies_in_another_as_a_whole_is_refused(load: Load, tmp_path: Path) -> None:
    rows = [{"split": s, **row} for s in ("train", "test") for row in _reviews()]
    with pytest.raises(DataError, match=r"every one of the 60 train rows has a text .* test has"):
        load(TaskSpec(str(_csv(tmp_path / "r.csv", rows))))


def test_a_folder_of_split_files_reads_like_a_list_of_files(load: Load, tmp_path: Path) -> None:
    rows = _reviews()
    (tmp_path / "data").mkdir()
    train = _csv(tmp_path / "data" / "reviews_train.csv", rows[:40])
    test = _csv(tmp_path / "data" / "reviews-test.csv", rows[40:])
    by_folder = load(TaskSpec(str(tmp_path / "data")))
    by_list = load(TaskSpec("reviews", files=(("train", str(train)), ("test", str(test)))))
    assert by_folder.digest == by_list.digest
    assert len(by_folder.splits["test"]) == 20


def test_gzipped_json_lines_and_sentence_pairs_are_read(load: Load, tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl.gz"
    rows = [{"one": r["text"], "two": "it was", "y": i % 2} for i, r in enumerate(_reviews())]
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    task = load(TaskSpec(str(path), text=("one", "two"), label="y", max_length=12))
    film, it = 36, 40
    ids = task.splits["train"].input_ids
    assert task.labels == ("0", "1")
    assert (np.argmax(ids == it, axis=1) > np.argmax(ids == film, axis=1)).all()


def test_limits_cut_and_leave_a_fair_mix(load: Load, tmp_path: Path) -> None:
    rows = sorted(_reviews(), key=lambda row: row["label"])
    spec = TaskSpec(str(_csv(tmp_path / "r.csv", rows)), limits=(("train", 20),))
    train = load(spec).splits["train"]
    assert len(train) == 20
    assert 4 <= train.labels.sum() <= 16


def test_whole_number_labels_are_sorted_by_size(load: Load, tmp_path: Path) -> None:
    rows = [{"text": f"{chr(97 + i % 26)} {i}", "label": str(i % 11)} for i in range(300)]
    assert load(TaskSpec(str(_csv(tmp_path / "r.csv", rows)))).labels == tuple(map(str, range(11)))


def test_the_cache_gives_the_same_task(load: Load, tmp_path: Path) -> None:
    spec = TaskSpec(str(_csv(tmp_path / "reviews.csv", _reviews())), max_length=8)
    first, second = load(spec), load(spec)
    assert first.digest == second.digest
    assert len(list((tmp_path / "cache").glob("encoded-*.npz"))) == 1
    for split in SPLITS:
        assert np.array_equal(first.splits[split].input_ids, second.splits[split].input_ids)


def test_the_digest_changes_with_a_label_and_with_the_length(load: Load, tmp_path: Path) -> None:
    rows = _reviews()
    spec = TaskSpec(str(_csv(tmp_path / "a.csv", rows)), max_length=8)
    rows[0]["label"] = "good" if rows[0]["label"] == "bad" else "bad"
    flipped = TaskSpec(str(_csv(tmp_path / "b.csv", rows)), max_length=8)
    assert len({load(s).digest for s in (spec, flipped, replace(spec, max_length=9))}) == 3


def _letters(count: int) -> str:
    """Lines of seven one-letter words: 14 bytes with the line's end, 7 tokens."""
    letters = np.random.default_rng(0).integers(97, 123, (count, 7))
    return "".join(" ".join(map(chr, line)) + "\n" for line in letters)


def test_text_becomes_blocks_whose_first_token_is_not_judged(
    load_decoder: Load, tmp_path: Path
) -> None:
    (tmp_path / "train.txt").write_text(_letters(5_000))
    task = load_decoder(TaskSpec(str(tmp_path / "train.txt"), max_length=16))
    assert task.kind == "language-modelling"
    assert task.labels == ()
    for items in task.splits.values():
        assert (items.labels[:, 0] == -100).all()
        assert np.array_equal(items.labels[:, 1:], items.input_ids[:, 1:])
        assert items.attention_mask.all()


def test_judged_bytes_are_those_of_the_text_behind_each_first_token(
    load_decoder: Load, tmp_path: Path
) -> None:
    (tmp_path / "train.txt").write_text(_letters(5_000))
    task = load_decoder(TaskSpec(str(tmp_path / "train.txt"), max_length=16))
    for items in task.splits.values():
        # Every letter owns the blank before it; a piece's last letter owns its line's end too.
        spare = items.text_bytes - 2 * 15
        assert (spare >= -1).all()
        assert (spare <= 1).all()


def test_several_bytes_and_unknown_characters_are_counted(
    load_decoder: Load, tmp_path: Path
) -> None:
    text = "a é 中文 b\n"
    for split in SPLITS:
        (tmp_path / f"{split}.txt").write_text(text, encoding="utf-8")
    items = load_decoder(TaskSpec(str(tmp_path), max_length=8)).splits["test"]
    assert len(items) == 1
    assert items.text_bytes[0] == len(text.encode()) - len(b"a")
    assert (items.labels != -100).sum() == items.attention_mask.sum() - 1
    assert (items.labels[items.attention_mask == 0] == -100).all()


def test_labels_are_ignored_when_language_modelling_is_asked_for(
    load_decoder: Load, tmp_path: Path
) -> None:
    path = _csv(tmp_path / "r.csv", _reviews())
    spec = TaskSpec(str(path), kind="language-modelling", max_length=4, limits=(("train", 5),))
    task = load_decoder(spec)
    assert task.splits["train"].labels.shape == (5, 4)


def test_without_a_pad_token_the_end_token_pads(
    tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    source = tiny_models["gpt2"]
    (folder / "tokenizer.json").write_text((source / "tokenizer.json").read_text())
    config = json.loads((source / "tokenizer_config.json").read_text())
    config.pop("pad_token")
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "eos_token": "[SEP]"}))
    task = load_task(TaskSpec(str(_csv(tmp_path / "r.csv", _reviews()))), folder, tmp_path / "c")
    train = task.splits["train"]
    assert task.pad_token_id == 3
    assert (train.attention_mask.sum(axis=1) < 32).all()


def test_a_function_gives_rows(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "paretune_rows_here.py").write_text(
        f"def rows():\n    return {_reviews()!r}\n"
        f"def split_rows():\n    return {{'train': {_reviews()!r}, 'dev': {_reviews(6)!r}}}\n"
        "def number():\n    return 3\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    path = _csv(tmp_path / "reviews.csv", _reviews())
    assert load(TaskSpec("paretune_rows_here:rows")).digest == load(TaskSpec(str(path))).digest
    assert len(load(TaskSpec("paretune_rows_here:split_rows")).splits["validation"]) == 6
    with pytest.raises(DataError, match="must return rows"):
        load(TaskSpec("paretune_rows_here:number"))


@pytest.mark.parametrize(
    ("text", "spec", "message"),
    [
        ("text,label\na,x\n", {"text": ("body",)}, "no column 'body'; its columns: text, label"),
        ("text,label\na,x\n", {"label": "y"}, "no column 'y'; its columns: text, label"),
        ("text,label\na,x\n", {"group": "g"}, "no column 'g'"),
        ("text,label\na,x\n", {"split": "part"}, "no column 'part'"),
        ("text,label\na,x\n", {}, "split holds no text"),
        ("text\na\n", {"kind": "classification"}, "no column 'label'"),
        ("text,label\n", {}, "holds no rows"),
        ("text,label\na,x,y\n", {}, "line 2"),
        ("text,label\na,\n", {}, "a row has no 'label'"),
        ("split,text,label\nhalf,a,x\n", {}, "'half' is no split"),
    ],
)
def test_unusable_tables_are_refused(
    load: Load, tmp_path: Path, text: str, spec: dict[str, object], message: str
) -> None:
    (tmp_path / "data.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        load(replace(TaskSpec(str(tmp_path / "data.csv")), **spec))
    assert not (tmp_path / "cache").exists(), "refused before any work"


def _given(**labels: str) -> list[dict[str, str]]:
    return [
        {"split": split, "text": f"{word} {letter} {split}", "label": letter}
        for split, letters in labels.items()
        for letter in letters
        for word in ("good", "bad")
    ]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            _given(train="ab", calibration="ab", dev="ab", test="abc"),
            "test has labels .*: c; train",
        ),
        (_given(train="a", calibration="a", dev="a", test="a"), "every label is 'a'"),
        (_given(calibration="ab", dev="ab", test="ab"), "train split holds no text"),
    ],
)
def test_unusable_labels_are_refused(
    load: Load, tmp_path: Path, rows: list[dict[str, str]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        load(TaskSpec(str(_csv(tmp_path / "data.csv", rows))))


def test_an_unparsable_line_is_named(load: Load, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"text": "a", "label": 1}\n\n{"text": \n')
    with pytest.raises(DataError, match="line 3 is not JSON"):
        load(TaskSpec(str(path)))
    path.write_text("[1]\n")
    with pytest.raises(DataError, match="line 1 is no JSON object but a list"):
        load(TaskSpec(str(path)))
    path.write_text('{"text": "a", "label": 1}\n{"text": "a"}\n')
    with pytest.raises(DataError, match="a row lacks the column 'label'"):
        load(TaskSpec(str(path)))
    path.write_text('{"text": 3, "label": 1}\n')
    with pytest.raises(DataError, match="holds 3"):
        load(TaskSpec(str(path)))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (TaskSpec("nowhere.csv"), "no file nowhere.csv"),
        (TaskSpec("x", files=(("train", "gone.txt"),)), "no file gone.txt"),
        (TaskSpec("x", files=(("half", "gone.txt"),)), "'half' is no split"),
        (TaskSpec("./archive.zip"), "no file archive.zip"),
        (TaskSpec("no_such_module:rows"), "importable from here"),
        (TaskSpec("math:pi"), "is a float, not a function"),
        (TaskSpec("docstring"), "did you mean 'docstrings'"),
        (TaskSpec("docstrings", max_length=1), "max_length 1"),
        (TaskSpec("docstrings", max_length=65), "exceeds the 64 positions"),
        (TaskSpec("docstrings", shares=(("tset", 0.1),)), "did you mean 'test'"),
        (TaskSpec("docstrings", shares=(("test", 0.7), ("validation", 0.3))), "below 1"),
        (TaskSpec("docstrings", limits=(("test", 0),)), "above 0"),
    ],
)
def test_unusable_requests_are_refused(load: Load, spec: TaskSpec, message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        load(spec)


def test_files_that_are_no_text_are_refused(load: Load, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"text,label\n\xff\xfe,1\n")
    (tmp_path / "b.csv.gz").write_bytes(b"text,label\n")
    (tmp_path / "c.zip").write_bytes(b"")
    for name, message in [("a.csv", "UTF-8"), ("b.csv.gz", "UTF-8"), ("c.zip", "cannot be read")]:
        with pytest.raises(DataError, match=message):
            load(TaskSpec("x", files=(("train", str(tmp_path / name)),)))


def test_a_folder_without_a_train_file_is_refused(load: Load, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    _csv(tmp_path / "data" / "test.csv", _reviews())
    with pytest.raises(DataError, match="no file for train"):
        load(TaskSpec(str(tmp_path / "data")))
    _csv(tmp_path / "data" / "dev.csv", _reviews())
    _csv(tmp_path / "data" / "valid.csv", _reviews())
    with pytest.raises(DataError, match="two files for validation"):
        load(TaskSpec(str(tmp_path / "data")))


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    path = _csv(tmp_path / "r.csv", _reviews())
    with pytest.raises(DataError, match="no usable tokenizer"):
        load_task(TaskSpec(str(path)), tmp_path / "empty", tmp_path / "cache")


needs_datasets = pytest.mark.skipif(
    importlib.util.find_spec("datasets") is None, reason="datasets is not installed"
)


@needs_datasets
def test_an_unreachable_hub_says_what_to_do(load: Load) -> None:
    with pytest.raises(DataError, match=r"cannot be loaded .*HF_HUB_OFFLINE.*or give local files"):
        load(TaskSpec("hub:paretune-tests/no-such-data"))


@needs_datasets
def test_a_hub_data_set_without_test_answers_is_split_anew(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    def part(rows: list[dict[str, str]], labels: list[int]) -> datasets.Dataset:
        features = datasets.Features(
            sentence=datasets.Value("string"), label=datasets.ClassLabel(names=["good", "bad"])
        )
        texts = [row["text"] for row in rows]
        return datasets.Dataset.from_dict({"sentence": texts, "label": labels}, features)

    rows = _reviews()
    answers = [0 if row["label"] == "good" else 1 for row in rows]
    data = datasets.DatasetDict(
        train=part(rows[:40], answers[:40]),
        validation=part(rows[40:], answers[40:]),
        test=part(rows[:5], [-1] * 5),
    )
    asked: list[tuple[str, str | None]] = []

    def load_dataset(name: str, config: str | None) -> datasets.DatasetDict:
        asked.append((name, config))
        return data

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    task = load(TaskSpec("hub:someone/reviews:plain"))
    assert asked == [("someone/reviews", "plain")]
    assert task.labels == ("good", "bad")
    assert len(task.splits["test"]) == 20
    assert sum(len(task.splits[s]) for s in ("train", "calibration", "validation")) == 40


def test_a_missing_datasets_package_is_named(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install 'paretune\[eval\]'"):
        load(TaskSpec("someone/reviews"))


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (TaskSpec("docstrings"), "built in"),
        (TaskSpec("a.csv.gz"), "local file a.csv.gz"),
        (TaskSpec("x", files=(("train", "a.csv"),)), "train a.csv"),
        (TaskSpec("hub:glue:sst2"), "data set glue:sst2"),
        (TaskSpec("my.rows:load"), "function my.rows:load"),
    ],
)
def test_a_task_is_described_without_reading_it(spec: TaskSpec, words: str) -> None:
    told = describe_task(replace(spec, limits=(("test", 7),)))
    assert words in told["source"]
    assert "at most 7" in told["splits"]["test"]
    json.dumps(told)


def test_an_unknown_source_lists_the_known_ones(load: Load) -> None:
    with pytest.raises(UnknownName, match=r"FILE\.csv"):
        load(TaskSpec("sentiments"))


def test_the_measured_corpora_load(load: Load, bench_data: Path) -> None:
    sst2 = load(TaskSpec(str(bench_data / "text/sst2.csv.gz")))
    trec = load(TaskSpec(str(bench_data / "text/trec6.csv.gz")))
    sizes = {split: len(items) for split, items in sst2.splits.items()}
    assert (sizes["validation"], sizes["test"]) == (872, 1821)
    assert sst2.notes[0].startswith("3 of 6,920 train rows")
    assert sizes["train"] + sizes["calibration"] == 6917
    assert len(trec.labels) == 6
    assert len(trec.splits["test"]) == 500


def test_the_blocks_of_a_corpus_own_nearly_all_of_its_bytes(
    load_decoder: Load, bench_data: Path
) -> None:
    path = bench_data / "text/wikitext2_test.txt.gz"
    valid = bench_data / "text/wikitext2_valid.txt.gz"
    spec = TaskSpec("wikitext", files=(("train", str(valid)), ("test", str(path))), max_length=64)
    test = load_decoder(spec).splits["test"]
    whole = len(gzip.decompress(path.read_bytes()))
    assert 63 / 64 - 0.01 < test.text_bytes.sum() / whole < 63 / 64 + 0.01
