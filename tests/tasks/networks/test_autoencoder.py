"""Autoencoders: both losses against numpy, and that all goes through the bottleneck."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tasks.datasets import DigitsConfig
from tasks.networks.autoencoder import AutoencoderConfig


@pytest.mark.parametrize("loss", ["squared_error", "cross_entropy"])
def test_losses_equal_numpy(loss):
    family = AutoencoderConfig(width=5, depth=2, bottleneck=3, loss=loss).build("test")
    weights = family.sample(jax.random.key(0))
    pixels = np.asarray(DigitsConfig().load("test").heldout_images, np.float64).reshape(-1, 64)
    names = ["linear", "linear_1", "bottleneck", "linear_2", "linear_3", "head"]
    assert set(names) == set(weights)
    x = pixels
    for name in names:
        x = x @ np.asarray(weights[name]["w"]) + np.asarray(weights[name]["b"])
        x = np.tanh(x) if name.startswith("linear") else x
    if loss == "cross_entropy":
        expected = np.mean(-pixels * np.log(1 / (1 + np.exp(-x))) - (1 - pixels) * np.log(1 / (1 + np.exp(x))))
    else:
        expected = np.mean((x - pixels) ** 2)
    measured = family.task(weights).measure(jax.random.key(1), weights)
    np.testing.assert_allclose(measured["heldout_loss"], expected, rtol=1e-5)


def test_a_closed_bottleneck_makes_all_images_equal():
    family = AutoencoderConfig(width=5, bottleneck=2).build()
    weights = family.sample(jax.random.key(2))
    weights["bottleneck"] = jax.tree.map(jnp.zeros_like, weights["bottleneck"])
    out = family.network(0).apply(weights, family.images[:5])
    np.testing.assert_array_equal(out, jnp.broadcast_to(out[:1], out.shape))
