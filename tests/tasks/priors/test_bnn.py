"""Networks of random depth and width."""

import jax
import numpy as np
import pytest
from pydantic import ValidationError

from tasks.priors.bnn import BNNPriorConfig


def test_networks_have_the_depths_and_widths_that_they_are_to_have(draws, values):
    config = BNNPriorConfig(dimension=2, depths=(2, 3), widths=(3, 9))
    functions = draws(config, 200)
    assert set(np.asarray(functions.depth)) == {2, 3}
    assert set(np.asarray(functions.unit.sum(1))) == set(range(3, 10))
    assert set(np.asarray(functions.activation).ravel()) == set(range(5))
    shallow = functions._replace(others=functions.others.at[:, 1].set(0.0))
    z = jax.random.uniform(jax.random.key(1), (4, 2))
    same = np.all(values(config, shallow, z) == values(config, functions, z), 1)
    assert np.all(same[functions.depth == 2]) and np.mean(same[functions.depth == 3]) < 0.1


@pytest.mark.parametrize(
    "fields", [{"depths": (0, 2)}, {"widths": (8, 4)}, {"gain": (0.0, 1.0)}, {"widths": (4, 1000)}], ids=str
)
def test_bad_fields_are_refused(fields):
    with pytest.raises(ValidationError, match=next(iter(fields))):
        BNNPriorConfig(**fields)
