"""Trees: where they are constant, and how they part categories."""

import jax.numpy as jnp
import numpy as np
import pytest
from pydantic import ValidationError

from tasks.priors.trees import TreePriorConfig


def test_trees_are_constant_between_their_splits(draws, values):
    config = TreePriorConfig(dimension=1, trees=5, depth=2)
    functions = draws(config, 20)
    y = values(config, functions, jnp.linspace(0, 1, 2001)[:, None])
    assert max(np.sum(np.diff(row) != 0) for row in y) <= 10
    thresholds = np.sort(np.asarray(functions.threshold)[0].ravel())
    jumps = np.linspace(0, 1, 2001)[1:][np.diff(y[0]) != 0]
    assert all(np.min(np.abs(thresholds - jump)) < 1e-3 for jump in jumps)


def test_splits_part_categories_in_any_two_sets(draws, values):
    config = TreePriorConfig(dimension=1, weights=(0, 0, 1), levels=(3, 3), trees=1, depth=1)
    y = values(config, draws(config, 400), jnp.eye(3))
    parts = {tuple(bool(value == row[0]) for value in row) for row in np.asarray(y)}
    assert parts == {(True, True, True), (True, True, False), (True, False, True), (True, False, False)}


@pytest.mark.parametrize("fields", [{"depth": 9}, {"trees": 0}], ids=str)
def test_bad_fields_are_refused(fields):
    with pytest.raises(ValidationError, match=next(iter(fields))):
        TreePriorConfig(**fields)
