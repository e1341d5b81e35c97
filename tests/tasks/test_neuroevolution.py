"""Networks as population tasks: the family's own losses, one minibatch for all, no gradient, flat points."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from l2o.baselines.evosax import SNESConfig
from l2o.errors import UserError
from l2o.unroll import unroll, values_only
from tasks.datasets import Dataset
from tasks.networks.classifiers import Classifier, MLPClassifierConfig
from tasks.networks.convolutions import ConvClassifierConfig
from tasks.neuroevolution import Neuroevolution, NeuroevolutionConfig

INNER = {
    "mlp": MLPClassifierConfig(width=5, batch_size=4),
    "conv": ConvClassifierConfig(channels=(3,), batch_size=4),
    "activations": MLPClassifierConfig(width=5, batch_size=4, activation=("tanh", "relu")),
    "validation": MLPClassifierConfig(width=5, batch_size=4, validation=0.5),
}


def small(inner: Any = INNER["mlp"], **fields) -> Neuroevolution:
    rng = np.random.default_rng(0)
    images, heldout = (jnp.asarray(rng.uniform(size=(n, 4, 4, 1)), jnp.float32) for n in (40, 7))
    labels, heldout_labels = (jnp.asarray(rng.integers(0, 3, n), jnp.int32) for n in (40, 7))
    family = Classifier(Dataset(images, labels, heldout, heldout_labels), 3, inner)
    return Neuroevolution(family, NeuroevolutionConfig(family=inner, **fields))


def population(start, n=3):
    return start[None] + 0.3 * jax.random.normal(jax.random.key(9), (n, start.size))


@pytest.mark.parametrize("inner", INNER.values(), ids=INNER)
def test_a_members_value_is_the_loss_of_its_network_on_the_generations_minibatch(inner):
    family = small(inner)
    params = family.sample(jax.random.key(1))
    task, plain = family.task(params), family.family.task(params)
    flat, unravel = ravel_pytree(plain.problem.start)
    np.testing.assert_array_equal(task.problem.start, flat)
    x = population(flat)
    found, alone = jax.jit(task.evaluate)(jax.random.key(2), x), jax.jit(plain.evaluate)
    assert found.value.shape == (3,) and found.gradient is None
    for i in range(3):
        expected = alone(jax.random.key(2), jax.tree.map(lambda a: a[None], unravel(x[i])))
        np.testing.assert_allclose(found.value[i], expected.value[0], rtol=1e-5)
        if inner.validation:
            np.testing.assert_allclose(found.judged[i], expected.judged[0], rtol=1e-5)
        else:
            assert found.judged is None


def test_equal_members_have_equal_values_and_the_next_generation_other_ones():
    family = small()
    params = family.sample(jax.random.key(3))
    task, plain = family.task(params), family.family.task(params)
    x = jnp.tile(population(task.problem.start, 1), (6, 1))
    evaluate: Any = jax.jit(task.evaluate)
    first, other = (np.asarray(evaluate(jax.random.key(k), x).value) for k in (4, 5))
    assert len(set(first.tolist())) == len(set(other.tolist())) == 1 and first[0] != other[0]
    networks = jax.vmap(ravel_pytree(params)[1])(x)
    apart = jax.jit(plain.evaluate)(jax.random.key(4), networks).value
    assert len(set(np.asarray(apart).tolist())) > 1, "the family alone draws a minibatch for each"


def test_compiled_code_computes_no_gradient():
    """Under half of the operations of the family's own evaluation, whose gradient costs more than its values."""
    family = small(MLPClassifierConfig(width=50, batch_size=30))
    params = family.sample(jax.random.key(6))
    task, plain = family.task(params), family.family.task(params)
    unravel = ravel_pytree(plain.problem.start)[1]
    x = population(task.problem.start, 8)

    def flops(evaluate):
        return jax.jit(evaluate).lower(jax.random.key(7), x).compile().cost_analysis()["flops"]

    assert flops(task.evaluate) < 0.5 * flops(lambda key, x: plain.evaluate(key, jax.vmap(unravel)(x)))


def test_measures_are_those_of_the_network():
    family = small(INNER["conv"])
    params = family.sample(jax.random.key(8))
    task, plain = family.task(params), family.family.task(params)
    flat, unravel = ravel_pytree(plain.problem.start)
    x = population(flat, 1)[0]
    found, expected = task.measure(jax.random.key(0), x), plain.measure(jax.random.key(0), unravel(x))
    assert set(found) == {"heldout_loss", "heldout_accuracy"}
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_a_member_that_is_not_a_number_fails_alone():
    task = (family := small()).task(family.sample(jax.random.key(10)))
    x = population(task.problem.start).at[1, 0].set(jnp.nan)
    value = jax.jit(task.evaluate)(jax.random.key(11), x).value
    np.testing.assert_array_equal(np.isnan(value), [False, True, False])


def test_the_start_and_the_scale_are_those_of_the_config():
    family = small(start="zero", sigma=0.3)
    problem = family.task(family.sample(jax.random.key(12))).problem
    assert problem.scale == 0.3 and problem.space.is_free and not np.any(problem.start)
    assert np.any(small().task(family.sample(jax.random.key(12))).problem.start)


@pytest.mark.slow
def test_digits_with_a_thousand_weights_are_learned_by_a_classical_strategy():
    family = NeuroevolutionConfig(family=MLPClassifierConfig(width=16)).build()
    optimizer = SNESConfig(population_size=32).build()

    @jax.jit
    def run(family, key):
        sample_key, init_key, run_key, measure_key = jax.random.split(key, 4)
        task = family.task(family.sample(sample_key))
        state = optimizer.init(init_key, task.problem)
        state, history = unroll(optimizer, task, state, run_key, 150, record=values_only)
        x, _ = optimizer.ask(init_key, state)
        return task.problem.start.size, history.evaluation.value.mean(1), task.measure(measure_key, x[0])

    size, values, measured = run(family, jax.random.key(13))
    assert size == 64 * 16 + 16 + 16 * 10 + 10 == 1210
    assert values[0] > 2.2 and values[-1] < 1.3 and measured["heldout_accuracy"] > 0.6


def test_a_mixture_is_one_of_population_tasks():
    inner: Any = {"kind": "mixture", "families": [{"kind": "mlp_classifier", "width": w} for w in (2, 3)]}
    parts = NeuroevolutionConfig(family=inner).build().parts
    sizes = [part.task(part.sample(jax.random.key(14))).problem.start.size for part in parts]
    assert sizes == [64 * w + w + w * 10 + 10 for w in (2, 3)]


def test_a_family_in_a_box_is_refused():
    inner: Any = {"kind": "gp"}
    with pytest.raises(UserError, match="'gp' are in a box"):
        NeuroevolutionConfig(family=inner).build()


@pytest.mark.parametrize("fields", [{"sigma": 0.0}, {"start": "ones"}])
def test_a_bad_config_is_refused(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        NeuroevolutionConfig(family=INNER["mlp"], **fields)
