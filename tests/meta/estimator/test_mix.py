"""A mix is the weighted sum of its parts, and each part goes its own way."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from pydantic import ValidationError

from l2o.lift.optax import gradient_based
from l2o.registry import parse
from meta.curriculum import FixedConfig
from meta.estimator import EstimatorConfig
from meta.objective import SumConfig
from meta.trainer import MetaConfig
from tasks.quadratic import QuadraticConfig

BACKPROP = {"kind": "backprop", "unroll_length": 2}
PES = {"kind": "pes", "unroll_length": 3, "sigma": 0.1, "pairs": 2}
NRES = {"kind": "nres", "unroll_length": 2, "sigma": 0.1}
PARTS = {"backprop": BACKPROP, "pes": PES, "nres": NRES}
THETA = {"rate": jnp.array(-3.0), "momentum": jnp.array(0.2)}
DESCENT = gradient_based(
    lambda key: THETA, lambda theta, horizon: optax.sgd(jnp.exp(theta["rate"]), jax.nn.sigmoid(theta["momentum"]))
)
FAMILY = FixedConfig(length=6).family(QuadraticConfig(dimension=2, start_scale=1.0).build())
TASKS = 3


def build(fields):
    return parse(EstimatorConfig, fields).build(DESCENT, SumConfig().build(), 6, TASKS)


def follow(estimator, key):
    """Gradients and losses of four estimates in a row, and the last state."""

    @jax.jit
    def run(key):
        def step(state, _):
            gradient, state, loss = estimator.estimate(THETA, state, FAMILY)
            return state, (jnp.stack([gradient["momentum"], gradient["rate"]]), loss)

        return jax.lax.scan(step, estimator.init(key, THETA, FAMILY), None, 4)

    state, (gradients, losses) = run(key)
    return np.array(gradients), np.array(losses), state


@functools.cache
def alone(kind, n, i):
    """What part i of a mix of n does by itself."""
    return follow(build(PARTS[kind]), jax.random.split(jax.random.key(1), n)[i])


@pytest.mark.parametrize(
    ("kinds", "weights"), [("backprop pes", [0.2, 3.0]), pytest.param("pes nres", None, marks=pytest.mark.slow)]
)
def test_a_mix_is_the_weighted_sum_of_its_parts(kinds, weights):
    """Over four estimates, in which the parts restart their runs at different times."""
    kinds = kinds.split()
    fields = {"kind": "mix", "estimators": [PARTS[kind] for kind in kinds]} | ({"weights": weights} if weights else {})
    gradients, losses, states = follow(build(fields), jax.random.key(1))
    parts = [alone(kind, len(kinds), i) for i, kind in enumerate(kinds)]
    weights = weights or [0.5, 0.5]
    expected = sum(w * part for w, (part, _, _) in zip(weights, parts, strict=True))
    np.testing.assert_allclose(gradients, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_allclose(losses, np.mean([loss for _, loss, _ in parts], axis=0), rtol=1e-5)
    for state, (_, _, own) in zip(states, parts, strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), state, own)
    assert not np.allclose(parts[0][0], parts[1][0], rtol=0.1), "the parts must differ for the weights to show"


def test_the_runs_of_a_mix_divide_the_states_of_all_parts():
    mix = build({"kind": "mix", "estimators": [BACKPROP, PES, {**NRES, "pairs": 4}]})
    assert mix.runs == TASKS
    leading = {leaf.shape[0] for leaf in jax.tree.leaves(jax.eval_shape(mix.init, jax.random.key(0), THETA, FAMILY))}
    assert leading == {TASKS, 2 * TASKS, 4 * TASKS}


def test_a_mix_survives_its_config_file():
    mix = parse(EstimatorConfig, {"kind": "mix", "estimators": [BACKPROP, PES], "weights": [0.25, 0.75]})
    assert parse(EstimatorConfig, mix.model_dump(mode="json")) == mix
    assert [part.kind for part in mix.estimators] == ["backprop", "pes"] and mix.estimators[1].pairs == 2


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"weights": [1.0]}, "found 1 weights, expected one for each of 2"),
        ({"weights": [1.0, 2.0, 3.0]}, "found 3 weights, expected one for each of 2"),
        ({"weights": [1.0, 0.0]}, "greater than 0"),
        ({"weights": [1.0, -1.0]}, "greater than 0"),
        ({"estimators": [PES]}, "at least 2"),
        ({"estimators": []}, "at least 2"),
        ({"estimators": [BACKPROP, {"kind": "pess"}]}, r"unknown kind 'pess' \(did you mean 'pes'\?\)"),
        ({"estimators": [BACKPROP, {"kind": "pes", "sigma": 0.0}]}, "sigma"),
        ({"estimators": [BACKPROP, {"sigma": 0.1}]}, "kind is missing"),
    ],
)
def test_a_mix_that_makes_no_sense_is_refused(fields, words):
    table = {"kind": "mix", "estimators": [BACKPROP, PES], **fields}
    with pytest.raises(ValidationError, match=words):
        parse(EstimatorConfig, table)
    with pytest.raises(ValidationError, match=words):
        MetaConfig.model_validate({"steps": 1, "estimator": table})
