"""One table of what the rules that optax lacks survive, as optax's own do."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from l2o.baselines.hyperball import hyperball
from l2o.baselines.normuon import normuon
from l2o.baselines.polar import polar
from l2o.baselines.shampoo import shampoo
from l2o.baselines.soap import soap

RULES = {
    "soap": functools.partial(soap, precondition_frequency=2),
    "shampoo": shampoo,
    "normuon": normuon,
    "hyperball": hyperball,
    "polar": lambda rate: polar(100, step=rate),
    "hyperball-adam": lambda rate: hyperball(rate, optax.scale_by_adam()),
}
every_rule = pytest.mark.parametrize("rule", RULES)
every_rule_with_a_rate = pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "polar"])
RNG = np.random.default_rng(0)
PARAMS = {name: RNG.normal(size=shape).astype(np.float32) for name, shape in {"b": (2,), "w": (2, 2)}.items()}
GRADS = [{name: RNG.normal(size=leaf.shape).astype(np.float32) for name, leaf in PARAMS.items()} for _ in range(4)]


def play(tx, params=PARAMS, grads=GRADS):
    """The updates of each step, and the states before and after; the parameters stay."""
    first = state = tx.init(params)
    step, out = jax.jit(tx.update), []
    for g in grads:
        updates, state = step(g, state, params)
        out.append(updates)
    return out, first, state


@functools.cache
def expected(rule):
    return play(RULES[rule](0.1))[0]


def assert_close(a, b, rtol=1e-4, atol=1e-5):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol, atol), a, b)


def described(tree):
    return jax.tree.map(lambda a: (jnp.shape(a), jnp.result_type(a)), tree)


@every_rule
def test_the_state_keeps_its_form_and_mirrors_the_parameters(rule):
    tx = RULES[rule](0.1)
    _, first, last = play(tx)
    assert described(first) == described(last) == described(jax.eval_shape(tx.init, PARAMS))
    # beside the parameters themselves optax's own Muon does not either, as its two parts hide each other's leaves
    rest = [PARAMS] if rule in ("soap", "shampoo") else []
    found = optax.tree_map_params(tx, lambda leaf, *param: jnp.zeros_like(leaf), last, *rest)
    kept = {leaf.shape for leaf in jax.tree.leaves(found) if np.any(leaf)}
    assert described(found) == described(first) and kept <= {(), (3,)}
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(jax.eval_shape(lambda: last)))


@every_rule
def test_eager_equals_jit_and_none_is_left_alone(rule):
    tx, params = RULES[rule](0.1), {**PARAMS, "none": None}
    updates, state = tx.update({**GRADS[0], "none": None}, tx.init(params), params)
    updates, _ = tx.update({**GRADS[1], "none": None}, state, params)
    assert updates.pop("none") is None
    assert_close(updates, expected(rule)[1])


@every_rule
def test_masked_and_chained(rule):
    both = {"rule": PARAMS, "other": np.float32([1.0, -2.0])}
    tx = optax.chain(optax.clip(1e9), optax.masked(RULES[rule](0.1), {"rule": True, "other": False}))
    updates, *_ = play(tx, both, [{"rule": g, "other": both["other"]} for g in GRADS])
    assert_close([u["rule"] for u in updates], expected(rule))
    np.testing.assert_array_equal(updates[-1]["other"], both["other"])


@every_rule
def test_multi_steps_update_with_the_mean_gradient(rule):
    tx = optax.MultiSteps(RULES[rule](0.1), every_k_schedule=2)
    parts = [jax.tree.map(lambda g, c=c: c * g, gradient) for gradient in GRADS[:2] for c in (0.5, 1.5)]
    updates, *_ = play(tx, PARAMS, parts)
    assert_close(updates[1::2], expected(rule)[:2])
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(updates[::2]))


@every_rule_with_a_rate
def test_a_rate_may_be_a_schedule_or_injected_or_one_of_many(rule):
    injected = optax.inject_hyperparams(lambda rate: RULES[rule](rate))(rate=0.1)
    for tx in (RULES[rule](optax.constant_schedule(0.1)), injected):
        assert_close(play(tx)[0], expected(rule))

    def last(rate):
        tx = RULES[rule](rate)
        state = tx.init(PARAMS)
        for g in GRADS[:2]:
            updates, state = tx.update(g, state, PARAMS)
        return updates

    grid = jax.jit(jax.vmap(last))(jnp.array([0.1, 0.3]))
    assert_close(jax.tree.map(lambda a: a[0], grid), expected(rule)[1])


LEAVES = {
    "scalar": jnp.array(0.3),
    "empty": jnp.zeros((0, 3)),
    "low": jnp.array([[0.5, -2.0], [1.5, 1.0]], jnp.bfloat16),
    "complex": jnp.array([[1 + 2j, -0.5j], [0.1, 2]], jnp.complex64),
    "many axes": jnp.ones((2, 1, 3, 1)),
    "row": jnp.ones((1, 3)),
    "count": jnp.array([[3, -4]], jnp.int32),
    "zeros": jnp.zeros((2, 2)),
    "none": None,
    "nested": ({"a": [jnp.ones((2, 1))]}, (), {}),
}


@pytest.mark.slow
@every_rule
def test_leaves_of_every_kind(rule):
    grads = jax.tree.map(lambda a: a + jnp.ones((), a.dtype), LEAVES)
    updates, *_ = play(RULES[rule](0.1), LEAVES, [grads] * 3)
    adam, *_ = play(optax.adam(0.1), LEAVES, [grads] * 3)
    assert described(updates) == described(adam)
    numbers = [
        {**update, "count": None} for update in updates
    ]  # optax's Adam with Nesterov's momentum gives NaN for it
    assert all(np.isfinite(np.asarray(leaf, complex)).all() for leaf in jax.tree.leaves(numbers))
    for tree in ({}, jnp.array(-0.7), {"empty": jnp.zeros((0, 3))}, {"w": jnp.ones((2, 2), jnp.float16)}):
        updates, *_ = play(RULES[rule](0.1), tree, [tree] * 2)
        assert described(updates[-1]) == described(tree)


@every_rule
def test_double_precision(rule):
    with jax.enable_x64(True):
        double = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), (PARAMS, GRADS))
        updates, first, last = play(RULES[rule](0.1), *double)
        assert described(first) == described(last) and described(updates[0]) == described(double[0])
        leaves = [leaf for leaf in jax.tree.leaves(last) if leaf.ndim]
        assert all(leaf.dtype == np.float64 for leaf in leaves)
    assert_close(updates, expected(rule), rtol=1e-2, atol=1e-4)


@every_rule_with_a_rate
def test_it_lowers_a_quadratic(rule):
    target = jnp.array([[1.0, -1.0, 2.0], [0.5, 0.3, -0.7]])
    target = target / jnp.linalg.norm(target)
    tx, start = (
        RULES[rule](optax.linear_schedule(0.1, 0.0, 100)),
        {"w": jnp.ones((2, 3)) / jnp.sqrt(6), "b": jnp.ones(3)},
    )

    def loss(x):
        return jnp.sum((x["w"] - target) ** 2) + jnp.sum(x["b"] ** 2)

    @jax.jit
    def run(x):
        def body(carry, _):
            x, state = carry
            updates, state = tx.update(jax.grad(loss)(x), state, x)
            return (optax.apply_updates(x, updates), state), None

        return loss(jax.lax.scan(body, (x, tx.init(x)), None, 100)[0][0])

    assert run(start) < 0.01 * loss(start)
