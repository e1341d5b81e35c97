"""The vision transformer: its patches, and that only positions tell it their order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pydantic import ValidationError

import l2o
from tasks.networks.vision import ViTClassifierConfig, tiles

TINY = {"patch": 4, "width": 4, "depth": 1, "heads": 2, "batch_size": 2}


def test_tiles_are_squares_of_the_image_row_by_row():
    images = jnp.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3).astype(jnp.float32)
    found = tiles(images, 2)
    assert found.shape == (2, 6, 12)
    for number, (row, column) in enumerate([(0, 0), (0, 2), (0, 4), (2, 0), (2, 2), (2, 4)]):
        np.testing.assert_array_equal(found[:, number], images[:, row : row + 2, column : column + 2].reshape(2, -1))


@pytest.mark.parametrize("known", [False, True])
def test_only_positions_tell_the_order_of_patches(known):
    family = ViTClassifierConfig(**TINY).build()
    weights = family.sample(jax.random.key(0))
    if not known:
        weights["~"]["positions"] = jnp.zeros_like(weights["~"]["positions"])
    images = family.data.heldout_images[:3]
    turned = jnp.concatenate([images[:, 4:], images[:, :4]], axis=1)  # the halves of the image change places
    apply = jax.jit(family.network(0).apply)
    assert np.allclose(apply(weights, images), apply(weights, turned), rtol=1e-4, atol=1e-5) != known


def test_a_patch_must_divide_the_sides_of_an_image():
    with pytest.raises(l2o.UserError, match="patch must divide both sides of an image, found 3 and images of 8 x 8"):
        ViTClassifierConfig(**(TINY | {"patch": 3})).build()
    with pytest.raises(ValidationError, match="heads must divide width, found 3 and 4"):
        ViTClassifierConfig(**(TINY | {"heads": 3}))
