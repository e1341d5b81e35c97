"""One table of what an ordinary optax transformation survives, over every learned optimizer that has an optax form."""

import functools
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx, serialization

import l2o
from l2o import UserError

HORIZON = 7
SMALL = {"hidden": 4, "tensor_hidden": 4, "context": 2}


def small(config):
    """Fresh, and of few units where the family has such settings."""
    return config(**{name: size for name, size in SMALL.items() if name in config.model_fields}).build()


LEARNED = {kind: small(config) for kind, config in l2o.kinds(l2o.OptimizerConfig).items()}
LEARNED = {kind: learned for kind, learned in LEARNED.items() if learned.native is not None}
every_optimizer = pytest.mark.parametrize("kind", LEARNED)

RNG = np.random.default_rng(0)
PARAMS = {"bias": np.zeros(2, np.float32), "kernel": RNG.normal(size=(3, 2)).astype(np.float32)}
GRADS = [{name: RNG.normal(size=leaf.shape).astype(np.float32) for name, leaf in PARAMS.items()} for _ in range(3)]
VALUES = [np.float32(2.0), np.float32(1.5), np.float32(1.0)]


@functools.cache
def theta(kind):
    """No leaf is zero."""
    rng = np.random.default_rng(1)
    fresh = jax.jit(LEARNED[kind].init)(jax.random.key(0))
    return jax.tree.map(lambda a: np.float32(a + 0.2 * rng.normal(size=a.shape)), fresh)


def make(kind, horizon: Any = HORIZON) -> Any:
    return LEARNED[kind].native(theta(kind), horizon)


def step(tx: Any) -> Any:
    """A step as training loops jit it: what it replaces is donated."""

    def run(grads, params, state, value):
        updates, state = tx.update(grads, state, params, value=value)
        return updates, optax.apply_updates(params, updates), state

    return jax.jit(run, donate_argnums=(1, 2))


@functools.cache
def plain(kind):
    return step(make(kind))


def copied(tree):
    """On the host, where no donation reaches it."""
    return jax.tree.map(lambda a: np.array(a), tree)


def play(run, params, state, grads=GRADS, values=VALUES):
    """The updates of each step, and the state after the last."""
    out = []
    for gradient, value in zip(grads, values, strict=True):
        updates, params, state = run(gradient, params, state, value)
        out.append(copied(updates))
    return out, state


@functools.cache
def expected(kind):
    """The updates, and the states before and after."""
    before = copied(make(kind).init(PARAMS))
    updates, state = play(plain(kind), PARAMS, make(kind).init(PARAMS))
    return updates, before, copied(state)


def described(tree):
    return jax.tree.map(lambda a: (jnp.shape(a), jnp.result_type(a)), tree)


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b) and described(a) == described(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


# where the direction is an orthogonalised one: its five steps multiply what another program rounds by up to 480
ROUNDING = {"learned_polar": 3e-5}


def assert_close(a, b, rtol=1e-4, atol=1e-6):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol, atol), a, b)


def test_the_table_is_not_empty():
    assert {"lstm", "mlp", "rnnprop"} <= set(LEARNED)


# the state


@every_optimizer
@pytest.mark.parametrize("jitted", [False, True])
def test_fresh_and_later_states_can_be_donated(kind, jitted):
    init = jax.jit(make(kind).init) if jitted else make(kind).init
    params = jax.tree.map(jnp.asarray, PARAMS)
    updates, _ = play(plain(kind), params, init(params))
    assert_close(updates, expected(kind)[0], atol=ROUNDING.get(kind, 1e-6))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(params)), "the step did not donate"


@every_optimizer
def test_the_state_is_the_same_kind_of_tree_however_it_comes_about(kind):
    tx = make(kind)
    shape = jax.eval_shape(tx.init, PARAMS)
    later = jax.eval_shape(lambda state: tx.update(GRADS[0], state, PARAMS, value=1.0)[1], shape)
    for state in (tx.init(PARAMS), jax.jit(tx.init)(PARAMS), later):
        assert jax.tree.structure(state) == jax.tree.structure(shape)
        # a weak type that becomes a strong one traces a step twice
        assert [(a.shape, a.dtype, a.weak_type) for a in jax.tree.leaves(state)] == [
            (a.shape, a.dtype, a.weak_type) for a in jax.tree.leaves(shape)
        ]


@every_optimizer
def test_tree_map_params_finds_what_mirrors_the_parameters(kind):
    """The usual way to give each part of a state the sharding of its parameter."""
    for tx in (make(kind), optax.chain(optax.clip(1.0), make(kind)), optax.masked(make(kind), True)):
        state = tx.init(PARAMS)
        assert_equal(optax.tree_map_params(tx, lambda leaf: leaf, state), state)
        whole = optax.tree_map_params(
            tx, lambda leaf, param: leaf.shape[-param.ndim :] == param.shape, state, PARAMS,
            transform_non_params=lambda leaf: False,
        )  # fmt: skip
        # some are smaller than their parameter, and some have axes before its own
        assert sum(jax.tree.leaves(whole)) >= len(PARAMS)


def _pickled(state, like, path):
    return pickle.loads(pickle.dumps(state))


def _flax(state, like, path):
    return serialization.from_bytes(like, serialization.to_bytes(state))


def _orbax(state, like, path):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path / "state", state)
        checkpointer.wait_until_finished()
        return checkpointer.restore(path / "state", jax.eval_shape(lambda: like))


@every_optimizer
@pytest.mark.parametrize("trip", [_pickled, _flax, _orbax])
def test_a_run_goes_on_from_a_stored_state_to_the_bit(kind, trip, tmp_path):
    params, state = PARAMS, make(kind).init(PARAMS)
    _, params, state = plain(kind)(GRADS[0], params, state, VALUES[0])
    stored = trip(state, make(kind).init(PARAMS), tmp_path)
    assert_equal(stored, state)
    updates, state = play(plain(kind), params, stored, GRADS[1:], VALUES[1:])
    assert_equal((updates, state), (expected(kind)[0][1:], expected(kind)[2]))


# leaves of every kind

LOW = [jnp.bfloat16, jnp.float16, *(getattr(jnp, name) for name in dir(jnp) if name.startswith("float8"))]
LOW = {np.dtype(dtype).name: jnp.asarray([0.5, -2.0, 1.5]).astype(dtype) for dtype in LOW}
LEAVES = {
    "zero axes": jnp.array(0.3),
    "empty": jnp.zeros((0, 3)),
    "integer": jnp.array([3, -4], jnp.int32),
    "boolean": jnp.array([True, False]),
    "complex": jnp.array([[1 + 2j, -0.5j], [0.1, 2]], jnp.complex64),
    "many axes": jnp.ones((2, 1, 3, 1, 2)),
    "zeros": jnp.zeros(2),
    "none": None,
    "nested": ({"a": [jnp.ones((2, 1))]}, (), {}),
}
TREES = {
    "of every kind": LEAVES,
    "no leaves": {},
    "one scalar": jnp.array(-0.7),
    "empty leaves alone": {"empty": jnp.zeros((0, 3))},
    "integers alone": {"count": jnp.arange(3)},
}


def real(leaf):
    return jnp.issubdtype(leaf.dtype, jnp.inexact)


def gradient(leaf):
    """As `jax.grad(allow_int=True)` gives it: of dtype float0 for integers."""
    return 0.5 * leaf + 0.25 if real(leaf) else np.zeros(leaf.shape, jax.dtypes.float0)


@every_optimizer
@pytest.mark.parametrize("tree", TREES)
def test_every_leaf_keeps_its_shape_and_dtype_and_moves(kind, tree):
    tx, params = make(kind), TREES[tree]

    @jax.jit
    def run(params, state, value):
        updates, state = tx.update(jax.tree.map(gradient, params), state, params, value=value)
        return updates, optax.apply_updates(params, updates), state

    state = jax.jit(tx.init)(params)
    before, moved = described(state), params
    for value in VALUES[:2]:
        updates, moved, state = run(moved, state, value)
        assert jax.tree.structure(updates) == jax.tree.structure(params)
        for leaf, start in zip(jax.tree.leaves(updates), jax.tree.leaves(params), strict=True):
            numbers = np.asarray(leaf, complex)
            assert leaf.shape == start.shape and (leaf.dtype == start.dtype or not real(start))
            assert np.isfinite(numbers).all() and (not leaf.size or np.any(numbers != 0) == real(start))
    assert described(state) == before and described(moved) == described(params)
    for leaf, start in zip(jax.tree.leaves(moved), jax.tree.leaves(params), strict=True):
        assert real(start) or np.array_equal(leaf, start)


@every_optimizer
def test_low_precision_is_computed_in_single_precision(kind):
    tx = make(kind)

    @jax.jit
    def first(params):
        state = tx.init(params)
        updates, after = tx.update(params, state, params)
        return updates, optax.apply_updates(params, updates), (state, after)

    updates, moved, states = first(LOW)
    single, _, single_states = first(jax.tree.map(lambda leaf: leaf.astype(jnp.float32), LOW))
    assert described(moved) == described(updates) == described(LOW) and described(states) == described(single_states)
    for name, leaf in updates.items():
        if name != "float8_e8m0fnu":  # it has no sign and no zero; all it may not do is to stop the step
            rounded = single[name].astype(leaf.dtype).astype(jnp.float32)
            np.testing.assert_allclose(leaf.astype(jnp.float32), rounded, rtol=float(jnp.finfo(leaf.dtype).eps))
            assert np.any(rounded != 0)


@every_optimizer
def test_double_precision(kind):
    with jax.enable_x64(True):
        tx = make(kind)
        params = {"bias": jnp.asarray(PARAMS["bias"]), "kernel": jnp.asarray(PARAMS["kernel"], jnp.float64)}
        grads = [{name: g[name].astype(params[name].dtype) for name in g} for g in GRADS]
        state = tx.init(params)
        before = described(state)
        updates, state = play(step(tx), params, state, grads)
        assert described(updates[-1]) == described(params) and described(state) == before
        assert all(leaf.dtype in (np.float64, np.float32, np.int32) for leaf in jax.tree.leaves(state))
    assert_close(updates, expected(kind)[0], rtol=1e-3, atol=1e-5)


# the wrappers of optax, and of others

OTHER = np.float32([1.0, -2.0])
BOTH = {"learned": PARAMS, "other": OTHER}


def beside(gradient):
    return {"learned": gradient, "other": OTHER}


@every_optimizer
def test_masked(kind):
    tx = optax.masked(make(kind), {"learned": True, "other": False})
    updates, _ = play(step(tx), BOTH, tx.init(BOTH), [beside(g) for g in GRADS])
    assert_close(updates, [beside(update) for update in expected(kind)[0]], atol=ROUNDING.get(kind, 1e-6))


@every_optimizer
def test_partition_beside_another_rule(kind):
    tx = optax.partition({"l": make(kind), "s": optax.sgd(0.1)}, {"learned": "l", "other": "s"})
    updates, _ = play(step(tx), BOTH, tx.init(BOTH), [beside(g) for g in GRADS])
    assert_close(
        updates,
        [{"learned": update, "other": -0.1 * OTHER} for update in expected(kind)[0]],
        atol=ROUNDING.get(kind, 1e-6),
    )


@every_optimizer
def test_multi_steps_updates_with_the_mean_gradient(kind):
    tx = optax.MultiSteps(make(kind), every_k_schedule=2)
    parts = [jax.tree.map(lambda g, c=c: c * g, gradient) for gradient in GRADS[:1] for c in (0.5, 1.5)]
    updates, _ = play(step(tx), PARAMS, tx.init(PARAMS), parts, [VALUES[0]] * 2)
    assert_close(updates, [jax.tree.map(np.zeros_like, PARAMS), expected(kind)[0][0]], atol=ROUNDING.get(kind, 1e-6))


@every_optimizer
def test_in_a_chain_whose_inner_step_skips_a_bad_gradient(kind):
    tx = optax.chain(optax.scale(0.5), optax.apply_if_finite(make(kind), 3), optax.scale(2.0))
    double = [jax.tree.map(lambda g: 2 * g, gradient) for gradient in GRADS]
    bad = jax.tree.map(lambda g: np.nan * g, GRADS[0])
    grads, values = [double[0], bad, *double[1:]], [VALUES[0], VALUES[0], *VALUES[1:]]
    # the parameters stay, so that the three good steps are the plain ones
    run, state, updates = step(tx), tx.init(PARAMS), []
    for gradient, value, params in zip(grads, values, starts(kind), strict=True):
        update, _, state = run(gradient, params, state, value)
        updates.append(jax.tree.map(lambda u: 0.5 * u, copied(update)))
    first, *rest = expected(kind)[0]
    assert_close(updates, [first, jax.tree.map(np.zeros_like, PARAMS), *rest], atol=ROUNDING.get(kind, 1e-6))


def starts(kind):
    """Where each of the plain steps begins, the second of them twice."""
    out = [PARAMS]
    for update in expected(kind)[0][:2]:
        out.append(jax.tree.map(np.add, out[-1], update))
    return [out[0], out[1], *out[1:]]


@every_optimizer
def test_the_horizon_as_an_injected_hyperparameter(kind):
    tx = optax.inject_hyperparams(lambda horizon: make(kind, horizon))(horizon=HORIZON)
    updates, _ = play(step(tx), PARAMS, tx.init(PARAMS))
    assert_close(updates, expected(kind)[0], atol=ROUNDING.get(kind, 1e-6))
    scheduled = optax.inject_hyperparams(lambda horizon: make(kind, horizon))(horizon=optax.constant_schedule(7.0))
    jax.eval_shape(scheduled.update, PARAMS, scheduled.init(PARAMS), PARAMS)


@every_optimizer
def test_in_flax_nnx(kind):
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    model.kernel[...], model.bias[...] = jnp.asarray(PARAMS["kernel"]), jnp.asarray(PARAMS["bias"])
    optimizer = nnx.Optimizer(model, make(kind), wrt=nnx.Param)

    @nnx.jit
    def update(model, optimizer, grads, value):
        like = nnx.state(model, nnx.Param)
        leaves = [grads[path[0]] for path, _ in nnx.to_flat_state(like)]
        optimizer.update(model, jax.tree.unflatten(jax.tree.structure(like), leaves), value=value)

    for gradient, value in zip(GRADS, VALUES, strict=True):
        update(model, optimizer, gradient, value)
    end = PARAMS
    for moved in expected(kind)[0]:
        end = jax.tree.map(np.add, end, moved)
    assert_close({"bias": model.bias[...], "kernel": model.kernel[...]}, end, atol=1e-5)


# what is refused, by every family alike

BAD_HORIZONS = [float("nan"), float("inf"), 0, -5, 1.5, 100.0, True, "100", [1, 2], 1j]
BAD_HORIZONS += [np.float32(3), np.bool_(True), jnp.asarray(0), jnp.asarray(1.5), jnp.asarray(jnp.nan), jnp.ones(3)]
GOOD_HORIZONS = [None, 1, 10**10, np.int64(7), np.asarray(7), jnp.asarray(7), jnp.asarray(7.0)]


@every_optimizer
def test_a_wrong_horizon_is_refused_in_one_sentence(kind):
    for horizon in BAD_HORIZONS:
        with pytest.raises(UserError, match=r"^horizon (is|has) .*: expected a whole number of steps") as error:
            make(kind, horizon)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"^horizon is -5: expected .* at least 1, or None$"):
        l2o.Loaded(l2o.kinds(l2o.OptimizerConfig)[kind](), {}, {}, [], "").optax(-5)
    with pytest.raises(UserError, match=r"^horizon has shape \(3,\) and dtype float32"):
        jax.eval_shape(lambda horizon: make(kind, horizon).init(PARAMS), jnp.ones(3))


@every_optimizer
def test_horizons_that_are_right_or_not_known_yet_are_taken(kind):
    def first(horizon):
        tx = make(kind, horizon)
        return tx.update(GRADS[0], tx.init(PARAMS), PARAMS)[0]

    for horizon in GOOD_HORIZONS:
        make(kind, horizon)
    for horizons in (jnp.array([0, 7]), jnp.array([0.0, 7.5])):
        jax.eval_shape(first, horizons[0])
        jax.eval_shape(jax.vmap(first), horizons)


BAD_VALUES = [jnp.ones(0), np.ones((2, 0)), "1.0", [1.0], 1j, jnp.array(1j), jax.random.key(0)]
GOOD_VALUES = [
    *(None, 1, 0.5, True, np.float64(1), jnp.ones((), jnp.bfloat16), jnp.ones((), jnp.int32), np.nan, np.inf),
    *(np.ones(1), jnp.ones(1), jnp.ones(4), np.ones((2, 2), np.float16)),
]


@every_optimizer
def test_a_value_is_one_number(kind):
    tx = make(kind)
    state = tx.init(PARAMS)

    def update(value):
        return tx.update(GRADS[0], state, PARAMS, value=value, something_else=1)[0]

    for value in BAD_VALUES:
        with pytest.raises(UserError, match=r"^value (is|has) .*: expected one number") as error:
            update(value)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"^value has shape \(0,\) and dtype float32: expected"):
        jax.eval_shape(update, jnp.ones(0))
    for value in GOOD_VALUES:
        assert described(jax.eval_shape(lambda v=value: update(v))) == described(PARAMS)


@every_optimizer
def test_of_several_values_the_mean_counts(kind):
    """Such as those of several devices."""
    runs = [
        play(plain(kind), PARAMS, make(kind).init(PARAMS), values=[of(value) for value in VALUES])[0]
        for of in (np.float32, lambda value: np.array([value - 1, value + 1], np.float32))
    ]
    assert_close(*runs, atol=ROUNDING.get(kind, 1e-6))


@every_optimizer
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_keeps_the_updates_finite(kind, value):
    updates, _ = play(plain(kind), PARAMS, make(kind).init(PARAMS), values=[np.float32(value), *VALUES[1:]])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(updates))


@every_optimizer
def test_without_the_parameters_it_works_or_says_so(kind):
    tx = make(kind)
    try:
        updates = jax.eval_shape(lambda state: tx.update(GRADS[0], state)[0], tx.init(PARAMS))
    except ValueError as error:
        assert "needs the parameters" in str(error) and "\n" not in str(error)
    else:
        assert described(updates) == described(PARAMS)
