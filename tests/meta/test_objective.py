import jax
import jax.numpy as jnp
import numpy as np
import pytest

from l2o.core import Evaluation, Problem, Task, Trajectory
from l2o.space import Space
from meta.objective import BestConfig, FinalConfig, SumConfig, WeightedSumConfig, accumulate

STEPS, HORIZON = 9, 6


def weights(power, horizon):
    return (power + 1) * (np.arange(STEPS) / horizon) ** power


# each reference maps values per round [STEPS] to losses [STEPS], before the mask
CASES = {
    "sum": (SumConfig, lambda values: values),
    "weighted_sum": (WeightedSumConfig, lambda values: weights(1.0, HORIZON) * values),
    "weighted_sum_0": (lambda **k: WeightedSumConfig(power=0.0, **k), lambda values: values),
    "weighted_sum_3": (lambda **k: WeightedSumConfig(power=3.0, **k), lambda values: weights(3.0, HORIZON) * values),
    "final": (FinalConfig, lambda values: np.where(np.arange(STEPS) == HORIZON, values, 0.0)),
    "best": (BestConfig, np.minimum.accumulate),
}


def task(horizon=HORIZON) -> Task:
    return Task.from_loss(lambda key, x: jnp.sum(x), Problem(Space.free(), jnp.zeros(2), horizon=horizon))


def history(values, horizon=HORIZON, first=0) -> Trajectory:
    mask = jnp.arange(first, first + len(values)) <= horizon
    return Trajectory(None, Evaluation(jnp.asarray(values, jnp.float32)), mask)


@pytest.fixture(params=[1, 3], ids=["point", "population"])
def values(request):
    return np.random.default_rng(0).lognormal(sigma=2.0, size=(STEPS, request.param)).astype(np.float32)


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("kind", list(CASES))
def test_equals_numpy_and_is_zero_beyond_the_horizon(kind, log, values):
    make, reference = CASES[kind]
    objective = make(log=log).build()
    _, losses = accumulate(objective, objective.init(task()), history(values))
    smallest = values.min(1)
    expected = reference(np.log(smallest) if log else smallest)
    expected[HORIZON + 1 :] = 0
    np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-6)
    assert not np.any(losses[HORIZON + 1 :])


@pytest.mark.parametrize("cut", [1, 4, HORIZON, STEPS - 1])
@pytest.mark.parametrize("kind", list(CASES))
def test_two_pieces_equal_the_whole(kind, cut, values):
    objective = CASES[kind][0]().build()
    _, whole = accumulate(objective, objective.init(task()), history(values))
    carry, first = accumulate(objective, objective.init(task()), history(values[:cut]))
    _, second = accumulate(objective, carry, history(values[cut:], first=cut), cut)
    np.testing.assert_array_equal(jnp.concatenate([first, second]), whole)


def test_best_remembers_what_an_earlier_piece_has_seen():
    objective = BestConfig().build()
    carry, _ = accumulate(objective, objective.init(task()), history([[5.0], [1.0]]))
    _, losses = accumulate(objective, carry, history([[3.0], [0.5]], first=2), 2)
    assert losses.tolist() == [1.0, 0.5]


@pytest.mark.parametrize("kind", list(CASES))
def test_the_logarithm_is_floored(kind):
    values = np.array([[0.0], [-3.0], [1e-20], [2.0], [0.05], [0.3], [0.0], [1.0], [1.0]], np.float32)
    make, reference = CASES[kind]
    objective = make(log=True, floor=0.1).build()
    _, losses = accumulate(objective, objective.init(task()), history(values))
    expected = reference(np.log(np.maximum(values[:, 0], 0.1)))
    expected[HORIZON + 1 :] = 0
    np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 4.0])
def test_weights_average_to_one_over_a_run(power):
    """Of a constant loss: up to the error of a Riemann sum, power / (2 horizon) to first order."""
    horizon = 2000
    objective = WeightedSumConfig(power=power).build()
    carry = objective.init(task(horizon))
    _, losses = accumulate(objective, carry, history(np.ones((horizon + 1, 1)), horizon=horizon))
    np.testing.assert_allclose(losses[1:].mean(), 1.0, atol=(power + 1) / horizon)
    assert np.all(np.diff(losses) >= 0)


@pytest.mark.parametrize("kind", list(CASES))
def test_the_offset_and_the_horizon_are_data(kind):
    objective = CASES[kind][0]().build()
    traces = []

    @jax.jit
    def run(horizon, offset):
        traces.append(kind)
        carry = objective.init(task().with_horizon(horizon))
        return accumulate(objective, carry, history(np.ones((2, 1))), offset)[1]

    for horizon in (2, 5):
        run(horizon, horizon - 1)
    assert len(traces) == 1
    if kind == "final":
        assert run(5, 4).tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    "make",
    [
        lambda: WeightedSumConfig(power=-1.0),
        lambda: SumConfig(floor=0.0),
        lambda: BestConfig(floor=float("nan")),
        lambda: FinalConfig(unknown=1),
    ],
)
def test_impossible_settings_are_refused(make):
    with pytest.raises(ValueError):
        make()


@pytest.mark.parametrize("name", CASES)
def test_what_is_judged_takes_the_place_of_the_value(name, values):
    objective = CASES[name][0]().build()
    plain, other = history(values), history(values)
    other = other._replace(evaluation=Evaluation(jnp.full(values.shape, jnp.nan), None, jnp.asarray(values)))
    _, expected = accumulate(objective, objective.init(task()), plain)
    np.testing.assert_array_equal(accumulate(objective, objective.init(task()), other)[1], expected)
