"""Properties of a prior-fitted network with random meta-parameters, and of the optimizer around it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import l2o
from l2o import Evaluation, Problem, Space, UserError
from l2o.surrogate.pfn import PFNConfig

CONFIG = PFNConfig(
    width=16, heads=4, feedforward=16, layers=2, parameter_width=8, buckets=16, max_trials=16, candidates=16,
    ascent_steps=2, max_pending=2,
)  # fmt: skip
LEARNED = CONFIG.build()
FRESH, BACK = ravel_pytree(LEARNED.init(jax.random.key(0)))
THETA = BACK(FRESH + 0.2 * jax.random.normal(jax.random.key(1), FRESH.shape))  # a fresh one says the same everywhere
LOADED = l2o.Loaded(CONFIG, THETA, {}, [], "")
N, D, M = 12, 3, 5
X, Q = jax.random.uniform(jax.random.key(2), (N, D)), jax.random.uniform(jax.random.key(3), (M, D))
Y = jnp.sin(5 * X[:, 0]) + X[:, 1]
USED, ORDERED = jnp.arange(N) < 9, jnp.array([True, True, False])


@jax.jit
def predict(x, y, used, ordered, q):
    surrogate = LEARNED.surrogate
    return surrogate.predict(THETA, surrogate.read(THETA, x, y, used, ordered), q)


PLAIN = predict(X, Y, USED, ORDERED, Q)


def near(found, expected=PLAIN):
    np.testing.assert_allclose(found.logits, expected.logits, atol=2e-5)
    np.testing.assert_allclose(found.mean, expected.mean, atol=2e-5)


def test_it_says_something():
    assert np.std(PLAIN.logits, axis=0).max() > 1e-3, "points differ"
    assert np.all(np.isfinite(PLAIN.log_expected_improvement(jnp.min(Y))))


def test_observations_have_no_order():
    order = jax.random.permutation(jax.random.key(4), N)
    near(predict(X[order], Y[order], USED[order], ORDERED, Q))


def test_parameters_have_no_order():
    order = jnp.array([2, 0, 1])
    near(predict(X[:, order], Y, USED, ORDERED[order], Q[:, order]))


def test_rows_that_are_not_in_use_are_not_read():
    near(predict(jnp.where(USED[:, None], X, 0.7), jnp.where(USED, Y, jnp.nan), USED, ORDERED, Q))


def test_a_query_does_not_change_another():
    np.testing.assert_allclose(predict(X, Y, USED, ORDERED, Q.at[2:].set(0.1)).logits[:2], PLAIN.logits[:2], atol=2e-5)


def test_other_units_of_the_values():
    found = predict(X, 1e3 * Y - 70, USED, ORDERED, Q)
    np.testing.assert_allclose(found.mean, 1e3 * PLAIN.mean - 70, rtol=1e-3)
    expected = PLAIN.log_prob(jnp.zeros(M)) - np.log(1e3)
    np.testing.assert_allclose(found.log_prob(jnp.full(M, -70.0)), expected, atol=1e-3)


def test_which_category_is_which_does_not_matter():
    x, q = (a.at[:, 2].set(jnp.floor(4 * a[:, 2]) / 4) for a in (X, Q))
    renamed = (a.at[:, 2].set(0.75 - a[:, 2]) for a in (x, q))
    near(*(predict(a, Y, USED, ORDERED, b) for a, b in ((x, q), renamed)))


def test_a_failed_evaluation_counts_as_the_worst():
    failed = predict(X, Y.at[3].set(jnp.nan), USED, ORDERED, Q)
    worst = jnp.max(jnp.where(USED, Y, -jnp.inf).at[3].set(-jnp.inf))
    near(failed, predict(X, Y.at[3].set(worst), USED, ORDERED, Q))


def test_nothing_told_and_nothing_but_failures():
    for y, used in ((Y, jnp.zeros(N, bool)), (jnp.full(N, jnp.inf), USED), (jnp.ones(N), USED)):
        assert np.all(np.isfinite(predict(X, y, used, ORDERED, Q).logits))


def test_what_a_person_asks_for_is_what_the_surrogate_says():
    space = Space.box(jnp.array([0.0, 0.0, 0.0]), jnp.array([2.0, 4.0, 10.0]))
    wide = jnp.array([2.0, 4.0, 10.0])[None]
    found = LOADED.predict(wide * X[:9], Y[:9], wide * Q, space)
    near(found, predict(X, Y, USED, jnp.ones(3, bool), Q))
    lower, upper = found.quantile(0.1), found.quantile(0.9)
    assert np.all(lower < upper) and np.all(found.cdf(lower) < 0.2)
    np.testing.assert_allclose(found.mean - found.confidence_bound(4.0), 2 * jnp.sqrt(found.variance), rtol=1e-4)
    np.testing.assert_allclose(jnp.log(found.expected_improvement(0.5)), found.log_expected_improvement(0.5), rtol=1e-4)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ((X, Y[:3], Q), r"shapes \(12, 3\), \(3,\), \(5, 3\)"),
        ((X, Y, Q[:, :2]), "expected"),
        ((X, Y, Q + 1.0), r"queries\[0\] is no point of the space"),
    ],
)
def test_what_a_person_cannot_ask_for(asked, said):
    with pytest.raises(UserError, match=said):
        LOADED.predict(*asked)


def test_a_family_that_does_not_predict():
    with pytest.raises(TypeError, match="'lstm' optimizer does not predict"):
        l2o.load("lstm").predict(X, Y, Q)


LOW, HIGH = jnp.array([-2.0, 10.0]), jnp.array([-1.0, 30.0])


def run(count, **settings):
    """The points of a run on a plane."""
    optimizer = CONFIG.model_copy(update=settings).build().bind(THETA)

    @jax.jit
    def played(key):
        def step(state, key):
            x, state = optimizer.ask(key, state)
            y = jnp.sum((x - LOW[None]) / (HIGH - LOW)[None], 1)
            return optimizer.tell(key, state, x, Evaluation(y)), x[0]

        problem = Problem(Space.box(LOW, HIGH), (LOW + HIGH) / 2)
        return jax.lax.scan(step, optimizer.init(key, problem), jax.random.split(key, count))[1]

    return np.asarray(played(jax.random.key(0)))


def test_a_run_stays_in_its_box():
    x = run(9, acquisition="ucb", max_trials=6)  # the worst make room
    assert np.all((x >= LOW[None]) & (x <= HIGH[None]))


def test_more_room_than_is_used_changes_nothing():
    np.testing.assert_allclose(run(8), run(8, max_trials=40), rtol=1e-4)


def test_nothing_is_asked_for_twice_where_there_are_finitely_many_points():
    space = Space.mixed(
        jnp.zeros(2), jnp.array([2.0, 2.0]), jnp.array([3, 3]), jnp.zeros(2, int), jnp.array([True, False])
    )
    optimizer = LEARNED.bind(THETA)

    @jax.jit
    def run(key):
        def step(state, key):
            x, state = optimizer.ask(key, state)
            later, _ = optimizer.ask(key, state)  # while x is in progress
            return optimizer.tell(key, state, x, Evaluation(x[:, 0] + x[:, 1])), (x[0], later[0])

        return jax.lax.scan(step, optimizer.init(key, Problem(space, jnp.ones(2))), jax.random.split(key, 9))[1]

    asked, later = (np.asarray(a) for a in run(jax.random.key(1)))
    after = CONFIG.initial
    seen = {tuple(x) for x in asked[:after]}
    for x, y in zip(asked[after:-1], later[after:-1], strict=True):
        assert tuple(x) not in seen, "a new point"
        assert tuple(x) != tuple(y), "nor one that is in progress"
        seen.add(tuple(x))
