"""Which leaves are matrices, what Muon does with the rest, and the schedules that every rule can have."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from optax.contrib import MuonDimensionNumbers

import l2o
from l2o import Problem, Space, Task, unroll
from l2o.baselines.matrices import all_matrices, hidden_matrices

W = jnp.ones((2, 3))
KINDS = l2o.kinds(l2o.BaselineConfig)


def chosen(params, function=hidden_matrices):
    """The paths that the function finds to be matrices."""
    leaves = jax.tree_util.tree_leaves_with_path(function(params), is_leaf=lambda d: isinstance(d, tuple))
    return {jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves}


HIDDEN = ["linear_1/w", "Dense_0/kernel", "multi_head_attention/query/w", "attention/output/dense/kernel", "remember/w"]
HIDDEN += ["MultiHeadDotProductAttention_0/out/kernel", "mlp/~/linear_0/w", "layers/0/heads/w", "w", "spearhead/w"]
OUTSIDE = ["embed/w", "Embed_0/embedding", "transformer/~/token_embedding/embeddings", "lm_head/w", "head/kernel"]
OUTSIDE += [
    "logits/w",
    "mlp/~/logits/w",
    "output/kernel",
    "wte",
    "~/positions",
    "embeddings/word/w",
    "valueHead/weight",
    "classifier_2/w",
]


@pytest.mark.parametrize("path", HIDDEN + OUTSIDE)
def test_a_name_tells_of_embeddings_and_output_layers(path):
    flat, nested = {path: W}, W
    for part in reversed(path.split("/")):
        nested = {part: nested}
    for params in (flat, nested):
        assert bool(chosen(params)) == (path in HIDDEN)
        assert chosen(params, all_matrices)


def test_matrices_have_two_axes_are_not_empty_and_not_of_integers():
    leaves = {"w": W, "v": W[0], "t": W[None], "empty": W[:0], "count": jnp.ones((2, 2), jnp.int32), "none": None}
    assert chosen(leaves) == chosen(leaves, all_matrices) == {"w"}
    assert all_matrices(leaves)["w"] == MuonDimensionNumbers()
    masked = optax.MaskedNode()
    assert all_matrices({"a": masked, "b": W}) == {"a": masked, "b": MuonDimensionNumbers()}


def test_names_of_haiku_and_flax():
    def forward(x):
        x = hk.Embed(5, 4)(x)
        return hk.Linear(3, name="logits")(hk.nets.MLP([4, 4])(x))

    params = hk.transform(forward).init(jax.random.key(0), jnp.zeros(2, jnp.int32))
    assert chosen(params) == {"mlp/~/linear_0/w", "mlp/~/linear_1/w"}

    class Network(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3, name="head")(nn.Dense(4)(nn.Embed(5, 4)(x)))

    params = Network().init(jax.random.key(0), jnp.zeros(2, jnp.int32))
    assert chosen(params) == {"params/Dense_0/kernel"}


PARAMS = {"linear": {"w": jnp.array([[0.5, -1.0, 0.3], [1.2, 0.25, -0.6]])}, "head": {"w": W}, "b": jnp.ones(2)}
GRADS = jax.tree.map(lambda a: jax.random.normal(jax.random.key(a.size), a.shape), PARAMS)


def updates(tx):
    return jax.jit(tx.update)(GRADS, tx.init(PARAMS), PARAMS)[0]


def test_muon_is_that_of_optax_to_the_bit():
    for found in (
        updates(KINDS["muon"]().transformation(0.05)),
        updates(KINDS["muon"]().transformation(jnp.array(0.05))),
    ):
        jax.tree.map(np.testing.assert_array_equal, found, updates(optax.contrib.muon(0.05)))


def test_muon_may_leave_the_output_layer_to_adam_which_has_a_rate_of_its_own():
    found = updates(KINDS["muon"](adam_ratio=0.1, matrices="hidden").transformation(0.05))
    adam = updates(optax.adam(0.005, nesterov=True))
    expected = {**adam, "linear": updates(optax.contrib.muon(0.05))["linear"]}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, expected)
    # and with a schedule
    found = updates(KINDS["muon"](adam_ratio=0.1).transformation(optax.constant_schedule(0.05)))
    np.testing.assert_allclose(found["b"], adam["b"], rtol=1e-5)


@pytest.mark.parametrize("horizon", [7, 40])
def test_the_warm_up_is_that_of_optax(horizon):
    config = KINDS["sgd"](learning_rate=0.05, schedule="warmup_cosine")
    assert config.label == "sgd-warmup_cosine"
    task = Task.from_loss(lambda key, x: jnp.sum(x), Problem(Space.free(), jnp.zeros(2), horizon=jnp.asarray(horizon)))

    @jax.jit
    def play(horizon):
        optimizer, problem = config.build(), task.problem._replace(horizon=horizon)
        return unroll(optimizer, task, optimizer.init(jax.random.key(0), problem), jax.random.key(1), 45)[1].x

    x = np.asarray(play(jnp.asarray(horizon)))[:, 0, 0]
    schedule = optax.warmup_cosine_decay_schedule(0.0, 0.05, horizon // 20, horizon)
    np.testing.assert_allclose(-np.diff(x), [schedule(t) for t in range(44)], atol=1e-6)
