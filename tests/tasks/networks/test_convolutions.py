"""Convolutional classifiers: equal to convolutions, and what normalisation and residual blocks do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pydantic import ValidationError

from l2o.baselines.optax import AdamConfig
from l2o.unroll import unroll, values_only
from tasks.datasets import Dataset, DigitsConfig
from tasks.networks.classifiers import Classifier
from tasks.networks.convolutions import ConvClassifierConfig, ResidualClassifierConfig, mean_pool, patches


def small(config) -> Classifier:
    rng = np.random.default_rng(0)
    images, heldout = (jnp.asarray(rng.uniform(size=(n, 8, 12, 2)), jnp.float32) for n in (12, 7))
    labels, heldout_labels = (jnp.asarray(rng.integers(0, 3, n), jnp.int32) for n in (12, 7))
    return Classifier(Dataset(images, labels, heldout, heldout_labels), 3, config)


@pytest.mark.parametrize(("channels", "out"), [(1, 1), (1, 4), (3, 2), (4, 5)])
def test_patches_and_a_product_are_a_convolution(channels, out):
    keys = jax.random.split(jax.random.key(10), 2)
    images = jax.random.normal(keys[0], (2, 5, 6, channels))
    kernel = jax.random.normal(keys[1], (3, 3, channels, out))
    expected = jax.lax.conv_general_dilated(
        images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest"
    )
    found = jnp.matmul(patches(images), kernel.reshape(9 * channels, out), precision="highest")
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_conv_classifier_equals_convolutions_with_mean_pooling():
    family = small(ConvClassifierConfig(channels=(3, 5), activation="tanh", start_scale=0.5))
    params = family.sample(jax.random.key(11))
    x = family.data.heldout_images
    for name, channels in (("linear", 3), ("linear_1", 5)):
        kernel = params[name]["w"].reshape(3, 3, x.shape[-1], channels)
        x = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        x = jnp.tanh(x + params[name]["b"].reshape(1, 1, 1, -1))
        n, h, w, c = x.shape
        x = x.reshape(n, h // 2, 2, w // 2, 2, c).mean((2, 4))
    logits = np.asarray(x).reshape(7, -1) @ np.asarray(params["linear_2"]["w"]) + np.asarray(params["linear_2"]["b"])
    found = family.network(0).apply(params, family.data.heldout_images)
    np.testing.assert_allclose(found, logits, rtol=1e-4, atol=1e-5)


def test_conv_classifier_learns_digits_with_adam():
    data = DigitsConfig().load("train")
    subset = Dataset(*(jnp.asarray(a[:200]) for a in data))
    config = ConvClassifierConfig(channels=(4, 8), activation="relu", init="lecun", start_scale=1.0, batch_size=32)
    family = Classifier(subset, 10, config)
    optimizer = AdamConfig(learning_rate=0.03).build()

    @jax.jit
    def run(family, key):
        sample_key, init_key, run_key, first_key, last_key = jax.random.split(key, 5)
        task = family.task(family.sample(sample_key))
        state = optimizer.init(init_key, task.problem)
        state, _ = unroll(optimizer, task, state, run_key, 30, record=values_only)
        return task.measure(first_key, task.problem.start), task.measure(last_key, state[0].x)

    before, after = run(family, jax.random.key(13))
    assert after["heldout_loss"] < 0.6 * before["heldout_loss"]
    assert after["heldout_accuracy"] > 0.35 and before["heldout_accuracy"] < 0.25


@pytest.mark.parametrize("normalisation", ["layer", "group"])
def test_normalised_convolutions_do_not_depend_on_the_contrast_of_an_image(normalisation):
    config = ConvClassifierConfig(channels=(4,), normalisation=normalisation, groups=2, init="lecun", start_scale=1.0)
    family = small(config)
    params = family.sample(jax.random.key(14))
    apply, images = jax.jit(family.network(0).apply), family.data.heldout_images
    np.testing.assert_allclose(apply(params, 50 * images), apply(params, 100 * images), rtol=1e-3, atol=1e-4)
    assert len(params) == 3 and params[f"{normalisation}_norm"]["scale"].shape == (4,)


def test_without_their_last_convolutions_residual_blocks_are_identities():
    config = ResidualClassifierConfig(channels=(4, 8), blocks=2, normalisation="none", pool_first=True)
    family = small(config)
    params = family.sample(jax.random.key(15))
    names = [f"convolution_{i}" if i else "convolution" for i in range(9)]
    assert set(names) == {name for name in params if name.startswith("convolution")}
    for name in names[2::2]:  # the first is no part of a block
        params[name] = jax.tree.map(jnp.zeros_like, params[name])

    def affine(name, x):
        return np.asarray(x) @ np.asarray(params[name]["w"]) + np.asarray(params[name]["b"])

    x = affine("convolution", patches(mean_pool(family.data.heldout_images)))
    x = affine("projection", mean_pool(jnp.asarray(x)))
    expected = affine("head", np.maximum(x, 0).mean((1, 2)))
    found = family.network(0).apply(params, family.data.heldout_images)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_groups_must_divide_the_channels():
    for config in (ConvClassifierConfig, ResidualClassifierConfig):
        with pytest.raises(ValidationError, match="groups must divide all channels, found 4 and"):
            config(channels=(4, 6), normalisation="group")
        config(channels=(4, 6), normalisation="layer")
