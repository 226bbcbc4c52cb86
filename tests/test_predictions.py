"""Asking a model item by item, and the figures that its answers make."""

import math

import numpy as np
import pytest
from paretune.errors import StepFailed, StorageFailed
from paretune.evaluators.catalogue import metric
from paretune.evaluators.metric import Evidence, Predictions
from paretune.evaluators.quality.predictions import (
    chosen_items,
    load_predictions,
    predict,
    predictions_digest,
    save_predictions,
)
from paretune.spaces.paper import Paper, Workload
from paretune.spaces.profile import Head, Profile
from paretune.spaces.task import Items
from sklearn.metrics import f1_score

PAPER = Paper(Profile("bert", 8, 10, 8, 2, (), Head("classification", 2)))
CLASSES = 3


class Table:
    """A runner that looks its answers up by the first token."""

    def __init__(self, answers: np.ndarray):
        self.answers = answers
        self.asked = []

    def logits(self, batch):
        self.asked.append(len(batch.items))
        return self.answers[batch.input_ids[:, 0]]

    def generate(self, batch, tokens):
        raise AssertionError("nobody asked for text")

    def files(self):
        return []

    def close(self):
        pass


def classification(n: int, seed: int = 0) -> tuple[Items, Table]:
    rng = np.random.default_rng(seed)
    ids = np.arange(n)[:, None] * np.ones((1, 4), dtype=np.int64)
    items = Items(ids, np.ones_like(ids), rng.integers(0, CLASSES, n), np.full(n, 9))
    return items, Table(rng.normal(size=(n, CLASSES)))


def language(n: int, length: int = 6, vocabulary: int = 7) -> tuple[Items, Table]:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, vocabulary, (n, length))
    labels[:, 0] = -100
    labels[: n // 2, 4:] = -100
    ids = np.arange(n)[:, None] * np.ones((1, length), dtype=np.int64)
    items = Items(ids, np.ones_like(ids), labels, rng.integers(5, 30, n))
    return items, Table(rng.normal(size=(n, length, vocabulary)))


def figure(name: str, predictions: Predictions):
    return metric(name).evaluate(Evidence(PAPER, Workload(), predictions=predictions))


def test_the_items_of_a_rung_are_among_the_next_rungs():
    shares = (0.1, 0.25, 0.5, 1.0)
    sets = [set(chosen_items(400, share)) for share in shares]
    assert [len(s) for s in sets] == [40, 100, 200, 400]
    assert sets[0] < sets[1] < sets[2] < sets[3]


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1])
def test_a_share_outside_its_range_is_refused(share):
    with pytest.raises(ValueError, match="lies in"):
        chosen_items(10, share)


def test_the_smallest_share_still_asks_one_item():
    assert len(chosen_items(10, 0.001)) == 1


def test_answers_stand_beside_their_items_whatever_the_batch():
    items, runner = classification(50)
    told = []
    found = predict(
        runner,
        items,
        task_kind="classification",
        batch=7,
        share=0.5,
        report=lambda done, total: told.append((done, total)),
    )
    assert runner.asked == [7, 7, 7, 4]
    assert told[-1] == (25, 25)
    np.testing.assert_array_equal(found.items, chosen_items(50, 0.5))
    np.testing.assert_array_equal(found.labels, items.labels[found.items])
    np.testing.assert_allclose(found.logits, runner.answers[found.items], rtol=1e-6)
    again = predict(runner, items, task_kind="classification", batch=50, share=0.5)
    assert predictions_digest(again) == predictions_digest(found)


def test_an_answer_that_is_no_number_is_a_diverged_training():
    items, runner = classification(5)
    runner.answers[3, 1] = np.nan
    with pytest.raises(StepFailed, match="not finite") as failure:
        predict(runner, items, task_kind="classification")
    assert failure.value.kind == "diverged"


def test_predictions_come_back_from_their_file(tmp_path):
    items, runner = language(6)
    found = predict(runner, items, task_kind="language-modelling")
    back = load_predictions(tmp_path, save_predictions(tmp_path, found))
    assert predictions_digest(back) == predictions_digest(found)
    assert back.logits is None
    np.testing.assert_array_equal(back.nll, found.nll)


def test_a_file_that_is_not_what_its_name_says_is_refused(tmp_path):
    items, runner = classification(6)
    name = save_predictions(tmp_path, predict(runner, items, task_kind="classification"))
    (tmp_path / f"{name}.npz").rename(tmp_path / f"{'0' * 32}.npz")
    with pytest.raises(StorageFailed, match="not what its name says"):
        load_predictions(tmp_path, "0" * 32)
    with pytest.raises(StorageFailed, match="cannot be read"):
        load_predictions(tmp_path, name)


def test_accuracy_and_f1_are_sklearns():
    items, runner = classification(200)
    found = predict(runner, items, task_kind="classification")
    answers = runner.answers.argmax(1)
    assert figure("accuracy", found).value == pytest.approx((answers == items.labels).mean())
    expected = f1_score(items.labels, answers, average="macro")
    assert figure("macro_f1", found).value == pytest.approx(expected)
    assert figure("accuracy", found).n == 200
    assert figure("accuracy", found).over == "items"
    most = np.bincount(items.labels).max() / 200
    assert dict(figure("accuracy", found).conditions)["majority_share"] == pytest.approx(most)


def test_all_right_on_ten_items_is_not_certainty():
    labels = np.zeros(10, dtype=np.int64)
    logits = np.tile([1.0, 0.0], (10, 1))
    found = figure("accuracy", Predictions(np.arange(10), labels=labels, logits=logits))
    assert found.value == 1.0
    assert found.stderr > 0.05


@pytest.mark.parametrize("name", ["accuracy", "macro_f1", "perplexity", "bits_per_byte"])
def test_per_item_values_average_to_the_figure(name):
    make = classification if name in {"accuracy", "macro_f1"} else language
    kind = "classification" if make is classification else "language-modelling"
    items, runner = make(40)
    found = predict(runner, items, task_kind=kind)
    per_item = metric(name).per_item(found)
    assert per_item.shape == (40,)
    assert per_item.mean() == pytest.approx(figure(name, found).value)


@pytest.mark.parametrize("name", ["accuracy", "macro_f1", "perplexity", "bits_per_byte"])
def test_the_standard_error_is_what_new_items_show(name):
    rng = np.random.default_rng(3)
    values, errors = [], []
    for _ in range(300):
        labels = rng.integers(0, CLASSES, 120)
        logits = rng.normal(size=(120, CLASSES)) + 1.5 * np.eye(CLASSES)[labels]
        tokens = rng.integers(3, 12, 120)
        nll = rng.gamma(4.0, 0.4, 120) * tokens
        classes = name in {"accuracy", "macro_f1"}
        items = np.arange(120)
        found = (
            Predictions(items, labels=labels, logits=logits)
            if classes
            else Predictions(items, nll=nll, tokens=tokens, text_bytes=4 * tokens)
        )
        values.append(figure(name, found).value)
        errors.append(figure(name, found).stderr)
    assert 0.85 < np.mean(errors) / np.std(values) < 1.15


def test_likelihood_is_judged_one_token_ahead():
    items, runner = language(5)
    found = predict(runner, items, task_kind="language-modelling", batch=2)
    nll = 0.0
    for i in range(5):
        for t in range(5):
            wanted = items.labels[i, t + 1]
            if wanted != -100:
                given = runner.answers[i, t]
                nll += math.log(np.exp(given).sum()) - given[wanted]
    tokens = (items.labels[:, 1:] != -100).sum()
    assert figure("perplexity", found).value == pytest.approx(math.exp(nll / tokens))
    expected = nll / math.log(2) / items.text_bytes.sum()
    assert figure("bits_per_byte", found).value == pytest.approx(expected)


def test_a_large_vocabulary_is_asked_in_smaller_batches(monkeypatch):
    from paretune.evaluators.quality import predictions

    items, runner = language(10)
    one_text = runner.answers[0].nbytes
    monkeypatch.setattr(predictions, "LOGITS_BYTES", 3 * one_text)
    few = predict(runner, items, task_kind="language-modelling", batch=8)
    assert runner.asked == [1, 3, 3, 3]
    monkeypatch.setattr(predictions, "LOGITS_BYTES", one_text // 2)
    alone = predict(runner, items, task_kind="language-modelling", batch=8)
    assert runner.asked[4:] == [1] * 10
    np.testing.assert_array_equal(few.nll, alone.nll)


def test_a_uniform_model_has_the_vocabulary_as_perplexity():
    items, runner = language(4, vocabulary=7)
    runner.answers[:] = 0.0
    found = predict(runner, items, task_kind="language-modelling")
    assert figure("perplexity", found).value == pytest.approx(7)
    assert figure("perplexity", found).stderr == pytest.approx(0, abs=1e-9)


def test_a_classifier_has_no_perplexity_and_a_language_model_no_accuracy():
    items, runner = classification(4)
    assert (
        "no language"
        in figure("perplexity", predict(runner, items, task_kind="classification")).reason
    )
    items, runner = language(4)
    found = predict(runner, items, task_kind="language-modelling")
    assert "no classes" in figure("accuracy", found).reason


def test_a_class_that_never_occurs_does_not_lower_f1():
    labels = np.array([0, 1, 0, 1])
    logits = np.array([[2.0, 1, 0], [1, 2, 0], [2, 1, 0], [1, 2, 0]])
    found = figure("macro_f1", Predictions(np.arange(4), labels=labels, logits=logits))
    assert found.value == pytest.approx(1.0)
