"""The policy on the host: the same as the optimizer, deterministic, never twice the same, in the metric's own units."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import l2o
from l2o import Evaluation, Problem, SearchSpace, UserError
from l2o.host.policy import Policy, Prediction, trials_to_read
from l2o.optformer.optformer import OptFormerConfig
from l2o.optformer.prompt import Range, prompt
from l2o.record import Record, RecordedTrial

TINY = OptFormerConfig(
    bins=16, width=16, heads=2, feedforward=16, encoder_layers=1, decoder_layers=1, max_trials=6, max_pending=3,
    candidates=8, algorithm="random",
)  # fmt: skip
SPACE = SearchSpace.from_dict({
    "lr": {"kind": "float", "low": 1e-4, "high": 1.0, "scale": "log"},
    "layers": {"kind": "integer", "low": 1, "high": 4},
    "opt": ["sgd", "adam"],
})  # fmt: skip


def loaded(**changes):
    config = TINY.model_copy(update=changes)
    return l2o.Loaded(config, jax.jit(config.build().init)(jax.random.key(0)), {}, [], "")


@pytest.fixture(scope="module")
def ranking():
    return Policy(loaded(acquisition="expected_improvement"))


@pytest.fixture(scope="module")
def prior():
    return Policy(loaded())


@pytest.fixture(scope="module")
def optimizer(prior):
    """The optimizer with the same meta-parameters, compiled."""
    return l2o.Optimizer(*map(jax.jit, TINY.build().bind(prior.theta)))


def trials(count, seed=0):
    rng = np.random.default_rng(seed)
    return [RecordedTrial(SPACE.from_unit(rng.uniform(size=3)), float(rng.normal())) for _ in range(count)]


def test_a_suggestion_is_that_of_the_optimizer_with_the_same_history(prior, optimizer):
    record = Record(SPACE, "svm on wine", "loss", trials=trials(5))
    about = prompt(dataclasses.replace(record, algorithm="random", trials=()))
    point = jnp.asarray(SPACE.to_point(record.trials[0].parameters))
    state = optimizer.init(jax.random.key(9), Problem(SPACE.space, point, context=about))
    for trial in record.trials:
        value = Evaluation(jnp.asarray([trial.value]))
        state = optimizer.tell(jax.random.key(8), state, jnp.asarray(SPACE.to_point(trial.parameters))[None], value)
    key = jax.random.key(3)
    for number in (5, 0, 0):  # trials, suggestion, attempt
        key = jax.random.fold_in(key, number)
    x, _ = optimizer.ask(key, state)
    assert SPACE.from_point(x[0]) == pytest.approx(SPACE.from_point(SPACE.to_point(prior.suggest(record, seed=3)[0])))


def test_suggestions_are_legal_different_and_decided_by_record_and_seed(ranking, prior):
    record = Record(SPACE, trials=[*trials(4), RecordedTrial(SPACE.from_unit([0.5, 0.5, 0.5]), state="pending")])
    for policy in (ranking, prior):
        found = policy.suggest(record, 5, seed=1)
        tokens = [tuple(SPACE.to_tokens(a, 16)) for a in (*found, record.trials[-1].parameters)]
        assert len(set(tokens)) == 6
        assert policy.suggest(record, 2, seed=1) == found[:2] != policy.suggest(record, 2, seed=2)


@pytest.mark.slow
def test_a_space_that_is_used_up_is_suggested_again(ranking):
    space = SearchSpace.from_dict({"only": ["a", "b"], "one": {"kind": "integer", "low": 3, "high": 3}})
    found = ranking.suggest(Record(space), 3)
    assert {a["only"] for a in found} == {"a", "b"} and all(a["one"] == 3 for a in found)


def test_any_number_of_trials_and_failed_ones(ranking):
    failed = [RecordedTrial(t.parameters, state="infeasible") for t in trials(3, seed=1)]
    many = [RecordedTrial(t.parameters, state="pending") for t in trials(9, seed=2)]
    for some in ([], failed, trials(1), trials(40), [*failed, *trials(12), *many]):
        assert SPACE.to_tokens(ranking.suggest(Record(SPACE, trials=some))[0], 16)


def test_the_best_and_the_latest_trials_are_kept():
    values = np.array([5.0, 0.0, 4.0, np.nan, 3.0, 6.0, 7.0, 8.0])
    assert trials_to_read(values, 8) == list(range(8)) and trials_to_read(values, 0) == []
    assert trials_to_read(values, 4) == [1, 4, 6, 7]


def test_what_is_pending_matters(prior):
    """Another trial in progress is another context, so some draws are others."""
    done = trials(3)
    open_ = [RecordedTrial(t.parameters, state="pending") for t in trials(3, seed=5)]
    found = [
        [prior.suggest(Record(SPACE, trials=[*done, *some]), 4, seed=seed) for seed in range(8)]
        for some in (open_[:1], open_[1:2])
    ]
    assert found[0] != found[1]


def test_earlier_studies_are_read_and_scaled_by_their_own_range(ranking):
    record, earlier = Record(SPACE, trials=trials(2)), Record(SPACE, trials=trials(6, seed=3))
    larger = [t._replace(value=1e6 * t.value + 1e7) for t in earlier.trials]
    found = [
        ranking.predict(record, [SPACE.from_unit([0.1, 0.9, 0.2])], earlier=some)[0].probabilities
        for some in ([], [earlier], [dataclasses.replace(earlier, trials=larger)])
    ]
    assert np.abs(found[0] - found[1]).max() > 1e-4
    np.testing.assert_allclose(found[1], found[2], atol=1e-5)
    assert ranking.suggest(record, 2, earlier=[earlier] * 3)
    other = Record(SearchSpace.from_dict({"x": (0.0, 1.0)}))
    with pytest.raises(UserError, match="earlier study 0 has another search space"):
        ranking.suggest(record, earlier=[other])


@pytest.mark.parametrize("goal", ["minimize", "maximize"])
def test_predictions_are_in_the_metrics_own_units(ranking, goal):
    """Bins cover all values seen, and a study in other units has the same predictions in these."""
    points = [SPACE.from_unit([0.2, 0.4, 0.9]), SPACE.from_unit([0.7, 0.1, 0.1])]
    some, other = (trials(5), [t._replace(value=100 * t.value - 3e3) for t in trials(5)])
    found, scaled = (ranking.predict(Record(SPACE, goal=goal, trials=each), points) for each in (some, other))
    for a, b in zip(found, scaled, strict=True):
        values = [t.value for t in some]
        assert np.all(np.diff(a.edges) > 0) and a.edges[0] < min(values) < max(values) < a.edges[-1]
        np.testing.assert_allclose(a.probabilities.sum(), 1, rtol=1e-5)
        np.testing.assert_allclose(b.edges, 100 * a.edges - 3e3, rtol=1e-3, atol=0.1)
        np.testing.assert_allclose(b.mean(), 100 * a.mean() - 3e3, rtol=1e-3)
        assert a.quantile(0.1) < a.quantile(0.5) < a.quantile(0.9)


def test_earlier_studies_may_have_their_parameters_in_another_order(ranking):
    turned = SearchSpace(SPACE.parameters[::-1])
    other = [trial._replace(parameters=dict(reversed(trial.parameters.items()))) for trial in trials(4)]
    record = Record(SPACE, trials=trials(2, seed=1))
    a, b = Record(SPACE, trials=trials(4)), Record(turned, trials=other)
    assert ranking._earlier_rows(record, [b]) == ranking._earlier_rows(record, [a])


@pytest.mark.parametrize("values", [[1e300, 1.0, 2.0, 4.0], [-1e300, 1e300, 0.0, 1.0], [3.0, 3.0, 3.0, 3.0]])
def test_huge_and_equal_values(ranking, values):
    """No diverged trial counts as failed, and all is finite."""
    record = Record(SPACE, trials=[t._replace(value=v) for t, v in zip(trials(4), values, strict=True)])
    assert SPACE.to_point(ranking.suggest(record)[0]) is not None
    tokens = ranking._history(record, [], []).tokens[:4, -1]
    assert np.all(tokens < TINY.bins)
    assert len(set(tokens.tolist())) == min(
        len(set(values)), 3 if values[0] < 0 else 4
    )  # 0 and 1 are one, seen from 1e300
    if len(set(values)) > 1:
        (found,) = ranking.predict(record, [record.trials[0].parameters])
        assert np.all(np.diff(found.edges) >= 0) and np.all(np.isfinite(found.edges))


def test_odd_studies(ranking):
    """One category, twelve parameters, names of 500 characters and of none of ASCII."""
    space = SearchSpace.from_dict(
        {
            "x" * 500: (0.0, 1.0),
            "größe": ["only"],
            **{f"p{i}": {"kind": "integer", "low": 0, "high": i} for i in range(10)},
        }
    )
    rng = np.random.default_rng(0)
    told = [RecordedTrial(space.from_unit(rng.uniform(size=12)), v) for v in (1.0, 2.0, 3.0)]
    told[1] = told[1]._replace(value=None, state="infeasible")
    record = Record(space, "学習" * 250, "é" * 500, "maximize", trials=told)
    (found,) = ranking.suggest(record)
    space.to_point(found)
    assert found["größe"] == "only" and np.isfinite(ranking.predict(record, [found])[0].mean())


def test_a_longer_study_compiles_nothing(caplog):
    policy = Policy(loaded(acquisition="expected_improvement", temperature=0.9))
    with jax.log_compiles(), caplog.at_level("WARNING"):
        for count in (0, 1, 2, 5, 6, 9):
            policy.suggest(Record(SPACE, trials=trials(count)))
    assert sum(line.startswith("Compiling jit(chosen)") for line in caplog.messages) == 1


def test_a_prediction_needs_units(ranking):
    for some in ([], trials(1), [trials(1)[0]] * 2):
        with pytest.raises(UserError, match="two different values"):
            ranking.predict(Record(SPACE, trials=some), [SPACE.from_unit([0.5, 0.5, 0.5])])
    with pytest.raises(UserError, match=r"a quantile is 2\.0"):
        Prediction(np.array([0.0, 1.0]), np.array([1.0]), 0.0).quantile(2.0)


def test_means_and_quantiles_of_a_prediction():
    p = Prediction(np.array([0.0, 1.0, 3.0]), np.array([0.5, 0.5]), 0.0)
    assert p.mean() == 0.5 * 0.5 + 0.5 * 2 and p.quantile(0.25) == 0.5 and p.quantile(0.75) == 2.0


@pytest.mark.parametrize("curve", [0.1, 4.0])
def test_values_of_a_range_are_the_inverse_of_shares(curve):
    scale = Range(*(jnp.asarray(a) for a in (-2.0, 5.0, curve)))
    values = jnp.array([-4.0, -2.0, -1.5, 0.0, 3.0, 9.0])
    np.testing.assert_allclose(scale.value(scale.share(values)), values, rtol=1e-5, atol=1e-5)


def test_asking_again_marks_trials_as_in_progress(optimizer):
    """The second point knows of the first, and whatever comes back is no longer in progress."""
    space, about = SPACE.space, prompt(Record(SPACE, "svm on wine", "loss", algorithm="random"))
    state = optimizer.init(jax.random.key(0), Problem(space, space.from_unit(jnp.full(3, 0.5)), context=about))
    points = []
    for i in range(4):
        x, state = optimizer.ask(jax.random.key(i), state)
        points.append(x)
    assert state.inner.opened == 3  # of which it sees the latest
    tokens = [space.to_tokens(x[0], 16) for x in points]
    np.testing.assert_array_equal(state.inner.open, jnp.stack(tokens[1:]))
    for i in (2, 0, 3, 1):
        state = optimizer.tell(jax.random.key(0), state, points[i], Evaluation(jnp.asarray([float(i)])))
    assert state.inner.opened == 0 and state.inner.told == 4
    np.testing.assert_array_equal(state.inner.values[:4], [2.0, 0.0, 3.0, 1.0])


def test_lookahead_needs_an_acquisition_function():
    with pytest.raises(UserError, match="lookahead ranks candidates"):
        loaded().configured(lookahead=1)


@pytest.mark.slow  # test_acquisition.py has the choice with lookahead
def test_a_policy_looks_ahead():
    policy = Policy(loaded(acquisition="expected_improvement", lookahead=1, candidates=4))
    assert policy.suggest(Record(SPACE, trials=trials(3)))


def test_another_family_is_no_policy():
    with pytest.raises(UserError, match="found kind 'rnn'"):
        Policy(l2o.load("rnn"))
