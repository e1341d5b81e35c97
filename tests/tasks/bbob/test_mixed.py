"""Mixed BBOB tasks: kinds and places of parameters, noise, the split, and one program for all functions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pydantic import ValidationError

from tasks.bbob.functions import FUNCTIONS
from tasks.bbob.mixed import ADDITIVE, HELD_OUT, NOISES, TRAIN, UNUSED, BBOBMixedConfig

FEW = ("sphere", "schwefel", "gallagher_21")
QUIET = {"noises": ("none",)}


@functools.partial(jax.jit, static_argnames="n")
def members(family, n=64):
    """Parameters of n tasks."""
    return jax.vmap(family.sample)(jax.random.split(jax.random.key(0), n))


@jax.jit
def evaluate(family, params, x, seed=1):
    """Evaluations of one task."""
    return family.task(params).evaluate(jax.random.key(seed), x)


def one(params, i=0):
    return jax.tree.map(lambda a: a[i], params)


def only(weights, functions=("sphere",), d=3, **fields):
    """A family, and the parameters of its tasks, with parameters of one kind."""
    config = BBOBMixedConfig(functions=functions, dimensions=(d,), weights=weights, **(QUIET | fields))
    family = config.indexed()[d][0]
    return family, members(family)


def test_the_split_is_that_of_the_paper():
    numbers = {name: i + 1 for i, name in enumerate(FUNCTIONS)}
    assert [numbers[name] for name in HELD_OUT] == [5, 9, 14, 19, 24]
    assert [numbers[name] for name in UNUSED] == [8, 10, 15]
    assert [numbers[name] for name in TRAIN] == [1, 2, 3, 4, 6, 7, 11, 12, 13, 16, 17, 18, 20, 21, 22, 23]
    assert BBOBMixedConfig().functions == TRAIN


def test_kinds_levels_and_noises_are_drawn_as_configured():
    config = BBOBMixedConfig(functions=("sphere",), dimensions=(5,), weights=(2, 1, 1), levels=(3, 6))
    params = members(config.indexed()[5][0], n=400)
    levels, ordered = np.asarray(params.levels), np.asarray(params.ordered)
    assert np.mean(levels == 0) == pytest.approx(0.5, abs=0.05) and np.all(ordered[levels == 0])
    assert np.mean(~ordered) == pytest.approx(0.25, abs=0.05)
    assert sorted(set(levels[levels > 0])) == [3, 4, 5, 6]
    assert set(np.asarray(params.noise)) == set(range(10)) and len(NOISES) == 10


def test_a_real_parameter_is_the_coordinate_itself():
    family, params = only((1, 0, 0))
    params = one(params)
    x = jnp.asarray(np.random.default_rng(0).uniform(-5, 5, (4, 3)), jnp.float32)
    expected = jax.vmap(lambda x: FUNCTIONS["sphere"].value(x, params.instance))(x)
    np.testing.assert_allclose(evaluate(family, params, x).value, expected, rtol=1e-5)


@pytest.mark.parametrize("weights", [(0, 1, 0), (0, 0, 1)])
def test_the_values_lie_evenly_from_end_to_end_and_those_of_categories_are_shuffled(weights):
    family, params = only(weights, d=1)
    moved = 0
    for i in range(20):
        task = one(params, i)
        n = int(task.levels[0])
        value = evaluate(family, task, jnp.arange(8.0)[:, None]).value[:n]
        even = jnp.linspace(-5, 5, n)
        expected = np.asarray((even - task.instance.offset[0]) ** 2)
        same = np.allclose(value, expected, rtol=1e-4, atol=1e-4)
        assert same or weights[2], "a list is in order"
        np.testing.assert_allclose(np.sort(value), np.sort(expected), rtol=1e-4, atol=1e-4)
        moved += not same
    assert moved > 10 or not weights[2]


def test_one_dimension_is_a_line_through_the_minimum():
    first, _ = only((1, 0, 0), functions=("rosenbrock_rotated", "schwefel"), d=1)
    for family in first.config.indexed()[1]:
        params = one(members(family))
        assert params.rest.shape == (1,)
        optimum = FUNCTIONS[family.functions[family.index]].optimum(params.instance)
        found = evaluate(family, params, jnp.stack([optimum[:1], optimum[:1] + 0.5]))
        assert abs(found.value[0]) < 1e-4 < found.value[1]


def test_every_task_starts_inside_and_no_value_is_below_f_opt():
    family = BBOBMixedConfig(functions=FEW, dimensions=(4,)).indexed()[4][2]

    @jax.jit
    @jax.vmap
    def run(params, key):
        task = family.task(params)
        space = task.problem.space
        point_key, noise_key = jax.random.split(key)
        x = jax.vmap(space.sample)(jax.random.split(point_key, 8))
        judged = task.evaluate(noise_key, x).judged
        inside = space.contains(task.problem.start) & jnp.all(jax.vmap(space.contains)(x))
        return inside, jnp.min(judged) - task.info["f_opt"]

    inside, least = run(members(family), jax.random.split(jax.random.key(3), 64))
    assert np.all(inside) and np.all(least >= 0)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if i % 3 else n for i, n in enumerate(NOISES)]
)
def test_noise_is_told_and_judged_is_free_of_it(name):
    family, params = only((1, 0, 0), noises=(name,))
    params = one(params)
    x = jnp.ones((512, 3))
    found = evaluate(family, params, x)
    quiet, _ = only((1, 0, 0))
    np.testing.assert_array_equal(found.judged, evaluate(quiet, params, x).value)
    assert np.all(np.isfinite(found.value))
    if name == "none":
        np.testing.assert_array_equal(found.value, found.judged)
    elif name in ADDITIVE:
        assert np.std(found.value - found.judged) == pytest.approx(ADDITIVE[name] * float(params.spread), rel=0.1)
        assert 5 < params.spread < 100, "of a sphere on [-5, 5]^3"
    else:
        assert np.std(found.value) > 0


def test_one_program_serves_all_functions():
    traces = []

    @jax.jit
    def run(family, key):
        traces.append(family)
        params = family.sample(key)
        return family.task(params).evaluate(jax.random.key(4), jnp.zeros((1, 2))).judged

    config = BBOBMixedConfig(functions=FEW, weights=(1, 0, 0))
    together = [run(family, jax.random.key(2)) for family in config.indexed()[2]]
    assert len(traces) == 1
    parts = BBOBMixedConfig(functions=("sphere",), weights=(1, 0, 0)).build()
    np.testing.assert_allclose(together[0], run(parts, jax.random.key(2)), rtol=1e-5)
    assert [family.origin for family in config.indexed()[2]] == ["f1_sphere", "f20_schwefel", "f22_gallagher_21"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [({"weights": (0, 0, 0)}, "weights"), ({"levels": (4, 3)}, "levels"), ({"functions": ("spher",)}, "sphere"),
     ({"dimensions": (0,)}, "dimensions"), ({"noises": ("loud",)}, "noises")],
)  # fmt: skip
def test_bad_fields_are_refused(fields, words):
    with pytest.raises(ValidationError, match=words):
        BBOBMixedConfig(**fields)
