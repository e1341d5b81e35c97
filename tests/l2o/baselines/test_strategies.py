"""Evolution strategies of evosax that were changed, or that have a learning rate: equal to what their papers say."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from evosax.algorithms import PGPE, Open_ES, Sep_CMA_ES
from pydantic import ValidationError
from scipy.linalg import expm

from l2o import Evaluation, Problem, Space, unroll
from l2o.baselines.evosax import (
    EvosaxCMAAnchoredLESConfig,
    EvosaxLESConfig,
    EvosaxLGAConfig,
    OpenESConfig,
    PGPEConfig,
    SepCMAESConfig,
    XNESConfig,
)
from l2o.baselines.strategies import ExponentialNES, SeparableCMAES
from tasks.bbob.bbob import BBOBConfig

START, SCALE = jnp.array([0.4, -0.5, 0.6]), 0.5
CURVATURE = np.array([[1.0, 0.9, 0.0], [0.9, 1.0, 0.2], [0.0, 0.2, 30.0]], np.float32)


def loss(x):
    return jnp.einsum("ni,ij,nj->n", x, CURVATURE, x)


def generations(optimizer, count=5, start=START, scale=SCALE):
    """Populations asked for, and keys of `ask`."""
    keys = jax.random.split(jax.random.key(1), count)
    state, asked = optimizer.init(jax.random.key(0), Problem(Space.free(), start, scale)), []
    for key in keys:
        x, state = jax.jit(optimizer.ask)(key, state)
        state = jax.jit(optimizer.tell)(jax.random.fold_in(key, 1), state, x, Evaluation(loss(x)))
        asked.append(x)
    return asked, keys


@pytest.mark.slow
@pytest.mark.parametrize("config", [
    SepCMAESConfig(), XNESConfig(), OpenESConfig(), PGPEConfig(), EvosaxLESConfig(), EvosaxLGAConfig(),
    EvosaxCMAAnchoredLESConfig(),
])  # fmt: skip
def test_they_minimize_a_sphere_and_survive_failures(config):
    optimizer, family = config.model_copy(update={"population_size": 8}).build(), BBOBConfig(
        functions=["sphere"], dimensions=[2]
    ).build()  # fmt: skip

    @jax.jit
    def play(key):
        sample_key, init_key, run_key = jax.random.split(key, 3)
        task = family.task(family.sample(sample_key))
        centre = task.problem.start

        def evaluate(key, x):
            value = task.evaluate(key, x).value
            return Evaluation(jnp.where(x[:, 0] < centre[0] - 3, jnp.nan, value))

        state = optimizer.init(init_key, task.problem)
        values = unroll(optimizer, task._replace(evaluate=evaluate), state, run_key, 60)[1].evaluation.value
        return jnp.min(jnp.where(jnp.isfinite(values), values, jnp.inf), axis=1)

    keys = jax.random.split(jax.random.key(3), 8)
    found = np.median(jax.vmap(play)(keys), axis=0)
    assert found[30:].min() < found[0] / 5


def test_xnes_is_the_algorithm_of_its_paper():
    n, d = 6, 3
    asked, keys = generations(XNESConfig(population_size=n).build())
    utility = np.maximum(0, np.log(n / 2 + 1) - np.log(np.arange(1, n + 1)))
    utility = utility / utility.sum() - 1 / n
    rate = 3 * (3 + np.log(d)) / (5 * d * np.sqrt(d))
    mean, sigma, B = np.array(START, np.float64), SCALE, np.eye(d)
    for x, key in zip(asked, keys, strict=True):
        z = np.asarray(jax.random.normal(jax.random.key_data(key), (n, d)), np.float64)
        np.testing.assert_allclose(x, mean + sigma * z @ B.T, rtol=1e-4, atol=1e-5)
        z = z[np.argsort(loss(x))]
        G = sum(u * (np.outer(s, s) - np.eye(d)) for u, s in zip(utility, z, strict=True))
        scale = np.trace(G) / d
        mean = mean + sigma * B @ (utility @ z)
        sigma, B = sigma * np.exp(rate / 2 * scale), B @ expm(rate / 2 * (G - scale * np.eye(d)))
    assert np.abs(B[0, 1]) > 1e-3, "the axes turn"


def test_xnes_of_projected_queries_goes_on():
    optimizer = XNESConfig(population_size=6).build()
    box = Space.box(jnp.zeros(3), jnp.ones(3))
    state = optimizer.init(jax.random.key(0), Problem(box, jnp.full(3, 0.99), 1.0))
    x, state = optimizer.ask(jax.random.key(1), state)
    state = optimizer.tell(jax.random.key(2), state, x, Evaluation(loss(x)))
    assert (x == 1).any() and box.contains(optimizer.ask(jax.random.key(3), state)[0][0])


@pytest.mark.parametrize("dimension", [2, 3, 60])
def test_sep_cma_es_learns_a_diagonal_faster(dimension):
    solution = np.zeros(dimension)
    with jax.numpy_rank_promotion("allow"):
        ours = SeparableCMAES(population_size=8, solution=solution).default_params
        theirs = Sep_CMA_ES(population_size=8, solution=solution).default_params
    assert ours.c_1 / theirs.c_1 == pytest.approx((dimension + 2) / 3, rel=1e-5)
    assert ours.c_mu / theirs.c_mu == pytest.approx((dimension + 2) / 3, rel=1e-5) or ours.c_1 + ours.c_mu == 1
    assert ours.c_1 + ours.c_mu <= 1


@pytest.mark.parametrize(("config", "make"), [
    (OpenESConfig, lambda rate: Open_ES(
        6, START, optimizer=optax.adam(rate), std_schedule=optax.constant_schedule(SCALE))),
    (PGPEConfig, lambda rate: PGPE(6, START, optimizer=optax.adam(rate))),
])  # fmt: skip
def test_at_a_learning_rate_they_are_those_of_evosax(config, make):
    asked, keys = generations(config(population_size=6, learning_rate=0.2).build())
    with jax.numpy_rank_promotion("allow"):
        plain = make(0.2)
        params = plain.default_params
        if hasattr(params, "std_init"):
            params = params.replace(std_init=SCALE)
        state = plain.init(jax.random.key_data(jax.random.key(0)), START, params)
        for x, key in zip(asked, keys, strict=True):
            expected, state = plain.ask(jax.random.key_data(key), state, params)
            np.testing.assert_allclose(x, expected, rtol=1e-4, atol=1e-5)
            state, _ = plain.tell(jax.random.key_data(key), expected, loss(expected), state, params)


@pytest.mark.parametrize("config", [OpenESConfig, PGPEConfig])
def test_a_learning_rate_may_be_traced_and_has_a_default(config):
    def last(rate):
        optimizer = config(population_size=4).build(rate)
        state = optimizer.init(jax.random.key(0), Problem(Space.free(), START, SCALE))
        for t in range(3):
            x, state = optimizer.ask(jax.random.key(t), state)
            state = optimizer.tell(jax.random.key(100 + t), state, x, Evaluation(loss(x)))
        return x

    rates = jnp.array([0.01, 0.05])
    several = jax.jit(jax.vmap(last))(rates)
    np.testing.assert_allclose(several[0], last(0.01), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(several[1], last(None), rtol=1e-4, atol=1e-5)
    assert not np.allclose(*several, atol=0.01)


@pytest.mark.parametrize("config", [OpenESConfig, PGPEConfig])
def test_pairs_need_an_even_population(config):
    with pytest.raises(ValidationError, match="population_size must be even, as members come in pairs, found 5"):
        config(population_size=5)
    assert generations(config().build(), 1)[0][0].shape == (8, 3), "4 + floor(3 ln 3) is 7"


def test_xnes_begins_with_the_scale_of_the_problem():
    with jax.numpy_rank_promotion("allow"):
        plain = ExponentialNES(population_size=2000, solution=np.zeros(3))
        params = plain.default_params.replace(std_init=jnp.asarray(3.0))
        x, _ = plain.ask(jax.random.key_data(jax.random.key(1)), plain.init(jax.random.key(0), START, params), params)
    np.testing.assert_allclose(x.std(0), 3.0, rtol=0.1)
