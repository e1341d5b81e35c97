"""Coordinate networks: pixels and their positions, Fourier features, and pixels that are held out."""

import jax
import jax.numpy as jnp
import numpy as np

from tasks.datasets import PhotographsConfig
from tasks.networks.coordinates import CoordinateNetworkConfig

TINY = {"width": 4, "depth": 1, "batch_size": 50}


def test_seen_and_held_out_pixels_are_all_pixels():
    families = [CoordinateNetworkConfig(**TINY).build(split) for split in ("train", "test")]
    for family in families:
        numbers = np.concatenate([family.seen, family.heldout_pixels])
        assert sorted(numbers.tolist()) == list(range(64 * 64)) and len(family.heldout_pixels) == 819
    assert families[0].variants == families[1].variants == 48
    tiles = [{image.tobytes() for image in np.asarray(family.images)} for family in families]
    assert not tiles[0] & tiles[1], "no image is in both splits"


def test_a_minibatch_holds_the_colours_at_its_positions():
    family = CoordinateNetworkConfig(**TINY).build()
    position, colour = family.minibatch(jax.random.key(0), 7)
    assert np.abs(position).max() <= 1
    column, row = np.rint((np.asarray(position).T + 1) / 2 * 63).astype(int)
    np.testing.assert_array_equal(colour, np.asarray(family.images)[7, row, column])
    assert set((row * 64 + column).tolist()) <= set(np.asarray(family.seen).tolist())


def test_a_task_has_one_image():
    """Of a network without weights the held-out loss is the mean square of its own image's held-out pixels."""
    family = CoordinateNetworkConfig(**TINY).build()
    weights, _ = family.sample(jax.random.key(1))
    weights = jax.tree.map(jnp.zeros_like, weights)
    for number in (0, 5):
        found = family.task((weights, jnp.asarray(number))).measure(jax.random.key(2), weights)["heldout_loss"]
        pixels = np.asarray(family.images)[number].reshape(-1, 3)[np.asarray(family.heldout_pixels)]
        np.testing.assert_allclose(found, np.mean(pixels**2), rtol=1e-5)


def test_the_inputs_are_positions_or_their_fourier_features():
    def inputs(frequencies):
        config = CoordinateNetworkConfig(**TINY, frequencies=frequencies)
        return jax.eval_shape(config.build().sample, jax.random.key(0))[0]["linear"]["w"].shape[0]

    assert inputs(0) == 2 and inputs(5) == 10


def test_photographs_are_cut_into_tiles_without_loss():
    images, labels, *_ = PhotographsConfig(tile=40).arrays()
    assert images.shape == (2 * 10 * 16, 40, 40, 3) and labels.tolist() == [0] * 160 + [1] * 160
    from sklearn.datasets import load_sample_images

    temple = load_sample_images().images[0]
    np.testing.assert_array_equal(images[17], temple[40:80, 40:80])
