"""Mixtures of families: their parts, and everything that runs them part by part."""

import functools
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from l2o.baselines.optax import SGDConfig
from l2o.errors import UserError
from l2o.gradient.lstm import LSTMConfig
from meta.curriculum import FixedConfig, Timed
from meta.estimator.backprop import BackpropConfig
from meta.estimator.base import Estimator, over_parts
from meta.estimator.es import ESConfig
from meta.evaluate import evaluate
from meta.learner.base import share
from meta.learner.evolution import EvolutionConfig
from meta.learner.gradient import AdamLearnerConfig
from meta.objective import SumConfig
from meta.trainer import MetaConfig, train
from tasks.mixture import Mixture, MixtureConfig
from tasks.quadratic import QuadraticConfig
from tasks.rescaled import Rescaled, RescaledConfig

FIELDS: Any = [{"kind": "quadratic", "dimension": d, "start_scale": 1.0} for d in (2, 3)]
TWO, THREE = (QuadraticConfig(**fields).build() for fields in FIELDS)
MIXTURE = MixtureConfig(families=FIELDS).build()
LEARNED = LSTMConfig(layers=1, hidden=2).build()
HORIZON: Any = 4


def assert_close(a, b, rtol=1e-5, atol=1e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


def sgd(rate):
    return SGDConfig().build(rate)


def test_parts_are_flat():
    nested: Any = [FIELDS[0], {"kind": "mixture", "families": [FIELDS[1], FIELDS[0]]}]
    assert MixtureConfig(families=nested).build().parts == (TWO, THREE, TWO)
    assert MIXTURE.parts == (TWO, THREE) and TWO.parts == (TWO,)


def test_the_split_reaches_every_part():
    class Split(QuadraticConfig):
        def build(self, split="train"):
            return QuadraticConfig(dimension=self.dimension, start_scale={"train": 1.0, "test": 2.0}[split]).build()

    mixture = MixtureConfig(families=(Split(dimension=2), Split(dimension=3)))
    for split, scale in (("train", 1.0), ("test", 2.0)):
        assert [part.start_scale for part in mixture.build(split).parts] == [scale, scale]


def test_a_wrapped_mixture_is_a_mixture_of_wrapped_families():
    inner: Any = {"kind": "mixture", "families": FIELDS}
    config = RescaledConfig(family=inner, parameters=1.0, objective=0.5)
    family = FixedConfig(length=7).family(config.build())
    assert len(family.parts) == 2
    for part, inner in zip(family.parts, (TWO, THREE), strict=True):
        assert isinstance(part, Timed) and isinstance(part.family, Rescaled)
        assert part.family.family == inner and part.family.config == config
        task = part.task(part.sample(jax.random.key(0)))
        assert int(task.problem.horizon) == 7 and task.problem.start.shape == (inner.dimension,)


def test_a_mixture_has_no_tasks_of_its_own():
    with pytest.raises(TypeError, match="parts"):
        MIXTURE.sample(jax.random.key(0))
    with pytest.raises(TypeError, match="parts"):
        MIXTURE.task(())
    with pytest.raises(ValueError, match="families"):
        MixtureConfig(families=())


def test_a_mixture_is_a_pytree():
    leaves, tree = jax.tree.flatten(MIXTURE)
    assert jax.tree.unflatten(tree, leaves) == MIXTURE == Mixture((TWO, THREE))


# estimates


def test_an_estimate_is_the_mean_of_those_of_the_parts():
    families = [QuadraticConfig(dimension=2, start_scale=scale).build() for scale in (0.5, 2.0)]
    family = FixedConfig(length=HORIZON).family(Mixture(tuple(families)))
    estimator = BackpropConfig(unroll_length=2).build(LEARNED, SumConfig().build(), HORIZON, 2)
    whole, theta = over_parts(estimator, 2), LEARNED.init(jax.random.key(1))

    @functools.partial(jax.jit, static_argnums=0)
    def first(estimator, key, family):
        return estimator.estimate(theta, estimator.init(key, theta, family), family)

    gradient, states, loss = first(whole, jax.random.key(2), family)
    keys = jax.random.split(jax.random.key(2), 2)
    (g0, s0, l0), (g1, s1, l1) = (first(estimator, k, part) for k, part in zip(keys, family.parts, strict=True))
    assert_close((gradient, loss), jax.tree.map(lambda a, b: (a + b) / 2, (g0, l0), (g1, l1)), rtol=1e-4)
    assert_close(states, (s0, s1), rtol=1e-4, atol=1e-5)
    assert not np.allclose(g0["output"]["w"], g1["output"]["w"], rtol=0.1)
    assert whole.runs == estimator.runs and over_parts(estimator, 1) is estimator


def test_a_part_without_a_finite_loss_has_no_say_in_the_loss():
    def estimate(theta, state, family):
        return {"w": family}, state, family

    whole = over_parts(Estimator(lambda key, theta, family: 0, estimate, 1), 3)
    for losses, mean in (([1.0, 2.0, 6.0], 3.0), ([1.0, np.nan, 6.0], 3.5), ([np.nan] * 3, np.nan)):
        family: Any = SimpleNamespace(parts=[jnp.asarray(loss) for loss in losses])
        gradient, _, loss = whole.estimate({}, (0, 0, 0), family)
        np.testing.assert_allclose(loss, mean)
        np.testing.assert_allclose(gradient["w"], np.mean(losses), rtol=1e-6)


def test_a_part_whose_gradient_is_long_is_shortened_to_the_median():
    def estimate(theta, state, family):
        return {"w": family, "v": 2 * family}, state, jnp.zeros(())

    found = {}
    for clip in (None, 1.0, 2.0):
        whole = over_parts(Estimator(lambda key, theta, family: 0, estimate, 1), 3, clip)
        family: Any = SimpleNamespace(parts=[jnp.asarray(x) for x in (-1.0, 2.0, 600.0)])
        found[clip] = float(whole.estimate({}, (0, 0, 0), family)[0]["w"])
    assert found == pytest.approx({None: 601 / 3, 1.0: (-1 + 2 + 2) / 3, 2.0: (-1 + 2 + 4) / 3})
    zeros: Any = SimpleNamespace(parts=[jnp.zeros(())] * 3)
    assert whole.estimate({}, (0, 0, 0), zeros)[0]["w"] == 0
    config = MetaConfig.model_validate({"steps": 1, "optimizer": {"kind": "adam", "clip_parts": 1.0}})
    assert isinstance(config.optimizer, AdamLearnerConfig) and config.optimizer.clip_parts == 1.0


# evaluation


def test_evaluation_takes_the_parts_one_after_another():
    """Task i depends on the key and on i, whatever the family."""
    options = {"tasks": 5, "horizon": HORIZON, "objective": SumConfig().build()}
    found = evaluate(sgd, 0.02, MIXTURE, jax.random.key(3), **options)
    assert found["value"].shape == (5, HORIZON + 1) and found["objective"].shape == (5,)
    two, three = (evaluate(sgd, 0.02, family, jax.random.key(3), **options) for family in (TWO, THREE))
    assert_close(found, jax.tree.map(lambda a, b: jnp.concatenate([a[:3], b[3:]]), two, three))
    assert len(np.unique(found["objective"])) == 5


def test_evaluation_reports_the_measures_that_all_parts_have():
    def reported(*families: Any, tasks=2):
        family = MixtureConfig(families=families).build()
        out = jax.eval_shape(lambda key: evaluate(sgd, 0.02, family, key, tasks=tasks, horizon=1), jax.random.key(4))
        return jax.tree.map(jnp.shape, out)

    digits = {"kind": "mlp_classifier", "width": 2, "batch_size": 4}
    measures = {"heldout_loss": (2,), "heldout_accuracy": (2,)}
    assert reported(digits, {**digits, "width": 3}) == {"value": (2, 2), **measures}
    assert reported(digits, FIELDS[0]) == {"value": (2, 2)}
    assert reported(digits, FIELDS[0], tasks=1) == {"value": (1, 2), "heldout_loss": (1,), "heldout_accuracy": (1,)}


# training


@pytest.mark.parametrize(("tasks", "parts"), [(5, 2), (2, 3), (1, 2)])
def test_tasks_that_cannot_be_shared_evenly(tasks, parts):
    with pytest.raises(UserError) as error:
        share(tasks, parts)
    assert str(error.value) == f"meta.tasks: found {tasks}, expected a multiple of {parts}, the families of the mixture"
    assert share(tasks * parts, parts) == tasks


@pytest.mark.parametrize("optimizer", [AdamLearnerConfig(), EvolutionConfig(population_size=4)])
def test_a_training_refuses_them_too(optimizer):
    config = MetaConfig(steps=1, tasks=3, horizon=HORIZON, optimizer=optimizer)
    with jax.numpy_rank_promotion("allow"), pytest.raises(UserError, match=r"meta\.tasks: found 3"):
        config.learner(LEARNED, MIXTURE)


@pytest.mark.slow
def test_training_on_four_devices_equals_one(tmp_path):
    estimator = ESConfig(unroll_length=2, sigma=0.1)

    def run(devices):
        config = MetaConfig(
            steps=4, tasks=8, horizon=HORIZON, estimator=estimator, optimizer=AdamLearnerConfig(average=0.5),
            devices=devices, log_every=2, validate_every=2, checkpoint_every=4, validation_tasks=4,
        )  # fmt: skip
        out = tmp_path / str(devices)
        out.mkdir()
        return train(out, LEARNED, MIXTURE, config, seed=0, identity={}, report=lambda row: None)

    one, four = run(1), run(4)
    assert (one.devices, four.devices) == (1, 4)
    for result in (one, four):
        assert result.finished and result.step == 4 and result.skipped == 0 and np.isfinite(result.validation)
    assert one.validation_step == four.validation_step
    assert_close((four.theta, four.validation), (one.theta, one.validation), rtol=1e-4, atol=1e-5)
    fresh = LEARNED.init(jax.random.split(jax.random.key(0), 3)[1])
    moved = [np.max(np.abs(a - b)) for a, b in zip(*map(jax.tree.leaves, (one.theta, fresh)), strict=True)]
    assert max(moved) > 1e-4
