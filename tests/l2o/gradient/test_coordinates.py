"""The coordinates of a leaf, and back; functions over the leaves of a tree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from l2o.gradient.coordinates import has_coordinates, leafwise, nothing, real, restored

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


def test_coordinates_are_real_and_have_the_shape_of_their_leaf():
    found = jax.tree.map(real, TREE)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(found))
    for name in ("matrix", "scalar", "empty", "half", "brain"):
        np.testing.assert_array_equal(found[name], TREE[name].astype(jnp.float32))
    np.testing.assert_array_equal(found["wave"], [[1, 3], [2, -4]])
    assert found["count"].size == found["flag"].size == 0
    assert [name for name in TREE if not all(map(has_coordinates, jax.tree.leaves(TREE[name])))] == [
        "empty", "count", "flag",
    ]  # fmt: skip


def test_back_come_value_shape_and_dtype():
    for leaf in jax.tree.leaves(TREE):
        back = restored(real(leaf), leaf)
        assert back.shape == leaf.shape and back.dtype == leaf.dtype
        inexact = jnp.issubdtype(leaf.dtype, jnp.inexact)
        np.testing.assert_array_equal(back, leaf if inexact else np.zeros(leaf.shape))


@pytest.mark.parametrize("leaf", [np.float32(2), np.ones(3), np.ones(2, np.complex64), 1.5, 3], ids=repr)
def test_numbers_of_numpy_and_python_are_leaves(leaf):
    np.testing.assert_array_equal(restored(real(leaf), leaf), 0 if isinstance(leaf, int) else leaf)


def test_gradients_of_integers_as_jax_returns_them():
    """`jax.grad(allow_int=True)` gives leaves of dtype float0, which no operation accepts."""
    tree = {"a": jnp.array([1, 2]), "b": jnp.ones(2)}
    gradient = jax.grad(lambda t: jnp.sum(t["b"] ** 2) + 0.0 * t["a"].sum(), allow_int=True)(tree)
    update, parts = leafwise(lambda x, part: (3 * x, part + 1), gradient, {"a": jnp.zeros(()), "b": jnp.zeros(2)})
    assert np.shape(update["a"]) == (2,) and not np.any(np.asarray(update["a"], bool))
    np.testing.assert_array_equal(update["b"], [6.0, 6.0])
    np.testing.assert_array_equal(parts["a"], 0)
    np.testing.assert_array_equal(parts["b"], [1, 1])


@pytest.mark.parametrize("tree", [{}, None, jnp.zeros(0), {"a": jnp.array([1, 2])}])
def test_trees_without_coordinates_are_left_alone(tree):
    def fails(x):
        raise AssertionError

    (update,) = leafwise(fails, tree)
    assert jax.tree.structure(update) == jax.tree.structure(tree)
    assert all(np.all(np.asarray(leaf) == 0) for leaf in jax.tree.leaves(update))


def test_double_precision_is_kept():
    with jax.enable_x64(True):
        for leaf in (jnp.array([1 / 3], jnp.float64), jnp.array([1j / 7], jnp.complex128)):
            assert real(leaf).dtype == nothing(leaf, 2).dtype == jnp.float64
            back = restored(real(leaf), leaf)
            assert back.dtype == leaf.dtype
            np.testing.assert_array_equal(back, leaf)
        assert real(jnp.ones(1, jnp.float32)).dtype == jnp.float32


def test_zeros_for_a_leaf_have_the_axes_in_front():
    shapes = {name: nothing(TREE[name], 5, 3).shape for name in ("matrix", "scalar", "wave", "count")}
    assert shapes == {"matrix": (5, 3, 2, 3), "scalar": (5, 3), "wave": (5, 3, 2, 2), "count": ()}
    assert (
        nothing(TREE["brain"]).dtype == jnp.float32
        and nothing(TREE["matrix"], dtype=jnp.bfloat16).dtype == jnp.bfloat16
    )
