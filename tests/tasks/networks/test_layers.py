"""Layers: gates of experts, what a mixture computes, and what normalisations leave."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tasks.networks.layers import gates, mixture_of_experts, normalise, transformer_block


@pytest.mark.parametrize("chosen", [1, 2, 5])
def test_gates_are_a_softmax_of_the_largest(chosen):
    logits = np.asarray(jax.random.normal(jax.random.key(0), (3, 4, 5)))
    found = np.asarray(gates(jnp.asarray(logits), chosen))
    np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-6)
    assert ((found > 0).sum(-1) == chosen).all()
    order = np.argsort(-logits, -1)[..., :chosen]
    largest = np.exp(np.take_along_axis(logits, order, -1))
    expected = largest / largest.sum(-1, keepdims=True)
    np.testing.assert_allclose(np.take_along_axis(found, order, -1), expected, rtol=1e-5)


def test_a_mixture_is_the_gated_sum_of_its_experts():
    network = hk.without_apply_rng(hk.transform(lambda x: mixture_of_experts(x, 3, 2)))
    x = jax.random.normal(jax.random.key(1), (2, 3, 4))
    weights = network.init(jax.random.key(2), x)
    gate = gates(x @ weights["gate"]["w"] + weights["gate"]["b"].reshape(1, 1, -1), 2)
    found, expected = network.apply(weights, x), 0
    for i in range(3):
        part = slice(8 * i, 8 * (i + 1))  # hidden units of twice the width
        hidden = jax.nn.gelu(
            x @ weights["experts_in"]["w"][:, part] + weights["experts_in"]["b"][part].reshape(1, 1, -1)
        )
        expected += gate[..., i : i + 1] * (hidden @ weights["experts_out"]["w"][part])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_without_a_mask_attention_does_not_know_the_order():
    network = hk.without_apply_rng(hk.transform(lambda x: transformer_block(x, 2, None, jnp.tanh)))
    x, order = jax.random.normal(jax.random.key(3), (2, 5, 4)), np.array([3, 1, 4, 0, 2])
    weights = network.init(jax.random.key(4), x)
    np.testing.assert_allclose(
        network.apply(weights, x[:, order]), network.apply(weights, x)[:, order], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(("kind", "axes"), [("layer", (3,)), ("group", (1, 2, 4))])
def test_normalised_images_have_mean_zero_and_variance_one(kind, axes):
    images = 5 + 3 * jax.random.normal(jax.random.key(5), (2, 4, 3, 6))
    network = hk.without_apply_rng(hk.transform(lambda x: normalise(x, kind, 2)))
    found = np.asarray(network.apply(network.init(jax.random.key(6), images), images))
    found = found.reshape(2, 4, 3, 2, 3) if kind == "group" else found
    np.testing.assert_allclose(found.mean(axes), 0, atol=1e-5)
    np.testing.assert_allclose(found.var(axes), 1, atol=1e-3)
