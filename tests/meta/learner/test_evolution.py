"""The evolution learner: its fitness, that it learns, that members are compared fairly, and what it refuses."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.run import Experiment
from l2o.core import Problem, Task
from l2o.errors import UserError
from l2o.lift.optax import gradient_based
from l2o.space.domain import Space
from meta.curriculum import FixedConfig
from meta.estimator.backprop import BackpropConfig
from meta.estimator.es import ESConfig
from meta.learner.evolution import EvolutionConfig, fitness
from meta.objective import SumConfig
from meta.trainer import MetaConfig, train
from tasks.family import TaskFamily

HORIZON = 5
START = np.float32(-4.0)
# the only meta-parameter is the logarithm of the learning rate of SGD
LEARNED = gradient_based(
    lambda key: jnp.asarray(START),
    lambda theta, horizon: optax.with_extra_args_support(optax.scale(-jnp.exp(theta))),
)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Bowl(TaskFamily):
    """f(x) = scale * ||x||^2, which a learning rate of 1/2 solves in one step where the scale is 1.

    Evaluations are noisy, and scales span a factor of `spread`.
    """

    noise: Any = 0.0
    spread: Any = 1.0

    def sample(self, key):
        start_key, scale_key = jax.random.split(key)
        return jax.random.normal(start_key, (2,)), self.spread ** jax.random.uniform(scale_key)

    def task(self, params):
        start, scale = params

        def loss(key, x):
            return scale * jnp.sum(x**2) + self.noise * jax.random.normal(key)

        return Task.from_loss(loss, Problem(Space.free(), start))


FAMILY = FixedConfig(length=HORIZON).family(Bowl())


@pytest.fixture
def evosax():
    """Its algorithms promote ranks."""
    with jax.numpy_rank_promotion("allow"):
        yield


def losses(members, tasks, seed=0):
    return np.random.default_rng(seed).gamma(2.0, size=(members, tasks)).astype(np.float32)


@pytest.mark.parametrize(("members", "tasks"), [(2, 1), (5, 3), (8, 4)])
def test_fitness_does_not_see_the_scale_of_a_task(members, tasks):
    drawn = losses(members, tasks)
    scale, shift = 10.0 ** np.arange(-2, tasks - 2, dtype=np.float32), np.linspace(-3, 3, tasks, dtype=np.float32)
    rescaled = drawn * scale[None] + scale[None] * shift[None]
    np.testing.assert_allclose(fitness(jnp.asarray(rescaled)), fitness(jnp.asarray(drawn)), atol=1e-4)


def test_fitness_on_one_task_is_the_z_score():
    drawn = losses(6, 1)
    expected = (drawn[:, 0] - drawn.mean()) / drawn.std()
    np.testing.assert_allclose(fitness(jnp.asarray(drawn)), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("wild", ["reversed", "huge", "nan"])
def test_one_wild_task_of_many_changes_nothing(wild):
    alike = losses(6, 1) * np.array([1.0, 10.0, 0.1, 5.0], np.float32)
    odd = {"reversed": -alike[:, :1], "huge": losses(6, 1, 1) ** 9, "nan": np.full((6, 1), np.nan, np.float32)}[wild]
    found = fitness(jnp.asarray(np.concatenate([alike, odd], axis=1)))
    np.testing.assert_allclose(found, fitness(jnp.asarray(alike)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_member_that_fails_is_the_worst(bad):
    drawn = losses(5, 1) * np.array([1.0, 10.0, 0.1], np.float32)  # one of the others is the worst in every task
    drawn[2] = bad
    found = np.asarray(fitness(jnp.asarray(drawn)))
    assert np.all(np.isfinite(found)) and np.all(found[2] > np.delete(found, 2))
    others = fitness(jnp.asarray(np.delete(drawn, 2, axis=0)))
    np.testing.assert_allclose(np.delete(found, 2), others, rtol=1e-5, atol=1e-6)


def test_equal_members_have_fitness_zero():
    np.testing.assert_array_equal(fitness(jnp.full((4, 3), 7.0)), np.zeros(4))


def learner(devices=1, tasks=4, **fields):
    config = EvolutionConfig(**{"population_size": 8, "sigma": 0.3, "average": 0.0, **fields})
    return config.build(LEARNED, SumConfig().build(), None, HORIZON, tasks, 100, devices)


# PSO compares fitness of different meta-steps, which z-scores are not made for: not every one of its runs succeeds
ALGORITHMS = {
    "SNES": ({}, 1.0),
    "CMA_ES": ({}, 1.0),
    "Open_ES": ({"learning_rate": 0.2}, 1.0),
    "SimpleGA": ({}, 1.0),
    "PSO": ({"sigma": 1.0}, 0.5),
}


@pytest.mark.slow
@pytest.mark.usefixtures("evosax")
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_it_learns_the_learning_rate(algorithm):
    """The loss after t steps with a rate r is (1 - 2r)^2t of the first: 0.8 of it on average at the start."""
    fields, succeed = ALGORITHMS[algorithm]
    chosen, steps = learner(algorithm=algorithm, **fields), 40

    @jax.jit
    @jax.vmap
    def run(key):
        state = chosen.init(key, FAMILY, jnp.asarray(START))
        return jax.lax.scan(lambda s, _: chosen.step(s, FAMILY), state, None, steps)

    def relative_loss(theta):
        return np.mean((1 - 2 * np.exp(theta))[:, None] ** (2 * np.arange(1, HORIZON + 1)), axis=1)

    state, metrics = run(jax.random.split(jax.random.key(0), 8))
    assert np.all(state.step == steps) and np.all(state.skipped == 0)
    assert relative_loss(np.array([START])) > 0.8
    assert np.quantile(relative_loss(np.asarray(state.theta)), succeed) < 0.2
    assert np.all(metrics["moved"][:, 0] > 0)


@pytest.mark.slow
@pytest.mark.usefixtures("evosax")
@pytest.mark.parametrize("devices", [1, 4])
def test_all_members_see_the_same_tasks_and_noise(monkeypatch, devices):
    """Members that are equal have equal losses; tasks, and those of the next meta-step, have others."""
    monkeypatch.setattr("meta.learner.evolution.nanmean", lambda table: table)
    chosen, noisy = learner(devices, tasks=3, sigma=1e-30), FixedConfig(length=HORIZON).family(Bowl(1.0, 10.0))

    @jax.jit
    def run(key):
        state = chosen.init(key, noisy, jnp.asarray(START))
        return jax.lax.scan(lambda s, _: chosen.step(s, noisy), state, None, 2)[1]["meta_loss"]

    tables = run(jax.random.key(0))
    assert tables.shape == (2, 8, 3)
    np.testing.assert_allclose(tables, np.broadcast_to(tables[:, :1], tables.shape), rtol=1e-6)
    assert len(np.unique(tables[:, 0])) == 6


@pytest.mark.usefixtures("evosax")
def test_a_meta_step_without_a_finite_loss_is_skipped():
    chosen, broken = learner(), FixedConfig(length=HORIZON).family(Bowl(jnp.nan))
    before = jax.jit(lambda key: chosen.init(key, broken, jnp.asarray(START)))(jax.random.key(0))
    after, metrics = jax.jit(chosen.step)(before, broken)
    assert (int(after.step), int(after.skipped), int(after.failing)) == (1, 1, 1) and np.isnan(metrics["meta_loss"])
    jax.tree.map(np.testing.assert_array_equal, (after.theta, after.optimizer), (before.theta, before.optimizer))


class Kill(Exception):
    pass


@pytest.mark.usefixtures("evosax")
def test_resumed_equals_uninterrupted_to_the_bit(tmp_path):
    config = MetaConfig(
        steps=6, tasks=2, horizon=FixedConfig(length=HORIZON), log_every=2, validate_every=2, checkpoint_every=2,
        validation_tasks=2, optimizer=EvolutionConfig(algorithm="SimpleGA", population_size=4, sigma=0.3), devices=1,
    )  # fmt: skip

    def run(name, report=lambda row: None):
        (tmp_path / name).mkdir(exist_ok=True)
        return train(tmp_path / name, LEARNED, Bowl(), config, seed=0, identity={}, report=report)

    def kill(row):
        if row["step"] == 4:
            raise Kill

    with pytest.raises(Kill):
        run("killed", kill)
    resumed, whole = run("killed"), run("whole")
    np.testing.assert_array_equal(resumed.theta, whole.theta)
    assert resumed.validation == whole.validation
    assert not np.array_equal(whole.theta, START)


@pytest.mark.slow
@pytest.mark.usefixtures("evosax")
def test_decay_shrinks_the_mean():
    def theta(**fields):
        chosen = learner(algorithm="Open_ES", learning_rate=0.2, **fields)
        return chosen.step(chosen.init(jax.random.key(0), FAMILY, jnp.asarray(START)), FAMILY)[0].theta

    np.testing.assert_allclose(theta(decay=0.25), 0.75 * theta(), rtol=1e-6)


def test_decay_needs_a_mean():
    with pytest.raises(UserError, match=r"meta.optimizer.decay: SimpleGA has no mean"):
        learner(algorithm="SimpleGA", decay=0.1)


def refusal(**fields):
    with pytest.raises(UserError) as error:
        EvolutionConfig(**fields).algorithm_for({"w": jnp.zeros(3)})
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"algorithm": "SNSE"}, "meta.optimizer.algorithm: unknown algorithm 'SNSE' (did you mean 'SNES'?), expected"),
        (
            {"params": {"std_int": 1.0}},
            "params.std_int: SNES has no such parameter (did you mean 'std_init'?), expected",
        ),
        ({"algorithm": "Open_ES", "params": {"w": 1.0}}, "Open_ES has no such parameter, expected one of none"),
        (
            {"algorithm": "SimpleGA", "learning_rate": 0.1},
            "learning_rate: SimpleGA has none, expected it to be left out",
        ),
        ({"algorithm": "Open_ES", "population_size": 5}, "evosax refuses Open_ES: Population size must be even"),
        ({"algorithm": "SV_CMA_ES"}, "evosax refuses SV_CMA_ES: "),
    ],
)
def test_what_evosax_does_not_have_is_refused(fields, words):
    assert words in refusal(**fields)


def test_parameters_reach_the_algorithm():
    theta = {"w": jnp.zeros(3)}
    _, params = EvolutionConfig(algorithm="PSO", params={"inertia_coeff": 0.25}).algorithm_for(theta)
    assert float(params.inertia_coeff) == 0.25 and float(params.social_coeff) == 2.0
    for config in (EvolutionConfig(sigma=0.3), EvolutionConfig(sigma=9.0, params={"std_init": 0.3})):
        np.testing.assert_allclose(config.algorithm_for(theta)[1].std_init, 0.3)


@pytest.mark.parametrize("estimator", [ESConfig(), BackpropConfig(), {"kind": "pes"}])
def test_an_estimator_is_refused(estimator):
    with pytest.raises(ValueError, match="expected none, because the optimizer 'evolution' takes no gradient"):
        MetaConfig(steps=1, estimator=estimator, optimizer=EvolutionConfig())


@pytest.mark.parametrize("fields", [{"population_size": 1}, {"sigma": 0.0}, {"learning_rate": 0.0}, {"average": 1.0}])
def test_impossible_settings_are_refused(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        EvolutionConfig(**fields)


CONFIG = """
optimizer = { kind = "lstm" }
task = { kind = "quadratic" }

[meta]
steps = 2

[meta.optimizer]
kind = "evolution"
algorithm = "PSO"
population_size = 4
params = { inertia_coeff = 0.5 }
"""


def test_a_config_survives_being_written(tmp_path):
    (tmp_path / "a.toml").write_text(CONFIG)
    first = Experiment.load(tmp_path / "a.toml")
    expected = EvolutionConfig(algorithm="PSO", population_size=4, params={"inertia_coeff": 0.5})
    assert first.meta.optimizer == expected and first.meta.estimator is None
    (tmp_path / "b.toml").write_text(first.toml())
    assert Experiment.load(tmp_path / "b.toml") == first
    assert Experiment.parse(first.model_dump(mode="json"), "provenance") == first


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("meta.estimator={kind='es'}", "estimator: found 'es', expected none"),
        ("meta.optimizer.populaton_size=4", "unknown field (did you mean 'population_size'?)"),
        ("meta.optimizer.params.inertia_coeff='much'", "found 'much' (str), expected number"),
    ],
)
def test_a_config_that_does_not_fit(tmp_path, override, words):
    (tmp_path / "a.toml").write_text(CONFIG)
    with pytest.raises(UserError) as error:
        Experiment.load(tmp_path / "a.toml", [override])
    assert words in str(error.value) and "\n" not in str(error.value)
