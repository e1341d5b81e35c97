"""What holds for all priors: kinds of parameters, units, noise, and one function for a task."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pydantic import ValidationError

import l2o
from tasks import FamilyConfig, PriorConfig
from tasks.priors.base import Inputs, chosen, draw_inputs, ratio, whole

KINDS = {kind: config for kind, config in l2o.kinds(FamilyConfig).items() if issubclass(config, PriorConfig)}
D, FUNCTIONS = 4, 48
MIXED = {"dimension": D, "weights": (1, 1, 1), "levels": (2, 4), "unused": 0.3, "noiseless": 0.0}


@functools.cache
def drawn(kind):
    """A family over a mixed space, functions of it, points of each, and their evaluations."""
    family = KINDS[kind](**MIXED).build()

    def draw(key):
        params_key, points_key = jax.random.split(key)
        params = family.sample(params_key)
        space = family.task(params).problem.space
        return params, jax.vmap(space.from_unit)(jax.random.uniform(points_key, (32, D)))

    params, x = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), FUNCTIONS))
    return family, params, x, evaluate(family, params, x)


@jax.jit
def evaluate(family, params, x):
    """Evaluations of points of several functions, and what a judge knows of the first point of each."""

    def one(params, key, x):
        task = family.task(params)
        inside = jax.vmap(task.problem.space.contains)(x)
        return task.evaluate(key, x), task.info["value"](x[0]), inside

    return jax.vmap(one)(params, jax.random.split(jax.random.key(1), x.shape[0]), x)


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


def test_the_table_is_not_empty():
    assert "gp_prior" in KINDS


def test_a_point_has_its_value_whatever_is_evaluated_with_it(kind):
    family, params, x, (found, value, _) = drawn(kind)
    order = np.random.default_rng(0).permutation(32)
    again, _, _ = evaluate(family, params, x[:, order])
    np.testing.assert_allclose(again.judged, found.judged[:, order], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(value, found.judged[:, 0], rtol=1e-3, atol=1e-3)


def test_what_is_unused_has_no_effect(kind):
    family, params, x, (found, _, _) = drawn(kind)
    moved = jnp.where(params.inputs.used[:, None], x, jnp.roll(x, 1, axis=1))
    assert np.any(moved != x) and np.all(np.any(np.asarray(params.inputs.used), 1))
    again, _, _ = evaluate(family, params, moved)
    np.testing.assert_allclose(again.judged, found.judged, rtol=1e-3, atol=1e-3)


def test_values_are_of_order_one_and_hardly_a_function_is_flat(kind):
    _, _, _, (found, _, _) = drawn(kind)
    judged = np.where(np.isfinite(found.judged), found.judged, np.nan)
    deviation = np.nanstd(judged, 1)
    assert 0.7 < np.median(deviation) < 1.5 and np.mean(deviation < 0.2) < 0.15
    assert abs(np.nanmedian(judged)) < 0.5
    assert np.isfinite(judged).all() or kind == "response_prior"


def test_noise_is_told_and_not_judged(kind):
    _, params, _, (found, _, _) = drawn(kind)
    low, high = KINDS[kind]().noise
    assert np.all((params.noise >= low) & (params.noise <= high))
    if kind == "hebo_prior":
        return  # in other units, see its own tests
    ratio = np.nanstd(found.value - found.judged, 1) / params.noise
    assert np.nanmean(ratio) == pytest.approx(1, abs=0.1)


def test_spaces_have_the_kinds_that_they_are_to_have(kind):
    _, params, _, (_, _, inside) = drawn(kind)
    levels, ordered = np.asarray(params.inputs.levels), np.asarray(params.inputs.ordered)
    assert set(levels.ravel()) == {0, 2, 3, 4} and np.all(ordered[levels == 0])
    for share in (np.mean(levels == 0), np.mean(~ordered)):
        assert share == pytest.approx(1 / 3, abs=0.12)
    assert np.all(inside)
    space = KINDS[kind](dimension=3).build()
    problem = jax.eval_shape(lambda key: space.task(space.sample(key)).problem, jax.random.key(0))
    assert not problem.space.is_mixed and problem.start.shape == (3,)


def test_places_of_numbers_and_slots_of_categories():
    inputs = Inputs(
        jnp.array([0, 3, 3, 3]), jnp.array([True, True, False, True]),
        jnp.array([[0, 1, 2]] * 2 + [[2, 0, 1]] + [[0, 1, 2]]), jnp.array([True, True, True, False]),
    )  # fmt: skip
    found = inputs.encode(jnp.array([0.25, 1.0, 0.0, 2.0])).reshape(4, 3)
    np.testing.assert_allclose(found, [[0.25, 0, 0], [0.5, 0, 0], [0, 0, 1], [0.5, 0, 0]])
    np.testing.assert_allclose(inputs.encode(jnp.array([1.0, 2.0, 1.0, 0.0])).reshape(4, 3)[2], [1, 0, 0])
    two = draw_inputs(KINDS["gp_prior"](dimension=3), jax.random.key(0))._replace(used=jnp.ones(3, bool))
    np.testing.assert_allclose(two.encode(jnp.array([0.1, 0.2, 0.3])), [0.1, 0.2, 0.3])


def test_one_parameter_always_has_an_effect():
    inputs = jax.vmap(lambda key: draw_inputs(KINDS["gp_prior"](dimension=3, unused=1.0), key))
    used = inputs(jax.random.split(jax.random.key(0), 64)).used
    assert np.all(used.sum(1) == 1) and np.all(used.any(0))


def test_an_optimizer_runs_on_it():
    family, params, _, _ = drawn("gp_prior")
    optimizer = l2o.kinds(l2o.BaselineConfig)["hill_climbing"]().build()
    init_key, run_key = jax.random.split(jax.random.key(2))
    task = family.task(jax.tree.map(lambda a: a[0], params))
    state = optimizer.init(init_key, task.problem)
    _, run = jax.jit(lambda state, key: l2o.unroll(optimizer, task, state, key, 20))(state, run_key)
    assert run.evaluation.value.shape == (20, 1) and np.all(jax.vmap(task.problem.space.contains)(run.x[:, 0]))


def test_numbers_made_of_uniform_ones():
    u = jnp.linspace(0, 1, 1001)
    assert np.bincount(whole(u, 0, 3)).tolist() == [250, 250, 250, 251] and set(np.asarray(whole(u, 2, 2))) == {2}
    assert np.bincount(chosen(u, jnp.array([1.0, 0.0, 3.0]))).tolist() == [250, 0, 751]
    np.testing.assert_allclose(ratio(jnp.array([0.0, 0.5, 1.0]), (0.1, 10.0)), [0.1, 1, 10], rtol=1e-5)


@pytest.mark.parametrize(
    ("fields", "words"),
    [({"dimension": 0}, "dimension"), ({"weights": (0, 0, 0)}, "weights"), ({"levels": (4, 3)}, "levels"),
     ({"noise": (1.0, 0.1)}, "noise"), ({"noise": (0.0, 0.1)}, "noise"), ({"unused": 1.5}, "unused"),
     ({"used": 1.0}, "used")],
)  # fmt: skip
def test_bad_fields_are_refused(kind, fields, words):
    with pytest.raises(ValidationError, match=words):
        KINDS[kind](**fields)
