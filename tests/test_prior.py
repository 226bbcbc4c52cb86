"""Earlier studies as a prior: believed while figures agree, left out as soon as they do not."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import numpy as np
import optuna
import pytest
from paretune.errors import BadRequest
from paretune.search.samplers.belief import learn
from paretune.search.samplers.candidates import Candidates
from paretune.search.samplers.greybox import GreyBoxSampler
from paretune.search.samplers.observations import Observation, Sight
from paretune.search.samplers.pool import draw, uniform
from paretune.search.samplers.prior import Guided, Lesson, guided, priors
from paretune.search.samplers.problem import Memory, Problem
from paretune.search.samplers.score import outlook
from paretune.search.samplers.surrogate import Kernel, Lengths, Posterior, condition, fit
from paretune.spaces.configuration import Choice, Configuration
from paretune.spaces.paper import Paper
from paretune.spaces.paper_features import paper_features
from paretune.spaces.profile import Attention, FeedForward, Head, Layer, Profile

optuna.logging.set_verbosity(optuna.logging.ERROR)


def suggest(trial):
    """Widths of three layers, and a scale."""
    widths = {f"width_{i}": trial.suggest_int(f"structure.ffn.width_{i}", 1, 8) for i in range(3)}
    scale = trial.suggest_float("structure.ffn.scale", 0.01, 10.0, log=True)
    return Configuration.of(structure=Choice.of("ffn", scale=scale, **widths))


def settings(configuration):
    return dict(configuration.get("structure").settings)


def paper(configuration):
    widths = [v for k, v in settings(configuration).items() if k != "scale"]
    layers = tuple(Layer(Attention(2, 2, 4), FeedForward(8 * w)) for w in widths)
    return Paper(Profile("bert", 8, 20, 16, 2, layers, Head("classification", 2)))


def size(on_paper):
    return float(sum(layer.feed_forward.width for layer in on_paper.profile.layers))


def error(configuration):
    scale = settings(configuration)["scale"]
    return 8.0 / size(paper(configuration)) * (1.0 + math.log10(scale) ** 2)


PROBLEM = Problem(suggest, paper=paper, objectives=("error", "size"), known={1: size})
SIGNS = np.ones(2)


def drawn(count, seed=0):
    rng = np.random.default_rng(seed)
    return [draw(suggest, uniform(rng)) for _ in range(count)]


def lesson(judge=error, count=40, seed=7, metric="error"):
    made = tuple(one.configuration for one in drawn(count, seed))
    rows = np.array([paper_features(one, paper(one)) for one in made])
    return Lesson("earlier", made, rows, {metric: np.array([judge(one) for one in made])})


def seen(count, seed=1):
    """Ended trials of the new study."""
    found = []
    for number, one in enumerate(drawn(count, seed)):
        losses = np.array([error(one.configuration), size(paper(one.configuration))])
        found.append(Observation(number, one, "seen", (Sight(0, losses, {}),)))
    return found


def expected(count, *lessons, reference=(20.0, 200.0)):
    problem = replace(PROBLEM, lessons=lessons)
    candidates = Candidates(problem)
    guesses = priors(problem, candidates, SIGNS)
    none = np.full(2, np.inf)
    frozen = None if reference is None else np.array(reference)
    return outlook(seen(count), candidates, frozen, none, SIGNS, 3, guesses)


def turned(configuration):
    """What is better is called worse."""
    return 1.0 / error(configuration)


def wrong(configuration):
    """Figures of nothing that matters."""
    return 1.0 + int(configuration.digest[:6], 16) % 97


def test_a_source_that_agrees_is_believed_and_predicts_better_than_few_trials():
    cold, warm = expected(4), expected(4, lesson(lambda c: 3.0 * error(c) + 0.1))
    assert isinstance(cold.models[0], Posterior)
    assert isinstance(warm.models[0], Guided)
    assert warm.borne_out
    assert not cold.borne_out
    others = cold.candidates.looked(seen(50, seed=2))
    truth = cold.scales[0](np.array([error(one.drawn.configuration) for one in others]))

    def miss(one):
        return np.abs(one.expect(others, one.candidates.scaled(others))[0][:, 0] - truth).mean()

    assert miss(warm) < 0.5 * miss(cold)


@pytest.mark.parametrize(("count", "seed"), [(3, 7), (20, 7), (20, 8), (20, 9)])
def test_a_lesson_that_contradicts_is_left_out(count, seed):
    """With few figures one in eight agrees by chance; with twenty none."""
    cold, warm = expected(count), expected(count, lesson(wrong, seed=seed))
    assert not warm.borne_out
    assert isinstance(warm.models[0], Posterior)
    at = cold.candidates.scaled(cold.candidates.looked(seen(20, seed=3)))
    assert np.array_equal(warm.models[0].predict(at), cold.models[0].predict(at))


def test_a_source_that_is_turned_round_is_not_followed():
    assert not expected(3, lesson(turned)).borne_out
    cold, warm = expected(12), expected(12, lesson(turned))
    others = cold.candidates.looked(seen(50, seed=2))
    at = cold.candidates.scaled(others)
    truth = cold.scales[0](np.array([error(one.drawn.configuration) for one in others]))
    misses = [np.abs(one.models[0].predict(at)[0] - truth).mean() for one in (cold, warm)]
    assert misses[1] < 1.1 * misses[0]


def test_one_source_that_misleads_does_not_spoil_the_other():
    warm = expected(8, lesson(wrong), lesson(error, seed=8))
    assert isinstance(warm.models[0], Guided)
    at = warm.candidates.scaled(warm.candidates.looked(seen(50, seed=3)))
    alone = expected(8, lesson(error, seed=8))
    assert np.abs(warm.models[0].predict(at)[0] - alone.models[0].predict(at)[0]).mean() < 0.2


def test_only_objectives_that_must_be_measured_have_a_prior():
    only_size = replace(PROBLEM, lessons=(lesson(metric="size"),))
    assert priors(only_size, Candidates(only_size), SIGNS) == {}
    assert not expected(4, lesson(metric="size")).borne_out
    with pytest.raises(BadRequest, match="through papers"):
        priors(replace(only_size, paper=None), Candidates(only_size), SIGNS)


def test_guesses_say_how_far_the_front_goes_while_no_reference_is_frozen():
    cold, warm, misled = (
        expected(3, *lessons, reference=None) for lessons in ((), (lesson(),), (lesson(wrong),))
    )
    ends = [
        [float(scale.back(end)) for scale, end in zip(one.scales, one.reference, strict=True)]
        for one in (cold, warm, misled)
    ]
    assert ends[2] == ends[0]
    assert ends[1][0] > ends[0][0]
    assert ends[1][1] > ends[0][1]


def run(problem, trials, before=()):
    study = optuna.create_study(
        directions=["minimize", "minimize"], sampler=GreyBoxSampler(problem, seed=3, pool=100)
    )
    study.add_trials(list(before))
    for _ in range(trials - len(before)):
        trial = study.ask()
        made = suggest(trial)
        study.tell(trial, (error(made), size(paper(made))))
    return study.trials


def asked(trials):
    return [trial.params for trial in trials]


def test_a_warm_search_is_a_pure_function_of_seed_and_history():
    problem = replace(PROBLEM, lessons=(lesson(),))
    whole = run(problem, 9)
    assert asked(run(replace(problem), 9, whole[:5])) == asked(whole)


def test_a_wrong_source_leaves_the_search_as_it_were_cold_and_a_right_one_does_not():
    cold = asked(run(PROBLEM, 9))
    assert asked(run(replace(PROBLEM, lessons=(lesson(wrong),)), 9)) == cold
    right = asked(run(replace(PROBLEM, lessons=(lesson(),)), 9))
    assert right[:3] == cold[:3]
    assert right != cold


def test_trials_under_way_come_out_as_guessed():
    believed = expected(5, lesson()).models[0]
    waiting = np.full((1, expected(5).tried.shape[1]), 0.5)
    after = believed.given(waiting)
    assert after.predict(waiting)[0] == pytest.approx(believed.predict(waiting)[0], abs=1e-2)
    assert after.predict(waiting)[1][0] < believed.predict(waiting)[1][0]


def test_guesses_are_weighed_by_the_figures():
    """A guess on a wrong scale is put right: rho is learnt."""
    rng = np.random.default_rng(0)
    at = rng.standard_normal((30, 1))
    truth = np.sin(2.0 * at[:, 0])

    class Half:
        taught = (None,)

        def __call__(self, inputs):
            return np.sin(2.0 * inputs[:, :1]) * 5.0

        def alone(self):
            return []

    rows, lengths = np.ones(5, dtype=bool), Lengths.each(1)
    cold = condition(fit(at[:5], truth[:5], lengths), at[:5], truth[:5])
    believe = partial(learn, Memory(), fitted=rows, lengths=lengths)
    warm = guided(Half(), cold, believe, at[:5], truth[:5], np.inf)
    assert isinstance(warm, Guided)
    miss = [np.abs(one.predict(at[5:])[0] - truth[5:]).mean() for one in (cold, warm)]
    assert miss[1] < 0.5 * miss[0]


def test_slopes_are_those_of_bayesian_linear_regression():
    """Closed form: with next to no process, the mean is ridge regression along the column."""
    x = np.array([[0.0, 1.0], [0.0, 2.0], [0.0, -1.0]])
    y = np.array([1.1, 1.9, -1.0])
    kernel = Kernel(np.ones(1), 1e-9, 0.01, np.array([0.25]))
    mean, deviation = condition(kernel, x, y).predict(np.array([[0.0, 3.0]]))
    precision = x[:, 1] @ x[:, 1] / 0.01 + 1 / 0.25
    slope = x[:, 1] @ y / 0.01 / precision
    assert mean[0] == pytest.approx(3.0 * slope, rel=1e-4)
    assert deviation[0] == pytest.approx(3.0 / precision**0.5, rel=1e-3)
