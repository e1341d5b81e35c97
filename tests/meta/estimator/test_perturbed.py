"""ES, PES and NRES: unbiased where they claim to be, and equal to their formulas computed by hand from the noise."""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.bench import influence
from l2o.core import LearnedOptimizer, Objective, Optimizer, Problem, Task
from l2o.lift.optax import gradient_based
from l2o.registry import parse
from l2o.space.domain import Space
from meta.curriculum import FixedConfig
from meta.estimator import EstimatorConfig
from meta.estimator.perturbed import rank_scores, std_scores
from meta.objective import SumConfig
from tasks.family import TaskFamily
from tasks.quadratic import QuadraticConfig

HORIZON, WINDOW, REPEATS = 100, 5, 4000
_, EXACT = influence.exact(0.5, HORIZON)


# influence balancing, where a window of 5 sees only what points the wrong way


@functools.cache
def influenced(kind, window=None, repeats=REPEATS, **fields):
    """Independent estimates of the gradient at theta = 1/2, from the same keys every time."""
    fields = {"kind": kind, "stagger": False, "unroll_length": window or HORIZON, **fields}
    if kind != "backprop":
        fields["sigma"] = 0.1
    return influence.estimates(parse(EstimatorConfig, fields), jnp.asarray(0.5), HORIZON, repeats)


def standard_error(values):
    return values.std(ddof=1) / len(values) ** 0.5


@pytest.mark.parametrize(
    ("kind", "window", "fields"),
    [
        ("es", None, {}),
        ("es", None, {"antithetic": False}),
        ("es", None, {"pairs": 4, "repeats": 1000}),
        ("pes", WINDOW, {}),
        ("pes", 25, {"antithetic": False}),
        ("nres", WINDOW, {}),
        ("nres", WINDOW, {"antithetic": False}),
    ],
)
def test_unbiased(kind, window, fields):
    found = influenced(kind, window, **fields)
    assert standard_error(found) < 0.06 * EXACT, "too noisy to fail"
    assert abs(found.mean() - EXACT) < 4 * standard_error(found)


@pytest.mark.parametrize("kind", ["backprop", "es"])
def test_truncation_without_memory_points_the_wrong_way(kind):
    found = influenced(kind, WINDOW, repeats=2 if kind == "backprop" else REPEATS)
    assert found.mean() + 4 * standard_error(found) < 0 < EXACT


def test_the_windows_of_nres_add_up_to_es_on_the_whole_run():
    whole = influenced("es")
    np.testing.assert_allclose(influenced("nres", WINDOW), whole, rtol=1e-4, atol=1e-5 * np.abs(whole).max())


def test_antithetic_noise_has_the_smaller_variance():
    assert 1.5 * influenced("es").var() < influenced("es", antithetic=False).var()


# an optimizer that asks its meta-parameters and keeps them as its state: the noise can be read off the state

SIGMA, THETA = 0.5, jnp.array([0.3, -0.2])
ECHO = LearnedOptimizer(
    lambda key: THETA,
    lambda theta: Optimizer(
        lambda key, problem: theta,
        lambda key, state: (theta[None], state),
        lambda key, state, x, evaluation: theta,
    ),
)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Bowl(TaskFamily):
    """Bowls around a random centre; a loss above the ceiling is reported as infinite."""

    ceiling: float = np.inf

    def sample(self, key):
        return jax.random.normal(key, (2,))

    def task(self, params):
        def loss(key, x):
            value = bowl(x, params)
            return jnp.where(value > self.ceiling, jnp.inf, value)

        return Task.from_loss(loss, Problem(Space.free(), params))


def bowl(x, centre):
    return (x - centre) ** 2 @ np.array([1.0, 3.0], np.float32)


def build(learned, kind, horizon, tasks, objective=SumConfig().build(), **fields):
    config = parse(EstimatorConfig, {"kind": kind, "sigma": SIGMA, "stagger": False, **fields})
    return config.build(learned, objective, horizon, tasks)


def begin(estimator, seed, theta, family):
    """The first state, and the estimate compiled."""
    return jax.jit(estimator.init)(jax.random.key(seed), theta, family), jax.jit(estimator.estimate)


def scored(losses, finite, pairs, normalisation):
    """The losses after normalisation, task by task, in numpy."""
    out = np.zeros_like(losses)
    for first in range(0, len(losses), pairs):
        at = np.arange(first, first + pairs)[finite[first : first + pairs]]
        some = losses[at]
        if normalisation == "std":
            some = (some - some.mean()) / some.std()
        elif normalisation == "rank":
            some = some.ravel().argsort().argsort().reshape(some.shape) / (some.size - 1) - 0.5
        out[at] = some
    return out


@pytest.mark.parametrize(
    ("kind", "normalisation", "antithetic"),
    [
        ("pes", "none", True),
        ("pes", "std", False),
        ("pes", "rank", True),
        ("nres", "none", False),
        ("nres", "std", True),
        ("nres", "rank", False),
    ],
)
def test_the_gradient_is_the_formula_and_failed_pairs_are_left_out(kind, normalisation, antithetic):
    """Three windows of two updates; many of the losses are infinite."""
    tasks, pairs = 3, 5
    chosen = build(
        ECHO, kind, 6, tasks, pairs=pairs, unroll_length=2, normalisation=normalisation, antithetic=antithetic
    )
    family = FixedConfig(length=6).family(Bowl(ceiling=8.0))
    (state, estimate), summed, drawn = begin(chosen, 0, THETA, family), 0.0, []
    for _ in range(3):
        gradient, state, loss = estimate(THETA, state, family)
        members = np.asarray(state.run.state, np.float64)
        noise = (members - np.asarray(THETA)) / SIGMA
        drawn.append(noise)
        summed = summed + noise if kind == "pes" else noise
        losses = np.asarray(bowl(members, np.asarray(state.run.params[0])[:, None]))
        finite = np.asarray(losses <= 8.0)
        kept = finite.all(axis=1)
        assert 0 < kept.sum() < kept.size and (finite.any(axis=1) & ~kept).any(), "a pair with one failed member"
        weight = scored(np.where(finite, losses, 0.0), kept, pairs, normalisation)
        expected = np.einsum("pm,pmi->i", weight, summed) / (2 * SIGMA * tasks * pairs)
        np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(loss, losses[finite].mean(), rtol=1e-5)

    drawn = np.stack(drawn)
    if antithetic:
        np.testing.assert_allclose(drawn[:, :, 0], -drawn[:, :, 1], atol=1e-6)
    else:
        assert np.abs(drawn[:, :, 0] + drawn[:, :, 1]).min() > 1e-4
    again = np.abs(np.diff(drawn, axis=0))
    assert again.max() < 1e-6 if kind == "nres" else again.min() > 1e-4, "one noise per run, or one per window"
    assert np.abs(drawn.mean()) < 4 / 90**0.5 and len(np.unique(drawn[0, :, 0])) == 2 * tasks * pairs


def test_if_every_pair_fails_the_gradient_is_zero_and_the_loss_is_not_a_number():
    family = FixedConfig(length=2).family(Bowl(ceiling=-1.0))
    state, estimate = begin(build(ECHO, "es", 2, 2, pairs=2, normalisation="std"), 0, THETA, family)
    gradient, state, loss = estimate(THETA, state, family)
    np.testing.assert_array_equal(gradient, 0.0)
    assert np.isnan(loss) and np.all(np.isfinite(state.run.state))


@pytest.mark.parametrize(("normalisation", "factor"), [("none", 1000.0), ("std", 1.0), ("rank", 1.0)])
def test_the_scale_of_the_objective(normalisation, factor):
    objective = SumConfig().build()

    def scaled(carry, t, x, evaluation):
        carry, loss = objective.step(carry, t, x, evaluation)
        return carry, 1000.0 * loss

    family, gradients = FixedConfig(length=2).family(Bowl()), []
    for chosen in (objective, Objective(objective.init, scaled)):
        estimator = build(ECHO, "es", 2, 2, chosen, pairs=3, normalisation=normalisation)
        state, estimate = begin(estimator, 1, THETA, family)
        gradients.append(estimate(THETA, state, family)[0])
    assert np.abs(gradients[0]).min() > 1e-2
    np.testing.assert_allclose(gradients[1], factor * gradients[0], rtol=1e-4)


def test_both_runs_start_a_window_of_truncated_es_from_the_state_of_the_first():
    family = FixedConfig(length=4).family(Bowl())
    for kind, together in (("es", True), ("pes", False), ("nres", False)):
        state, estimate = begin(build(ECHO, kind, 4, 2, unroll_length=2), 2, THETA, family)
        _, state, _ = estimate(THETA, state, family)
        assert np.array_equal(state.run.state[:, 0], state.run.state[:, 1]) == together


def test_the_pairs_of_a_task_share_it_and_differ_in_their_noise():
    """At the beginning, and again after all runs have restarted."""
    chosen, family = build(ECHO, "nres", 2, 3, pairs=2, unroll_length=1), FixedConfig(length=2).family(Bowl())
    assert chosen.runs == 6
    state, estimate = begin(chosen, 3, THETA, family)
    centres, noises = [], []
    for steps in (0, 1, 2, 1):
        np.testing.assert_array_equal(state.run.step, steps)
        for shared in (state.run.params[0], state.run.key):
            first, second = np.asarray(shared)[0::2], np.asarray(shared)[1::2]
            np.testing.assert_array_equal(first, second)
            assert len(np.unique(first, axis=0)) == 3
        centres.append(np.asarray(state.run.params[0]))
        noises.append(np.asarray(state.key))
        assert len(np.unique(noises[-1], axis=0)) == 6
        _, state, _ = estimate(THETA, state, family)
    np.testing.assert_array_equal(centres[0], centres[2])
    assert not np.isin(centres[3], centres[0]).any() and len(np.unique(np.concatenate(noises), axis=0)) == 12


@pytest.mark.parametrize(("tasks", "pairs", "expected"), [(4, 1, [0, 2, 4, 6]), (2, 2, [0, 0, 4, 4])])
def test_staggered_runs_cover_the_horizon_and_restart_at_its_end(tasks, pairs, expected):
    chosen = build(ECHO, "pes", 7, tasks, pairs=pairs, unroll_length=2, stagger=True)
    family = FixedConfig(length=7).family(Bowl())
    state, estimate = begin(chosen, 4, THETA, family)
    assert state.run.step.tolist() == expected
    for _ in range(5):
        before = state
        _, state, _ = estimate(THETA, state, family)
        over = np.asarray(before.run.step) >= 7
        np.testing.assert_array_equal(state.run.step, np.where(over, 0, before.run.step) + 2)
        same = np.all(np.asarray(state.run.params[0]) == np.asarray(before.run.params[0]), axis=1)
        np.testing.assert_array_equal(same, ~over)
        drawn = (np.asarray(state.run.state)[over, 0] - np.asarray(THETA)) / SIGMA
        np.testing.assert_allclose(np.asarray(state.noise)[over, 0], drawn, rtol=1e-4, atol=1e-5)


def test_a_pair_with_a_member_that_left_the_finite_numbers_is_restarted_alone():
    family = FixedConfig(length=6).family(Bowl())
    state, estimate = begin(build(ECHO, "pes", 6, 3, unroll_length=2), 8, THETA, family)
    _, before, _ = estimate(THETA, state, family)
    broken = before._replace(run=before.run._replace(state=before.run.state.at[1, 1, 0].set(jnp.nan)))
    gradient, after, _ = estimate(THETA, broken, family)
    assert after.run.step.tolist() == [4, 2, 4]
    assert [bool(np.array_equal(before.run.params[0][i], after.run.params[0][i])) for i in range(3)] == [
        True, False, True,
    ]  # fmt: skip
    assert np.all(np.isfinite(gradient)) and np.all(np.isfinite(after.run.state))
    drawn = (np.asarray(after.run.state)[1, 0] - np.asarray(THETA)) / SIGMA
    np.testing.assert_allclose(after.noise[1, 0], drawn, rtol=1e-4, atol=1e-5)


# gradient descent with two meta-parameters on quadratics

RATES = {"rate": jnp.array(-3.0), "momentum": jnp.array(0.2)}
DESCENT = gradient_based(
    lambda key: RATES, lambda theta, horizon: optax.sgd(jnp.exp(theta["rate"]), jax.nn.sigmoid(theta["momentum"]))
)
QUADRATIC = QuadraticConfig(dimension=2, start_scale=1.0).build()


def flat(gradient):
    return np.array([gradient["momentum"], gradient["rate"]])


def descend(theta, params, steps):
    """The values after 1, ..., steps updates."""
    (w, y, x), _ = params
    velocity, values = jnp.zeros(2), []
    for _ in range(steps):
        velocity = 2 * w.T @ (w @ x - y) + jax.nn.sigmoid(theta["momentum"]) * velocity
        x = x - jnp.exp(theta["rate"]) * velocity
        values.append(jnp.sum((w @ x - y) ** 2))
    return jnp.stack(values)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["es", "pes"])
def test_little_noise_and_many_pairs_give_the_gradient(kind):
    """The mean of e e^T over P pairs is the identity up to about sqrt(3 / P)."""
    tasks, pairs, steps = 2, 4000, 4
    chosen = build(DESCENT, kind, steps, tasks, pairs=pairs, sigma=3e-3, unroll_length=steps)
    family = FixedConfig(length=steps).family(QUADRATIC)
    state, estimate = begin(chosen, 5, RATES, family)
    gradient, state, loss = estimate(RATES, state, family)
    params = [jax.tree.map(lambda a, i=i: a[i], state.run.params) for i in range(0, tasks * pairs, pairs)]
    mean = jax.jit(jax.value_and_grad(lambda t: sum(descend(t, p, steps).mean() for p in params) / tasks))
    expected_loss, expected = mean(RATES)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-3)
    error = np.linalg.norm(flat(gradient) - flat(expected)) / np.linalg.norm(flat(expected))
    assert error < 4 * (3 / pairs) ** 0.5


def test_windows_of_nres_that_do_not_divide_the_horizon_add_up_too():
    """Windows of 2, 2 and 1 updates: each is divided by 2, the whole run by 5."""
    family = FixedConfig(length=5).family(QUADRATIC)
    state, estimate = begin(build(DESCENT, "es", 5, 3), 6, RATES, family)
    expected, _, _ = estimate(RATES, state, family)
    (state, estimate), total = begin(build(DESCENT, "nres", 5, 3, unroll_length=2), 6, RATES, family), 0.0
    for _ in range(3):
        gradient, state, _ = estimate(RATES, state, family)
        total = total + flat(gradient)
    np.testing.assert_allclose(2 * total, 5 * flat(expected), rtol=1e-4)


@pytest.mark.parametrize("kind", ["es", "pes"])
def test_a_scan_equals_a_loop(kind):
    chosen, family = build(DESCENT, kind, 4, 2, pairs=2, unroll_length=2), FixedConfig(length=4).family(QUADRATIC)
    start, estimate = begin(chosen, 7, RATES, family)

    @jax.jit
    def scan(state):
        def step(state, _):
            gradient, state, loss = chosen.estimate(RATES, state, family)
            return state, (gradient, loss)

        return jax.lax.scan(step, state, None, 5)

    end, (gradients, losses) = scan(start)
    state = start
    for i in range(5):
        gradient, state, loss = estimate(RATES, state, family)
        np.testing.assert_allclose(flat(gradient), flat(jax.tree.map(lambda a, i=i: a[i], gradients)), rtol=1e-4)
        np.testing.assert_allclose(loss, losses[i], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), state, end)


def test_the_pairs_of_a_task_stay_together_when_one_fails():
    chosen, family = build(DESCENT, "pes", 6, 2, pairs=2, unroll_length=2), FixedConfig(length=6).family(QUADRATIC)
    state, estimate = begin(chosen, 8, RATES, family)
    _, state, _ = estimate(RATES, state, family)

    def spoil(leaf):
        return leaf.at[1].set(jnp.nan) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    run = state.run._replace(state=jax.tree.map(spoil, state.run.state))
    _, state, _ = estimate(RATES, state._replace(run=run), family)
    np.testing.assert_array_equal(state.run.step, [2, 2, 4, 4])
    for leaf in jax.tree.leaves(state.run.params):
        np.testing.assert_array_equal(leaf[0], leaf[1])


# scores

LOSSES = jnp.array([[3.0, 1.5], [0.25, 8.0], [2.0, -1.0], [0.5, 4.0]])
ALL = jnp.ones((4, 1), bool)
SOME = jnp.array([[True], [False], [True], [True]])


def test_std_scores_are_standardised_and_blind_to_scale_and_offset():
    scores = std_scores(LOSSES, ALL)
    assert abs(float(scores.mean())) < 1e-6
    np.testing.assert_allclose(scores.std(), 1.0, rtol=1e-5)
    np.testing.assert_allclose(scores, (LOSSES - LOSSES.mean()) / LOSSES.std(), rtol=1e-5)
    for scale, offset in ((1000.0, 0.0), (1e-6, 0.0), (3.0, -20.0)):
        np.testing.assert_allclose(std_scores(scale * LOSSES + offset, ALL), scores, rtol=1e-4, atol=1e-4)


def test_rank_scores_are_centred_ranks_and_blind_to_monotone_maps():
    scores = rank_scores(LOSSES, ALL)
    np.testing.assert_allclose(scores, LOSSES.ravel().argsort().argsort().reshape(4, 2) / 7 - 0.5, atol=1e-6)
    assert float(scores.min()) == -0.5 and float(scores.max()) == 0.5
    for other in (jnp.exp(LOSSES), 1e6 * LOSSES - 3, LOSSES**3):
        np.testing.assert_array_equal(rank_scores(other, ALL), scores)


def test_ties_have_the_middle_of_their_ranks():
    found = rank_scores(jnp.array([[1.0, 5.0], [5.0, 5.0], [0.0, 7.0]]), jnp.ones((3, 1), bool))
    np.testing.assert_allclose(found, np.array([[1, 3], [3, 3], [0, 5]]) / 5 - 0.5, atol=1e-6)


@pytest.mark.parametrize("score", [std_scores, rank_scores])
@pytest.mark.parametrize("junk", [0.0, -1e9, 1e9, np.inf, np.nan])
def test_failed_pairs_score_nothing_and_change_nothing(score, junk):
    found = score(LOSSES.at[1].set(junk), SOME)
    kept = np.array([0, 2, 3])
    np.testing.assert_array_equal(found[1], 0.0)
    np.testing.assert_allclose(found[kept], score(LOSSES[kept], jnp.ones((3, 1), bool)), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(score(jnp.full((4, 2), junk), jnp.zeros((4, 1), bool)), 0.0)


@pytest.mark.parametrize("score", [std_scores, rank_scores])
@pytest.mark.parametrize("pairs", [1, 3, 5])
def test_equal_losses_score_zero(score, pairs):
    mask = jnp.ones((pairs, 1), bool)
    for value in (0.0, 2.0, 0.1, 7.3, -123.456, 9.782657):
        np.testing.assert_array_equal(score(jnp.full((pairs, 2), value), mask), 0.0)
