"""Pytrees as one vector of real coordinates, and back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from l2o.gradient.coordinates import merge, split

TREE = {
    "matrix": jnp.arange(6.0).reshape(2, 3),
    "scalar": jnp.array(-7.5),
    "empty": jnp.zeros((0, 4)),
    "count": jnp.array([3, 4], jnp.int32),
    "flag": jnp.array([True, False]),
    "half": jnp.array([1.5, -2.0], jnp.float16),
    "brain": jnp.array([[0.25]], jnp.bfloat16),
    "wave": jnp.array([1 + 2j, 3 - 4j], jnp.complex64),
    "nothing": None,
    "nested": [(jnp.array([9.0]),)],
}


def real(leaf):
    return jnp.issubdtype(leaf.dtype, jnp.inexact)


def test_merge_counts_real_coordinates_alone():
    vector = merge(TREE)
    assert vector.dtype == jnp.float32
    #                      brain half matrix nested scalar wave
    assert vector.shape == (1 + 2 + 6 + 1 + 1 + 4,)
    expected = [0.25, 1.5, -2.0, *range(6), 9.0, -7.5, 1, 3, 2, -4]
    np.testing.assert_array_equal(vector, expected)


def test_split_inverts_merge_in_value_shape_and_dtype():
    back = split(merge(TREE), TREE)
    assert jax.tree.structure(back) == jax.tree.structure(TREE)
    for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(TREE), strict=True):
        assert a.shape == b.shape
        if real(b):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)
        else:
            np.testing.assert_array_equal(a, np.zeros(b.shape))


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.uint8, jnp.bool_])
def test_leaves_without_coordinates_keep_their_dtype(dtype):
    tree = {"a": jnp.ones(3, dtype), "b": jnp.ones(2)}
    assert split(merge(tree), tree)["a"].dtype == dtype


def test_gradients_of_integers_as_jax_returns_them():
    """`jax.grad(allow_int=True)` gives leaves of dtype float0, which no operation accepts."""
    tree = {"a": jnp.array([1, 2]), "b": jnp.ones(2)}
    gradient = jax.grad(lambda t: jnp.sum(t["b"] ** 2) + 0.0 * t["a"].sum(), allow_int=True)(tree)
    np.testing.assert_array_equal(merge(gradient), [2.0, 2.0])
    update = split(merge(gradient), gradient)
    assert np.shape(update["a"]) == (2,) and not np.any(np.asarray(update["a"], bool))


@pytest.mark.parametrize("tree", [{}, None, jnp.zeros(0), {"a": jnp.array([1, 2])}])
def test_trees_without_coordinates(tree):
    vector = merge(tree)
    assert vector.shape == (0,) and vector.dtype == jnp.float32
    assert jax.tree.structure(split(vector, tree)) == jax.tree.structure(tree)


def test_double_precision_is_kept():
    with jax.enable_x64(True):
        tree = {"a": jnp.array([1 / 3], jnp.float64), "b": jnp.array([1j / 7], jnp.complex128), "c": jnp.ones(1)}
        vector = merge({**tree, "c": jnp.ones(1, jnp.float32)})
        assert vector.dtype == jnp.float64
        back = split(vector, tree)
        for name in ("a", "b"):
            assert back[name].dtype == tree[name].dtype
            np.testing.assert_array_equal(back[name], tree[name])


def test_a_single_array_is_a_tree():
    x = jnp.arange(4.0).reshape(2, 2)
    np.testing.assert_array_equal(merge(x), np.arange(4.0))
    np.testing.assert_array_equal(split(merge(x), x), x)
