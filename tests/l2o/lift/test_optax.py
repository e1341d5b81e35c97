"""Both directions between optax and the contract: lifted transformations, and learned ones in optax's own wrappers."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import l2o
from l2o import Problem, Space, Task, from_optax, unroll
from l2o.baselines.matrices import all_matrices
from l2o.baselines.optax import TunedConfig
from l2o.gradient.lstm import LSTMConfig

PARAMS = {
    "w": jnp.array([[0.5, -1.0, 0.3], [1.2, 0.25, -0.6]]),
    "b": jnp.array(0.75),
    "deep": [jnp.array([0.1, -0.4])],
    "empty": jnp.zeros((0, 2)),
}
DATA = jax.random.normal(jax.random.key(7), (32, 3))
NETWORK = LSTMConfig(layers=1, hidden=4).build()
THETA = jax.tree.map(lambda a: a + 0.2, NETWORK.init(jax.random.key(3)))
TX = NETWORK.native(THETA, None)


def loss(key, x):
    """A small network on a minibatch drawn from the key; not convex."""
    batch = DATA[jax.random.randint(key, (4,), 0, 32)]
    hidden = jnp.tanh(batch @ x["w"].T + x["deep"][0][None])
    return jnp.mean((hidden.sum(-1) - x["b"] - batch.prod(-1)) ** 2)


def gradient(seed=0, params=PARAMS):
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    return jax.tree.unflatten(tree, [jax.random.normal(k, a.shape) for k, a in zip(keys, leaves, strict=True)])


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def assert_close(a, b, rtol=1e-5, atol=1e-6):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol, atol), a, b)


# optax in the contract

TUNED = {kind: cls for kind, cls in l2o.kinds(l2o.BaselineConfig).items() if issubclass(cls, TunedConfig)}


def plain_loop(tx, key, steps):
    """What anybody would write without this project."""

    def body(carry, t):
        x, state = carry
        evaluate_key = jax.random.split(jax.random.fold_in(key, t), 3)[1]
        value, grads = jax.value_and_grad(loss, argnums=1)(evaluate_key, x)
        updates, state = tx.update(grads, state, x)
        return (optax.apply_updates(x, updates), state), (x, value, grads)

    return jax.jit(lambda x: jax.lax.scan(body, (x, tx.init(x)), jnp.arange(steps)))(PARAMS)


def lifted_loop(optimizer, key, steps):
    def run(x):
        problem = Problem(Space.free(), x, horizon=jnp.asarray(steps))
        task = Task.from_loss(loss, problem)
        return unroll(optimizer, task, optimizer.init(jax.random.key(0), problem), key, steps)

    return jax.jit(run)(PARAMS)


def assert_same_run(plain, lifted):
    (end, inner), (x, value, grads) = plain
    (state, _), trajectory = lifted
    first = jax.tree.map(lambda a: a[:, 0], (trajectory.x, trajectory.evaluation.gradient))
    assert_equal(first, (x, grads))
    assert_equal(trajectory.evaluation.value[:, 0], value)
    assert_equal(state.x, end)
    assert_equal(state.inner, inner)


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(k, marks=pytest.mark.slow) if k in ("soap", "shampoo", "normuon", "nag", "lion", "sgd") else k
        for k in TUNED
    ],
)
def test_every_lifted_baseline_equals_a_plain_loop_to_the_bit(kind):
    config = TUNED[kind](learning_rate=0.05)
    plain = plain_loop(config.over(0.05, jnp.asarray(25)), jax.random.key(1), 25)
    assert_same_run(plain, lifted_loop(config.build(), jax.random.key(1), 25))
    assert plain[1][1][-1] != plain[1][1][0]


REFERENCE = {
    "sgd": optax.sgd(0.05),
    "momentum": optax.sgd(0.05, momentum=0.9),
    "nag": optax.sgd(0.05, momentum=0.9, nesterov=True),
    "rmsprop": optax.rmsprop(0.05, decay=0.9),
    "adam": optax.adam(0.05, b1=0.9, b2=0.999),
    "adamw": optax.adamw(0.05, weight_decay=1e-4),
}


@pytest.mark.parametrize("kind", REFERENCE)
def test_a_baseline_is_the_rule_it_is_named_after(kind):
    ours, theirs = TUNED[kind](learning_rate=0.05).transformation(0.05), REFERENCE[kind]
    states, params = [ours.init(PARAMS), theirs.init(PARAMS)], PARAMS
    for seed in range(2):
        grads = gradient(seed)
        updates, states[0] = ours.update(grads, states[0], params)
        expected, states[1] = theirs.update(grads, states[1], params)
        assert_equal(updates, expected)
        params = optax.apply_updates(params, updates)


@pytest.mark.parametrize("kind", TUNED)
def test_a_tuned_baseline_needs_a_learning_rate_and_takes_a_traced_one(kind):
    with pytest.raises(ValueError, match="needs a learning_rate"):
        TUNED[kind]().build()
    problem = Problem(Space.free(), jnp.array([1.0, -2.0]))
    task = Task.from_loss(lambda key, x: jnp.sum(x**2), problem)

    def last(rate, build):
        optimizer = build(rate)
        state = optimizer.init(jax.random.key(0), problem)
        return unroll(optimizer, task, state, jax.random.key(1), 3)[1].x[-1, 0]

    grid = jax.vmap(lambda rate: last(rate, TUNED[kind]().build))(jnp.array([0.01, 0.1]))
    for found, rate in zip(grid, (0.01, 0.1), strict=True):
        np.testing.assert_allclose(found, last(rate, lambda r: TUNED[kind](learning_rate=r).build()), rtol=1e-5)


SCHEDULED = {
    "sgd": optax.sgd,
    "adam": optax.adam,
    "muon": lambda rate: optax.contrib.muon(rate, muon_weight_dimension_numbers=all_matrices),
}


@pytest.mark.parametrize("kind", SCHEDULED)
def test_a_cosine_schedule_is_that_of_optax(kind):
    """Also beyond the horizon, where it stays at zero, and with the horizon as data."""
    config = TUNED[kind](learning_rate=0.05, schedule="cosine")

    @jax.jit
    def ours(horizon):
        problem = Problem(Space.free(), PARAMS, horizon=horizon)
        optimizer = config.build()
        state = optimizer.init(jax.random.key(0), problem)
        return unroll(optimizer, Task.from_loss(loss, problem), state, jax.random.key(1), 12)[1].x

    horizons = (8, 30) if kind == "sgd" else (8,)
    for horizon in horizons:
        tx = SCHEDULED[kind](optax.cosine_decay_schedule(0.05, horizon))
        x = plain_loop(tx, jax.random.key(1), 12)[1][0]
        found = jax.tree.map(lambda a: a[:, 0], ours(jnp.asarray(horizon)))
        assert_close(found, x, rtol=1e-4, atol=1e-5)
        still = jax.tree.map(lambda a: np.allclose(a[8:], a[8:9], atol=1e-6), found)
        assert all(jax.tree.leaves(still)) == (horizon == 8)


def test_labels():
    assert TUNED["adam"]().label == "adam" and TUNED["adam"](learning_rate=0.1).label == "adam"
    assert TUNED["adam"](schedule="cosine").label == "adam-cosine"


def test_muon_orthogonalises_matrices_alone():
    """The rest gets Adam, in optax with Nesterov's momentum; empty leaves and those with one axis do not stop it."""
    tx, adam = TUNED["muon"](beta=0.9).transformation(0.05), optax.adam(0.05, nesterov=True)
    update = jax.jit(tx.update)(gradient(), tx.init(PARAMS), PARAMS)[0]
    expected = jax.jit(adam.update)(gradient(), adam.init(PARAMS), PARAMS)[0]
    assert jax.tree.map(jnp.shape, update) == jax.tree.map(jnp.shape, PARAMS)
    assert_close({k: v for k, v in update.items() if k != "w"}, {k: v for k, v in expected.items() if k != "w"}, 1e-3)
    singular = np.linalg.svd(update["w"], compute_uv=False) / (0.05 * np.sqrt(3 / 2))
    assert singular.min() > 0.6 and singular.max() < 1.3


@pytest.mark.parametrize(("kind", "rate"), [("lion", 0.02), ("muon", 0.05), ("prodigy", 1.0)])
def test_a_baseline_lowers_a_quadratic(kind, rate):
    optimizer, start = TUNED[kind](learning_rate=rate).build(), {"w": jnp.ones((3, 2)), "b": -jnp.ones(3)}
    problem = Problem(Space.free(), start)

    def quadratic(key, x):
        return jnp.sum((x["w"] - 0.5) ** 2) + jnp.sum(x["b"] ** 2)

    @jax.jit
    def play():
        state = optimizer.init(jax.random.key(0), problem)
        return unroll(optimizer, Task.from_loss(quadratic, problem), state, jax.random.key(1), 100)[1]

    values = play().evaluation.value[:, 0]
    assert values[-10:].max() < 0.1 * values[0]


def test_a_lifted_lstm_equals_a_plain_loop():
    plain = plain_loop(TX, jax.random.key(1), 10)
    lifted = lifted_loop(NETWORK.bind(THETA), jax.random.key(1), 10)
    assert_close(jax.tree.map(lambda a: a[:, 0], lifted[1].x), plain[1][0])
    assert_close(lifted[0][0].inner, plain[0][1])


def test_the_horizon_reaches_a_schedule_as_data():
    traces = []

    @jax.jit
    def run(horizon):
        traces.append(None)
        optimizer = from_optax(lambda h: optax.sgd(lambda count: 0.1 * (1 - count / h)))
        problem = Problem(Space.free(), jnp.array([1.0]), horizon=horizon)
        task = Task.from_loss(lambda key, x: jnp.sum(x), problem)
        return unroll(optimizer, task, optimizer.init(jax.random.key(0), problem), jax.random.key(1), 5)[1].x[:, 0, 0]

    for horizon in (4, 8):
        steps = 0.1 * (1 - np.arange(4) / horizon)
        np.testing.assert_allclose(run(jnp.asarray(horizon)), 1 - np.append(0, np.cumsum(steps)), rtol=1e-5)
    assert len(traces) == 1


def test_a_scalar_start_does_not_trace_tell_twice():
    """`jnp.array(0.5)` is weakly typed, and the first update would make it strong."""
    optimizer, traces = from_optax(optax.adam(0.1)), []

    @jax.jit
    def tell(key, state, x, evaluation):
        traces.append(None)
        return optimizer.tell(key, state, x, evaluation)

    problem = Problem(Space.free(), {"b": jnp.array(0.5)})
    state = optimizer.init(jax.random.key(0), problem)
    for key in jax.random.split(jax.random.key(1), 3):
        x, state = optimizer.ask(jax.random.key(2), state)
        state = tell(key, state, x, l2o.Evaluation(jnp.ones(1), {"b": jnp.ones(1)}))
    assert len(traces) == 1


def test_the_value_reaches_the_transformation():
    def update(updates, state, params=None, *, value, **extra):
        return jax.tree.map(lambda g: -0.1 * value * g, updates), state + value

    tx = optax.GradientTransformationExtraArgs(lambda params: jnp.zeros(()), update)
    optimizer = from_optax(tx)
    problem = Problem(Space.free(), jnp.array([2.0]))
    task = Task.from_loss(lambda key, x: jnp.sum(x**2), problem)
    (state, _), run = unroll(optimizer, task, optimizer.init(jax.random.key(0), problem), jax.random.key(1), 2)
    np.testing.assert_allclose(run.x[:, 0, 0], [2.0, 2.0 - 0.1 * 4 * 4], rtol=1e-6)
    np.testing.assert_allclose(state.inner, run.evaluation.value.sum(), rtol=1e-6)


def test_bounds_project_after_every_update():
    space = Space.box(jnp.array([-1.0, 0.0]), jnp.array([1.0, 0.5]))
    problem = Problem(space, jnp.array([0.9, 0.1]))
    task = Task.from_loss(lambda key, x: jnp.sum((x - jnp.array([3.0, 0.2])) ** 2), problem)
    optimizer = from_optax(optax.sgd(0.5))
    _, run = unroll(optimizer, task, optimizer.init(jax.random.key(0), problem), jax.random.key(1), 4)
    np.testing.assert_allclose(run.x[1:, 0], [[1.0, 0.2]] * 3, rtol=1e-6)


def test_an_empty_tree_of_parameters_runs():
    problem = Problem(Space.free(), {})
    task = Task.from_loss(lambda key, x: jnp.zeros(()), problem)
    for optimizer in (from_optax(optax.adam(0.1)), NETWORK.bind(THETA)):
        _, run = unroll(optimizer, task, optimizer.init(jax.random.key(0), problem), jax.random.key(1), 3)
        assert run.x == {} and run.evaluation.value.shape == (3, 1)


# the learned optimizer as an optax transformation


def steps(tx, grads, params=PARAMS, **extra):
    """Updates for a sequence of gradients, under jit, with a state whose structure must not change."""

    @jax.jit
    def update(grad, state):
        return tx.update(grad, state, params, **extra)

    state, out = tx.init(params), []
    for grad in grads:
        before = jax.tree.map(lambda a: (jnp.shape(a), jnp.result_type(a)), state)
        updates, state = update(grad, state)
        assert jax.tree.map(lambda a: (jnp.shape(a), jnp.result_type(a)), state) == before
        out.append(updates)
    return out, state


GRADS = [gradient(seed) for seed in range(4)]


def test_inject_hyperparams():
    tx = optax.inject_hyperparams(lambda scale: optax.chain(TX, optax.scale(scale)))(scale=0.5)
    expected, _ = steps(TX, GRADS)
    found, state = steps(tx, GRADS)
    assert_close(found, jax.tree.map(lambda u: 0.5 * u, expected))
    state = tx.init(PARAMS)
    state.hyperparams["scale"] = jnp.array(2.0)
    assert_close(tx.update(GRADS[0], state, PARAMS)[0], jax.tree.map(lambda u: 2 * u, expected[0]))


def test_apply_if_finite_with_an_integer_leaf():
    """Its two branches must agree in dtype, so an update has the dtype of its leaf."""
    params = {"w": jnp.ones(2), "count": jnp.array([1, 2])}
    tx = optax.apply_if_finite(TX, max_consecutive_errors=3)
    update, _ = tx.update(params, tx.init(params), params)
    assert update["count"].dtype == params["count"].dtype


def test_scan_equals_a_loop():
    stacked = jax.tree.map(lambda *g: jnp.stack(g), *GRADS)

    def body(state, grad):
        updates, state = TX.update(grad, state)
        return state, updates

    end, scanned = jax.jit(lambda s: jax.lax.scan(body, s, stacked))(TX.init(PARAMS))
    expected, state = steps(TX, GRADS)
    assert_close(scanned, jax.tree.map(lambda *u: jnp.stack(u), *expected))
    assert_close(end, state)


def test_vmap_over_models_equals_a_loop():
    models = jax.tree.map(lambda *g: jnp.stack(g), *GRADS)

    def two_steps(grad):
        state = TX.init(grad)
        _, state = TX.update(grad, state)
        return TX.update(jax.tree.map(lambda g: -2 * g, grad), state)

    batched = jax.jit(jax.vmap(two_steps))(models)
    one = jax.jit(two_steps)
    for i, grad in enumerate(GRADS):
        assert_close(jax.tree.map(lambda a, i=i: a[i], batched), one(grad))


def test_vmap_over_meta_parameters_equals_a_loop():
    thetas = [jax.tree.map(lambda a, s=s: s * a, THETA) for s in (0.5, 1.0, -1.0)]

    def first(theta):
        tx = NETWORK.native(theta, None)
        return tx.update(GRADS[0], tx.init(PARAMS))[0]

    batched = jax.jit(jax.vmap(first))(jax.tree.map(lambda *a: jnp.stack(a), *thetas))
    for i, theta in enumerate(thetas):
        assert_close(jax.tree.map(lambda a, i=i: a[i], batched), jax.jit(first)(theta))


# training loops of other libraries

X = jax.random.normal(jax.random.key(11), (64, 5))
LABELS = (X @ jnp.array([1.0, -2.0, 0.5, 0.0, 1.0]) > 0).astype(jnp.int32)


def train(tx, params, apply, count):
    """The loop of any optax user. Returns the losses and the parameters."""

    def objective(params):
        return optax.softmax_cross_entropy_with_integer_labels(apply(params, X), LABELS).mean()

    @jax.jit
    def step(params, state):
        value, grads = jax.value_and_grad(objective)(params)
        updates, state = tx.update(grads, state, params, value=value)
        return optax.apply_updates(params, updates), state, value

    state, values = tx.init(params), []
    for _ in range(count):
        params, state, value = step(params, state)
        values.append(float(value))
    return values, params


def haiku_model():
    model = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([8, 2])(x)))
    return model.init(jax.random.key(1), X), model.apply


def flax_model():
    class MLP(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(2)(nn.relu(nn.Dense(8)(x)))

    model = MLP()
    return model.init(jax.random.key(1), X), model.apply


@pytest.mark.parametrize("make", [haiku_model, flax_model])
def test_a_training_loop_keeps_structure_and_moves_every_leaf(make):
    params, apply = make()
    values, after = train(TX, params, apply, 2)
    assert np.isfinite(values).all()
    assert jax.tree.map(lambda a: (a.shape, a.dtype), after) == jax.tree.map(lambda a: (a.shape, a.dtype), params)
    assert all(np.any(a != b) for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(params), strict=True))


@pytest.mark.skipif("lstm" not in l2o.names(), reason="no trained LSTM is shipped")
@pytest.mark.parametrize("make", [haiku_model, flax_model])
def test_the_shipped_lstm_lowers_the_loss(make):
    params, apply = make()
    values, _ = train(l2o.load("lstm").optax(), params, apply, 100)
    assert values[-1] < 0.5 * values[0]


def test_weight_decay_and_the_largest_norm_of_a_gradient():
    """What `optax.chain` with optax's own two parts does; vectors do not decay."""
    loaded = l2o.load("rnnprop")
    params = {"w": jnp.full((3, 2), 2.0), "b": jnp.ones(2)}
    grads = jax.tree.map(lambda a: 100 * a, params)

    def first(tx):
        return tx.update(grads, tx.init(params), params, value=1.0)[0]

    plain, decayed = first(loaded.optax()), first(loaded.optax(weight_decay=0.01))
    np.testing.assert_allclose(decayed["w"], plain["w"] - 0.02, rtol=1e-5)
    np.testing.assert_array_equal(decayed["b"], plain["b"])
    planned = loaded.optax(horizon=40, weight_decay=0.01)
    np.testing.assert_array_equal(first(planned)["w"], plain["w"], "a schedule begins at zero")
    lstm = l2o.load("lstm")
    chained = optax.chain(optax.clip_by_global_norm(1.0), lstm.optax())
    jax.tree.map(np.testing.assert_array_equal, first(lstm.optax(max_norm=1.0)), first(chained))
    for wrong in ({"weight_decay": -0.1}, {"weight_decay": 1.0}, {"max_norm": 0.0}):
        with pytest.raises(l2o.UserError, match=next(iter(wrong))):
            lstm.optax(**wrong)
