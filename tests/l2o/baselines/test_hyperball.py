"""Hyperball against its equation, in numpy and in double precision."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import MuonDimensionNumbers

import l2o
from l2o import Problem, Space, Task, unroll
from l2o.baselines.hyperball import hyperball

RNG = np.random.default_rng(0)
START = {"w": RNG.normal(size=(3, 2)), "head": RNG.normal(size=(2, 2)), "b": RNG.normal(size=2)}
GRADS = [{name: RNG.normal(size=leaf.shape) for name, leaf in START.items()} for _ in range(6)]


def played(tx, start=START, grads=GRADS):
    """The points of a loop in double precision, one jitted step at a time; the start is the first of them."""
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, start)
        state, step, points = tx.init(params), jax.jit(tx.update), [params]
        for g in grads:
            updates, state = step(jax.tree.map(jnp.asarray, g), state, params)
            params = optax.apply_updates(params, updates)
            points.append(params)
        return jax.tree.map(lambda *p: np.stack(p), *points)


def normalised(x):
    return x / np.linalg.norm(x)


def reference(start, grads, directions, rate):
    """The equation of the paper; `directions` turns the gradients so far into the base optimizer's update."""
    w, radius, out = start, np.linalg.norm(start), [start]
    for t in range(len(grads)):
        u = directions(grads[: t + 1])
        w = radius * normalised(w - rate(t) * radius * normalised(u))
        out.append(w)
    return np.stack(out)


def adam_direction(grads, b1=0.9, b2=0.999):
    m, v = np.zeros_like(grads[0]), np.zeros_like(grads[0])
    for g in grads:
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
    t = len(grads)
    return m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + 1e-8)


def muon_direction(grads):
    with jax.enable_x64(True):
        tx = optax.contrib.scale_by_muon(weight_dimension_numbers=MuonDimensionNumbers())
        state = tx.init(jnp.asarray(grads[0]))
        for g in grads:
            u, state = tx.update(jnp.asarray(g), state)
        return np.asarray(u)


RULES = {"muon": (None, muon_direction), "adam": (optax.scale_by_adam(), adam_direction)}


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("rate", [0.1, optax.linear_schedule(0.2, 0.0, 6)])
def test_it_is_the_equation(name, rate):
    inner, directions = RULES[name]
    schedule = rate if callable(rate) else lambda t: rate
    found = played(hyperball(rate, inner, adam_learning_rate=0.05))
    expected = reference(START["w"], [g["w"] for g in GRADS], directions, schedule)
    np.testing.assert_allclose(found["w"], expected, rtol=1e-6, atol=1e-8)
    rest = {"b": START["b"], "head": START["head"]}
    adam = played(optax.adam(0.05), rest, [{name: g[name] for name in rest} for g in GRADS])
    for name in rest:
        np.testing.assert_allclose(found[name], adam[name], rtol=1e-12)


@pytest.mark.parametrize("inner", [None, optax.identity()])
def test_the_norm_stays_and_the_angle_is_that_of_the_rate(inner):
    """With directions at right angles to the weights, the tangent of the angle is the rate."""
    points = played(hyperball(0.3, inner))["w"]
    np.testing.assert_allclose(np.linalg.norm(points, axis=(1, 2)), np.linalg.norm(START["w"]), rtol=1e-14)
    across = GRADS[0]["w"] - START["w"] * np.sum(GRADS[0]["w"] * START["w"]) / np.sum(START["w"] ** 2)
    end = played(hyperball(0.3, optax.identity()), {"w": START["w"]}, [{"w": across}])["w"][1]
    np.testing.assert_allclose(np.sum(normalised(end) * normalised(START["w"])), np.cos(np.arctan(0.3)), rtol=1e-12)


def test_the_norm_does_not_drift_in_single_precision():
    w = {"w": jnp.asarray(START["w"], jnp.float32)}
    tx = hyperball(0.05, optax.scale_by_adam())

    @jax.jit
    def play(params):
        def body(carry, key):
            params, state = carry
            updates, state = tx.update({"w": jax.random.normal(key, (3, 2))}, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(body, (params, tx.init(params)), jax.random.split(jax.random.key(0), 2000))[0][0]

    np.testing.assert_allclose(np.linalg.norm(play(w)["w"]), np.linalg.norm(w["w"]), rtol=1e-6)


def test_units_of_the_loss_and_of_the_weights_do_not_matter():
    points = played(hyperball(0.1))["w"]
    scaled = played(hyperball(0.1), {**START, "w": 5 * START["w"]}, [{**g, "w": 1e3 * g["w"]} for g in GRADS])["w"]
    np.testing.assert_allclose(scaled, 5 * points, rtol=1e-6)


def test_a_stack_of_matrices_moves_as_its_members_do():
    stack, grads = RNG.normal(size=(2, 3, 2)), [RNG.normal(size=(2, 3, 2)) for _ in range(3)]
    numbers = {"w": MuonDimensionNumbers(reduction_axis=1, output_axis=2)}
    found = played(hyperball(0.1, weight_dimension_numbers=numbers), {"w": stack}, [{"w": g} for g in grads])["w"]
    for i in range(2):
        alone = played(hyperball(0.1), {"w": stack[i]}, [{"w": g[i]} for g in grads])["w"]
        np.testing.assert_allclose(found[:, i], alone, rtol=1e-9)


def test_a_matrix_that_begins_at_zero_moves_by_the_inner_rule():
    start = {"w": np.zeros((3, 2))}
    found = played(hyperball(0.1, optax.scale_by_adam()), start, [{"w": g["w"]} for g in GRADS])["w"]
    adam = played(optax.adam(0.1), start, [{"w": g["w"]} for g in GRADS])["w"]
    np.testing.assert_allclose(found, adam, rtol=1e-12)


def test_no_gradient_and_no_parameters():
    zero = [{"w": np.zeros((3, 2))}]
    np.testing.assert_allclose(played(hyperball(0.1), {"w": START["w"]}, zero)["w"][1], START["w"], rtol=1e-14)
    tx = hyperball(0.1)
    with pytest.raises(ValueError, match="hyperball needs the parameters"):
        tx.update({"w": jnp.ones((2, 2))}, tx.init({"w": jnp.ones((2, 2))}))


@pytest.mark.slow
@pytest.mark.parametrize("inner", ["muon", "adam"])
def test_configuration_and_its_schedule_stays_on_the_sphere(inner):
    config = l2o.kinds(l2o.BaselineConfig)["hyperball"](
        learning_rate=0.2, inner=inner, adam_ratio=0.5, schedule="cosine", matrices="all"
    )
    assert config.label == f"hyperball-{inner}-cosine"
    start = {name: START[name].astype(np.float32) for name in ("head", "b")}
    start = jax.tree.map(jnp.asarray, start)
    problem = Problem(Space.free(), start, horizon=jnp.asarray(6))
    task = Task.from_loss(lambda key, x: jnp.sum(jnp.cos(x["head"])) + jnp.sum(x["b"] ** 2), problem)
    optimizer = config.build()

    @jax.jit
    def play():
        return unroll(optimizer, task, optimizer.init(jax.random.key(0), problem), jax.random.key(1), 8)[1]

    x = jax.tree.map(lambda a: np.asarray(a[:, 0]), play().x)
    np.testing.assert_allclose(np.linalg.norm(x["head"], axis=(1, 2)), np.linalg.norm(start["head"]), rtol=1e-5)
    np.testing.assert_allclose(x["head"][6:], np.broadcast_to(x["head"][6], (2, 2, 2)), atol=1e-6)
    schedule = optax.cosine_decay_schedule(0.2, 6)
    tx = hyperball(
        schedule, RULES[inner][0], adam_learning_rate=lambda t: 0.5 * schedule(t),
        weight_dimension_numbers={"head": MuonDimensionNumbers(), "b": None},
    )  # fmt: skip
    params, state = start, tx.init(start)
    for _ in range(3):
        grads = jax.grad(lambda x: jnp.sum(jnp.cos(x["head"])) + jnp.sum(x["b"] ** 2))(params)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[3], b, rtol=1e-4, atol=1e-5), x, params)
