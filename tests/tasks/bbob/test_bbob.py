"""The BBOB functions and families beside what `ioh` knows: minima, derivatives, single precision, noise, sharing."""

import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pydantic import ValidationError

from tasks.bbob.bbob import BBOB, BBOBConfig, draw, noise, rotation
from tasks.bbob.functions import FUNCTIONS

NAMES = list(FUNCTIONS)
FEW = ("sphere", "gallagher_21", "lunacek")
PLATEAUS = ("step_ellipsoid", "katsuura")  # their slopes are not those of finite differences


# with optimization, as users have it: without it some gradients are not finite
optimized = partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False}
)


@optimized
def explore(index, x, instance):
    """Values [points], gradients [points, d] and the optimum, in one program for all functions."""
    branches = [
        lambda x, i, f=f: (*jax.vmap(jax.value_and_grad(f.value), (0, None))(x, i), f.optimum(i))
        for f in FUNCTIONS.values()
    ]
    return jax.lax.switch(index, branches, x, instance)


@functools.cache
def instance(peaks, d):
    """Arrays of one shape for every function."""
    return draw(jax.random.key(d), d, peaks, rows=101)


@functools.partial(jax.jit, static_argnames="n")
def members(family, n=4):
    """Parameters of n tasks."""
    return jax.vmap(family.sample)(jax.random.split(jax.random.key(0), n))


@jax.jit
def values(family, params, x, seed=1):
    """Evaluations of one task."""
    return family.task(params).evaluate(jax.random.key(seed), x)


@pytest.mark.parametrize("d", [2, 7])
@pytest.mark.parametrize("name", NAMES)
def test_the_optimum_is_the_minimum_and_every_gradient_is_finite(name, d):
    rng, one = np.random.default_rng(d), instance(FUNCTIONS[name].peaks, d)
    optimum = np.asarray(FUNCTIONS[name].optimum(one), np.float32)
    steps = rng.normal(size=(40, d))
    near = [optimum + scale * steps for scale in (0.0, 1e-45, 1e-38, 1e-20, 1e-10, 1e-6, 1e-3, 0.1)]
    axes = [optimum + 0.1 * np.eye(d), optimum - 0.1 * np.eye(d)]
    inside = rng.uniform(-5, 5, (190 - 2 * d, d))
    far = rng.uniform(-1e3, 1e3, (40, d)), np.full((5, d), -1e3), np.full((5, d), 1e3), np.zeros((10, d))
    x = np.concatenate([*near, *axes, inside, *far]).astype(np.float32)
    value, gradient, _ = explore(NAMES.index(name), x, one)
    assert np.all(np.isfinite(value)) and np.all(np.isfinite(gradient))
    assert np.all(np.abs(value[:120]) <= 1e-10) and np.all(value[:320] >= 0)
    assert name == "linear_slope" or np.all(value[320:] > value[0]), "which is flat beyond its minimum"
    raised = FUNCTIONS[name].value(jnp.asarray(optimum), one._replace(f_opt=jnp.array(3.0)))
    np.testing.assert_allclose(raised, 3, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_small_regrets_survive_single_precision_and_gradients_equal_finite_differences(name):
    rng, one, index = np.random.default_rng(0), instance(FUNCTIONS[name].peaks, 7), NAMES.index(name)
    optimum = FUNCTIONS[name].optimum(one)
    near = np.asarray(optimum)[None] + (1e-4 * rng.normal(size=(560, 7))).astype(np.float32)
    single, _, _ = explore(index, near, one)
    with jax.enable_x64(True):
        double = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), one)
        x, direction = rng.uniform(-6, 6, (560, 7)), rng.normal(size=7)
        expected, _, _ = explore(index, near.astype(np.float64), double)
        np.testing.assert_allclose(single, expected, rtol=0.01)
        if name in PLATEAUS:
            return
        _, gradient, _ = explore(index, x, double)
        ahead, behind = (explore(index, x + h * direction, double)[0] for h in (1e-8, -1e-8))
        slope, size = gradient @ direction, np.linalg.norm(gradient, axis=1)
        wrong = np.abs((ahead - behind) / 2e-8 - slope) > 1e-3 * size + 1e-6 * np.abs(ahead)
        assert np.mean(wrong) < 0.01, "but where a kink lies between"


@pytest.mark.parametrize(("d", "fields"), [(3, {}), (6, {"start": "zero", "scale_low": 0.1, "bounded": True})])
def test_tasks_are_drawn_as_they_are_configured(d, fields):
    family = BBOBConfig(functions=("rastrigin_rotated",), dimensions=(d,), scale=3.0, **fields).build()
    params = members(family, 512)
    inst, start, scale = params
    assert inst.offset.shape == start.shape == (512, d) and inst.R.shape == inst.Q.shape == (512, d, d)
    assert inst.peaks.shape == (512, 0, d), "only the Gallagher functions have peaks"
    assert -4 <= inst.offset.min() < -3.9 and 3.9 < inst.offset.max() <= 4
    problem, x_opt = jax.jit(jax.vmap(lambda p: (family.task(p).problem, family.task(p).info["x_opt"])))(params)
    if fields:
        np.testing.assert_array_equal(start, 0)
        assert scale.min() >= 0.0999 and scale.max() <= 3.001
        np.testing.assert_allclose(np.mean(np.log(scale)), np.log(0.3) / 2, atol=0.15)
        np.testing.assert_array_equal(problem.space.low, -5)
        np.testing.assert_array_equal(problem.space.high, 5)
        np.testing.assert_allclose(problem.scale, scale / 10)
    else:
        assert -4 <= start.min() < -3.9 and 3.9 < start.max() <= 4
        assert problem.space.is_free
        np.testing.assert_allclose(problem.scale, 3.0, rtol=1e-6)
    np.testing.assert_array_equal(x_opt, inst.offset)
    np.testing.assert_allclose(values(family, jax.tree.map(lambda a: a[0], params), x_opt[:1]).value, 0, atol=1e-6)


def test_rotations_are_uniformly_distributed():
    d = 4
    q = np.asarray(jax.jit(jax.vmap(lambda k: rotation(k, d)))(jax.random.split(jax.random.key(0), 8192)))
    np.testing.assert_allclose(q @ q.swapaxes(1, 2), np.broadcast_to(np.eye(d), q.shape), atol=2e-6)
    np.testing.assert_allclose(np.mean(q, 0), 0, atol=0.03)
    np.testing.assert_allclose(np.mean(q**2, 0), 1 / d, atol=0.015)
    # the trace of a uniform orthogonal matrix has the first moments of a standard normal
    trace = np.trace(q, axis1=1, axis2=2)
    np.testing.assert_allclose([np.mean(trace**k) for k in (1, 2, 3, 4)], [0, 1, 0, 3], atol=0.4)
    np.testing.assert_allclose(np.mean(np.linalg.det(q) > 0), 0.5, atol=0.03)


@pytest.mark.parametrize(("peaks", "first"), [(101, 0.5), (21, 1.0)])
def test_peaks_share_out_the_conditions(peaks, first):
    inst = draw(jax.random.key(0), 5, peaks, rows=101)
    logs = np.log10(inst.conditions[:peaks]) / 3
    np.testing.assert_allclose(logs.sum(1), 0, atol=1e-5)
    levels = logs.max(1) - logs.min(1)
    np.testing.assert_allclose(levels[0], first, atol=1e-5)
    np.testing.assert_allclose(np.sort(levels[1:]), np.arange(peaks - 1) / (peaks - 2), atol=1e-5)
    assert np.any(np.diff(levels[1:]) < 0)
    np.testing.assert_array_equal(inst.peaks[0], 0)
    where = inst.peaks @ inst.R + inst.offset[None]
    assert 4.8 < np.abs(where).max() <= 5.0001


def test_parts_are_one_for_each_dimension_and_function():
    config = BBOBConfig(functions=FEW, dimensions=(2, 5))
    parts = config.build().parts
    assert [(p.dimension, *p.functions) for p in parts] == [(d, name) for d in (2, 5) for name in FEW]
    assert isinstance(BBOBConfig(functions=FEW[:1]).build(), BBOB)
    assert BBOBConfig().functions == tuple(NAMES) and len(NAMES) == 24


@pytest.mark.parametrize(("kind", "gradients"), [("none", False), ("gaussian", True)])
def test_one_program_serves_all_functions_of_a_dimension(kind, gradients):
    config = BBOBConfig(functions=FEW, dimensions=(3,), noise=kind, gradients=gradients)
    traces = []

    @optimized
    def run(family, params, x):
        traces.append(family)

        def one(params):
            task = family.task(params)
            return task.info["x_opt"], task.evaluate(jax.random.key(2), x)

        return jax.vmap(one)(params)

    x = jax.random.uniform(jax.random.key(3), (3, 3), minval=-6.0, maxval=6.0)
    shared = config.indexed()[3]
    params = [members(family) for family in shared]
    found = [run(family, p, x) for family, p in zip(shared, params, strict=True)]
    assert len(traces) == 1
    for direct, p, (x_opt, together) in zip(config.build().parts, params, found, strict=True):
        expected_opt, expected = run(direct, p, x)
        assert together.value.shape == (4, 3) and (together.gradient is not None) == gradients
        np.testing.assert_allclose(x_opt, expected_opt, rtol=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), together, expected)


def test_a_batch_of_tasks_does_not_evaluate_the_other_functions():
    first, second = BBOBConfig(functions=("sphere", "discus"), dimensions=(2,)).indexed()[2]
    x, params = jnp.ones((3, 2)), members(first)

    def evaluate(family, params):
        return family.task(params).evaluate(jax.random.key(0), x).value

    shared = str(jax.make_jaxpr(jax.vmap(evaluate, (None, 0)))(first, params))
    stacked = jax.tree.map(lambda *a: jnp.stack(a), first, first, second, second)
    assert " cond[" in shared
    assert " cond[" not in str(jax.make_jaxpr(jax.vmap(evaluate))(stacked, params)), "the test can tell"


@pytest.mark.parametrize(("severity", "strength", "rare"), [("moderate", 0.01, 0.05), ("severe", 1.0, 0.2)])
def test_noise_has_the_published_distributions(severity, strength, rare):
    def told(kind, value, n=8192):
        keys = jax.random.split(jax.random.key(1), n)
        return np.asarray(jax.jit(jax.vmap(noise(kind, severity, 4), (0, None)))(keys, value))

    def close(log, mean, deviation):
        np.testing.assert_allclose(np.mean(log) / strength, mean, atol=5 * deviation / 90)
        np.testing.assert_allclose(np.std(log) / strength, deviation, rtol=0.1)

    close(np.log(told("gaussian", 50.0) / 50), 0, 1)
    close(np.log(told("uniform", 1e10) / 1e10), -1, 1)
    power = 0.74 * np.log(1e9 / 50)  # 0.49 + 1 / 4, uniformly drawn parts of it
    close(np.log(told("uniform", 50.0) / 50), -1 + power / 2, (1 + power**2 / 12) ** 0.5)
    shift = (told("cauchy", 5.0) - 5) / strength
    np.testing.assert_allclose(np.median(shift), 1000, rtol=1e-3)
    assert shift.min() >= -1e-3
    # half of the ratios of two normals are beyond 1
    np.testing.assert_allclose(np.mean(np.abs(shift - 1000) > 1), rare / 2, atol=0.02)
    for kind in ("gaussian", "uniform", "cauchy"):
        np.testing.assert_array_equal(told(kind, 0.9e-8, 8), np.float32(0.9e-8))
        assert np.all(told(kind, 1.1e-8, 8) > 1.01e-8)


@pytest.mark.parametrize("gradients", [False, True])
def test_each_member_has_noise_of_its_own_and_is_judged_without(gradients):
    fields = {"functions": ("discus",), "dimensions": (2,), "gradients": gradients}
    noisy, clean = BBOBConfig(noise="uniform", severity="severe", **fields).build(), BBOBConfig(**fields).build()
    params = jax.tree.map(lambda a: a[0], members(noisy))
    for n in (1, 6):
        x = jnp.ones((n, 2))
        found, expected = values(noisy, params, x), values(clean, params, x)
        assert len(np.unique(found.value)) == n and expected.judged is None
        assert (found.gradient is not None) == (expected.gradient is not None) == gradients
        np.testing.assert_allclose(found.judged, expected.value, rtol=1e-6)
        np.testing.assert_array_equal(found.value, values(noisy, params, x).value)
        assert np.all(found.value != values(noisy, params, x, seed=2).value)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"functions": ("rosenbrok",)}, "did you mean 'rosenbrock'"),
        ({"functions": ()}, "functions"),
        ({"dimensions": (1,)}, "dimensions"),
        ({"scale_low": 3.0}, "scale_low must be at most scale, found 3.0 and 2.0"),
    ],
)
def test_bad_settings_are_named(fields, words):
    with pytest.raises(ValidationError, match=words):
        BBOBConfig(**fields)
