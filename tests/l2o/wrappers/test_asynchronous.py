import jax
import jax.numpy as jnp
import numpy as np
import pytest

from l2o import Evaluation, Optimizer, Problem, Space, Task, unroll
from l2o.wrappers.asynchronous import asynchronous

ROUNDS = 40


def counting():
    """Asks 0, 1, 2, ... and remembers the order in which it is told."""

    def tell(key, state, x, evaluation):
        asked, told, order = state
        return asked, told + 1, order.at[told].set(evaluation.value[0])

    return Optimizer(
        lambda key, problem: (jnp.zeros(()), jnp.zeros((), jnp.int32), jnp.full(ROUNDS, -1.0)),
        lambda key, state: (state[0][None], (state[0] + 1, *state[1:])),
        tell,
    )


def run(workers, spread=0.5, seed=0):
    problem = Problem(Space.free(), jnp.zeros(()), horizon=jnp.asarray(ROUNDS))
    task = Task(problem, lambda key, x: Evaluation(x))
    optimizer = asynchronous(counting(), workers, spread)
    init_key, run_key = jax.random.split(jax.random.key(seed))
    state, trajectory = jax.jit(lambda: unroll(optimizer, task, optimizer.init(init_key, problem), run_key, ROUNDS))()
    return state, np.asarray(trajectory.x[:, 0])


def test_one_worker_asks_and_tells_in_turns():
    state, x = run(1)
    assert x.tolist() == list(range(ROUNDS))
    assert state.inner[2].tolist() == x.tolist() and state.inner[0] == ROUNDS + 1


@pytest.mark.parametrize("workers", [2, 5])
def test_every_point_is_evaluated_once_and_told_as_it_finishes(workers):
    state, x = run(workers)
    assert len(set(x.tolist())) == ROUNDS
    np.testing.assert_array_equal(state.inner[2], x)
    assert state.inner[0] == ROUNDS + workers
    pending = set(range(ROUNDS + workers)) - set(x.astype(int).tolist())
    assert pending == set(np.asarray(state.x).astype(int).tolist())
    assert (np.diff(x) < 0).any(), "out of order"
    # at most a worker's slowest run late: nobody is overtaken by more than three runs of each of the others
    assert np.abs(x - np.arange(ROUNDS)).max() <= 3 * workers


def test_equal_run_times_keep_the_order():
    _, x = run(4, spread=0.0)
    assert x.tolist() == list(range(ROUNDS))


@pytest.mark.parametrize(("workers", "spread"), [(0, 0.5), (2, 1.0), (2, -0.1)])
def test_impossible_settings_are_refused(workers, spread):
    with pytest.raises(ValueError):
        asynchronous(counting(), workers, spread)
