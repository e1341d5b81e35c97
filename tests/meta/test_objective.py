import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from l2o.core import Evaluation, Problem, Task, Trajectory
from l2o.errors import UserError
from l2o.gp import Posterior
from l2o.space.domain import Space
from meta.objective import (
    BestConfig,
    ExpectedImprovementConfig,
    FinalConfig,
    ObservedImprovementConfig,
    RegretConfig,
    SumConfig,
    WeightedSumConfig,
    accumulate,
)
from tasks.gp import GPConfig

STEPS, HORIZON = 9, 6


def weights(power, horizon):
    return (power + 1) * (np.arange(STEPS) / horizon) ** power


def improvements(values):
    """Of each value on the best one before it; the first has nothing to improve on."""
    return np.append(0.0, np.minimum(values[1:] - np.minimum.accumulate(values)[:-1], 0.0))


# each reference maps values per round [STEPS] to losses [STEPS], before the mask
CASES = {
    "sum": (SumConfig, lambda values: values),
    "weighted_sum": (WeightedSumConfig, lambda values: weights(1.0, HORIZON) * values),
    "weighted_sum_0": (lambda **k: WeightedSumConfig(power=0.0, **k), lambda values: values),
    "weighted_sum_3": (lambda **k: WeightedSumConfig(power=3.0, **k), lambda values: weights(3.0, HORIZON) * values),
    "final": (FinalConfig, lambda values: np.where(np.arange(STEPS) == HORIZON, values, 0.0)),
    "best": (BestConfig, np.minimum.accumulate),
    "observed_improvement": (ObservedImprovementConfig, improvements),
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


def queries(n=6, d=2):
    """A drawn function as a task, and a trajectory on it."""
    family = GPConfig(dimension=d, features=32).build()
    params = family.sample(jax.random.key(0))
    task = family.task(params).with_horizon(n)
    x = jax.random.uniform(jax.random.key(1), (n, 1, d))
    value = jax.vmap(lambda u: task.evaluate(jax.random.key(2), u).value)(x)
    return task, Trajectory(x, Evaluation(value), jnp.ones(n, bool))


@pytest.mark.parametrize("log", [False, True])
def test_expected_improvement_is_that_of_the_exact_posterior(log):
    task, run = queries()
    objective = ExpectedImprovementConfig(log=log, max_trials=8, nugget=0).build()
    assert objective.queries
    _, losses = accumulate(objective, objective.init(task), run)
    expected = [0.0]
    x, y = run.x[:, 0], run.evaluation.value[:, 0]
    for t in range(1, len(y)):
        posterior = Posterior.fit(task.info["prior"], x[:t], y[:t], jnp.asarray(t))
        mean, variance = (np.asarray(a, np.float64)[0] for a in posterior.predict(x[t][None]))
        z = (float(y[:t].min()) - mean) / np.sqrt(variance)
        gain = np.sqrt(variance) * (z * norm.cdf(z) + norm.pdf(z))
        expected.append(-np.log(gain) if log else -gain)
    np.testing.assert_allclose(losses, expected, rtol=2e-2, atol=2e-4)


def test_expected_improvement_survives_queries_that_crowd():
    """In single precision: what a hundred of them leave to be gained is between 0 and the spread of the prior."""
    task, run = queries()
    x = run.x[:1] + 1e-4 * jax.random.normal(jax.random.key(0), (100, *run.x.shape[1:]))
    value = run.evaluation.value[:1] + 1e-4 * jax.random.normal(jax.random.key(1), (100, 1))
    crowd = run._replace(x=x, evaluation=Evaluation(value), mask=jnp.ones(100, bool))
    objective = ExpectedImprovementConfig().build()
    _, losses = jax.jit(lambda run: accumulate(objective, objective.init(task), run))(crowd)
    assert jnp.all((losses <= 0) & (losses > -0.1))


def test_expected_improvement_goes_on_where_it_stopped():
    task, run = queries()
    objective = ExpectedImprovementConfig(max_trials=8).build()
    _, whole = accumulate(objective, objective.init(task), run)
    carry, first = accumulate(objective, objective.init(task), jax.tree.map(lambda a: a[:4], run))
    _, second = accumulate(objective, carry, jax.tree.map(lambda a: a[4:], run), 4)
    np.testing.assert_allclose(jnp.concatenate([first, second]), whole, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("log", [False, True])
def test_the_gradient_of_expected_improvement_equals_finite_differences(log):
    """With respect to each query, those before it being constants; in float64."""
    with jax.enable_x64(True):
        task, run = queries()
        task, run = jax.tree.map(
            lambda a: a.astype(jnp.float64) if a.dtype == jnp.float32 else a, (task.info["prior"], run)
        )
        task = Task(Problem(Space.free(), jnp.zeros(2)), lambda key, x: Evaluation(x), info={"prior": task})
        objective = ExpectedImprovementConfig(log=log, max_trials=8, nugget=0).build()

        @jax.jit
        def losses(x):
            return accumulate(objective, objective.init(task), run._replace(x=x))[1]

        gradient = jax.jit(jax.grad(lambda x: losses(x).sum()))(run.x)
        for t in range(1, len(run.x)):
            direction = jax.random.normal(jax.random.key(t), run.x[t].shape, jnp.float64)
            up, down = (losses(run.x.at[t].add(step * direction))[t] for step in (1e-6, -1e-6))
            slope = jnp.vdot(gradient[t], direction)
            np.testing.assert_allclose((up - down) / 2e-6, slope, rtol=1e-4, atol=1e-8)
        assert jnp.abs(gradient).max() > 1e-3


@pytest.mark.parametrize("log", [False, True])
def test_regret_is_what_the_best_value_lacks_discounted_to_the_end(log):
    values = np.array([3.0, 5.0, 2.0, 2.5, 1.0])
    task_ = task(horizon=4)._replace(info={"f_opt": jnp.array(0.5)})
    objective = RegretConfig(log=log, floor=0.1, discount=0.9).build()
    _, losses = accumulate(objective, objective.init(task_), history(values[:, None], horizon=4))
    regret = np.minimum.accumulate(values) - 0.5
    expected = 0.9 ** np.arange(4, -1, -1) * (np.log(regret + 0.1) if log else regret)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("config", "words"), [(ExpectedImprovementConfig(), "known prior"), (RegretConfig(), "known optimum")]
)
def test_losses_that_need_to_know_more_say_so(config, words):
    with pytest.raises(UserError, match=words):
        config.build().init(task())
