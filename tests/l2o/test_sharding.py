"""Parameters that are split over devices: the updates are those of one device, and the state lies where they do."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from l2o.baselines.polar import polar
from l2o.gradient.learned_polar import LearnedPolarConfig
from l2o.gradient.lstm import LSTMConfig
from l2o.gradient.mlp import MLPConfig
from l2o.gradient.rnnprop import RNNpropConfig

SPECS = {
    "bias": P(),
    "columns": P(None, "x"),
    "embedding": P("x", None),
    "kernel": P(None, None, "x", None),
    "rows": P("x", None),
    "twin": P("x", None),
    "vector": P("x"),
}
SHAPES = {
    "bias": (3,),
    "columns": (3, 8),
    "embedding": (8, 2),
    "kernel": (2, 1, 4, 3),
    "rows": (8, 3),
    "twin": (8, 3),
    "vector": (4,),
}
RNG = np.random.default_rng(0)
PARAMS = {name: RNG.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
GRADS = [{name: RNG.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()} for _ in range(2)]
LEARNED = {
    "learned_polar": LearnedPolarConfig(hidden=4),
    "lstm": LSTMConfig(layers=1, hidden=4),
    "mlp": MLPConfig(hidden=4, context=2, tensor_hidden=4),
    "rnnprop": RNNpropConfig(layers=1, hidden=4),
}


@functools.cache
def transformation(kind) -> Any:
    if kind == "polar":
        return polar(horizon=7)
    network: Any = LEARNED[kind].build()
    rng = np.random.default_rng(1)
    fresh = jax.jit(network.init)(jax.random.key(0))
    return network.native(jax.tree.map(lambda a: np.float32(a + 0.2 * rng.normal(size=a.shape)), fresh), 7)


def play(kind, place):
    """The updates of two steps, and the states before and after them."""
    tx = transformation(kind)
    params, updates = place(PARAMS), []
    before = state = tx.init(params)

    @jax.jit
    def step(gradient, state, params):
        update, state = tx.update(gradient, state, params, value=jnp.float32(1.0))
        return update, state, jax.tree.map(jnp.add, params, update)

    for gradient in GRADS:
        update, state, params = step(place(gradient), state, params)
        updates.append(update)
    return updates, before, state


@functools.cache
def alone(kind):
    return play(kind, lambda tree: tree)[0]


def mirrors(kind, state) -> list[Any]:
    """The trees of the state whose leaves have the shape of the parameters, with the number of axes before it."""
    if kind == "lstm":
        return [(tree, 1) for tree in state[0]]
    if kind == "rnnprop":
        return [(state.m, 0), (state.v, 0), *((tree, 1) for tree in state.layers[0])]
    return {
        "mlp": lambda: [(state.m, 1), (state.v, 1)],
        "polar": lambda: [(state.mu, 0)],
        "learned_polar": lambda: [(state.fast, 0), (state.slow, 0)],
    }[kind]()


@pytest.mark.parametrize("mode", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
@pytest.mark.parametrize("kind", [*LEARNED, "polar"])
def test_four_devices_do_what_one_does(kind, mode):
    mesh = jax.make_mesh((4,), ("x",), axis_types=(mode,))

    def place(tree):
        return {name: jax.device_put(leaf, NamedSharding(mesh, SPECS[name])) for name, leaf in tree.items()}

    with jax.set_mesh(mesh):
        updates, before, after = play(kind, place)
    atol = 3e-5 if kind == "learned_polar" else 1e-6  # see ROUNDING in test_optax_table.py
    for found, expected in zip(updates, alone(kind), strict=True):
        for name in SPECS:
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=atol, err_msg=name)
    for state in (before, after):
        for tree, front in mirrors(kind, state):
            for name, leaf in tree.items():
                expected = NamedSharding(mesh, P(*[None] * front, *SPECS[name]))
                assert leaf.sharding.is_equivalent_to(expected, leaf.ndim), (name, leaf.sharding.spec)
    assert jax.tree.map(jnp.shape, before) == jax.tree.map(jnp.shape, after)
