"""A network with a memory: what it reads, and what its queries do not change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from l2o import UserError
from l2o.surrogate.memory import MemoryConfig

LEARNED = MemoryConfig(dimension=3, hidden=8, slots=4, width=6, buckets=8).build()
THETA = jax.tree.map(lambda a: a + 0.1, LEARNED.init(jax.random.key(0)))
X, Q = jax.random.uniform(jax.random.key(1), (6, 2)), jax.random.uniform(jax.random.key(2), (5, 2))
Y, USED, ORDERED = jnp.sum(X, 1), jnp.arange(6) < 4, jnp.array([True, False])


@jax.jit
def predict(x, y, used, q):
    return LEARNED.surrogate.predict(THETA, LEARNED.surrogate.read(THETA, x, y, used, ORDERED), q)


def test_it_predicts_from_what_is_in_use_and_from_nothing_else():
    plain = predict(X, Y, USED, Q)
    assert np.ptp(np.asarray(plain.mean)) > 1e-4, "points differ"
    spare = predict(X.at[4:].set(0.3), Y.at[4:].set(jnp.nan), USED, Q)
    np.testing.assert_allclose(spare.logits, plain.logits, atol=1e-6)
    assert np.abs(predict(X, Y.at[1].add(1.0), USED, Q).logits - plain.logits).max() > 1e-4


def test_a_query_changes_no_other():
    np.testing.assert_allclose(predict(X, Y, USED, Q[:3]).logits, predict(X, Y, USED, Q).logits[:3], atol=1e-6)


def test_more_parameters_than_it_has_room_for():
    with pytest.raises(UserError, match="reads up to 3 parameters, found 4"):
        LEARNED.surrogate.read(THETA, jnp.zeros((2, 4)), jnp.zeros(2), jnp.ones(2, bool), jnp.ones(4))
