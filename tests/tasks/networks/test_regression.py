"""Regression: tables are cut into three parts and standardised by what is learned from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_diabetes

from tasks.networks.regression import TABLES, RegressionConfig, cut


def test_every_row_is_in_one_part():
    numbers = np.arange(101.0)
    train, test = (cut(numbers[:, None], numbers, split) for split in ("train", "test"))

    def original(part, table):
        """Standardising is undone with the two rows that have the extreme numbers of a known order."""
        return np.round(part * STD[id(table)][1] + STD[id(table)][0], 3)

    order = np.random.default_rng(2016).permutation(101)
    heldout, first, second = np.split(order, [20, 60])
    STD = {id(t): (np.mean(rows), np.std(rows)) for t, rows in ((train, first), (test, second))}
    np.testing.assert_array_equal(original(train.features[:, 0], train), first)
    np.testing.assert_array_equal(original(test.features[:, 0], test), second)
    for table in (train, test):
        np.testing.assert_array_equal(original(table.heldout_targets[:, 0], table), heldout)


@pytest.mark.parametrize("table", TABLES)
def test_columns_are_standardised_on_the_rows_that_are_learned_from(table):
    data = RegressionConfig(table=table).build().data
    for columns in (data.features, data.targets):
        np.testing.assert_allclose(np.mean(columns, 0), 0, atol=1e-4)
        assert np.all(np.isclose(np.std(columns, 0), 1, atol=1e-3) | (np.std(columns, 0) == 0))
    assert all(np.isfinite(a).all() for a in data) and data.targets.shape[1] == data.heldout_targets.shape[1] == 1


def test_least_squares_has_no_gradient_and_the_error_of_numpy():
    """Of all networks a linear one (depth 0) has a known solution."""
    family = RegressionConfig(depth=0).build()
    x, y = (np.asarray(a, np.float64) for a in family.data[:2])
    assert x.shape == (177, load_diabetes().data.shape[1])
    solution = np.linalg.lstsq(x, y, rcond=None)[0]
    weights = {"head": {"w": jnp.asarray(solution, jnp.float32), "b": jnp.zeros(1)}}

    def loss(weights):
        return family.scores(family.network(0).apply(weights, family.data.features), family.data.targets)["loss"]

    value, gradient = jax.value_and_grad(loss)(weights)
    np.testing.assert_allclose(value, np.mean((x @ solution - y) ** 2), rtol=1e-5)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient)) < 1e-5
