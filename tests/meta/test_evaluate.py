from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from l2o.baselines.optax import AdamConfig, MomentumConfig, SGDConfig
from l2o.core import Evaluation, Optimizer, Problem, Task
from l2o.gradient.lstm import LSTMConfig
from l2o.space.domain import Space
from meta.evaluate import evaluate
from meta.objective import BestConfig, FinalConfig, SumConfig
from tasks.family import TaskFamily
from tasks.quadratic import QuadraticConfig

HORIZON = 5
FAMILY = QuadraticConfig(dimension=3, start_scale=1.0).build()


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Noisy(TaskFamily):
    """f(x) = ||x - a||^2 with a tilt that is new at every evaluation; measured without it."""

    noise: Any

    def sample(self, key):
        return jax.random.normal(key, (2, 3))

    def task(self, params):
        def loss(key, x):
            return jnp.sum((x - params[0]) ** 2) + self.noise * jnp.vdot(jax.random.normal(key, (3,)), x)

        def measure(key, x):
            return {"distance": jnp.linalg.norm(x - params[0]), "coordinate": x[0]}

        return Task.from_loss(loss, Problem(Space.free(), params[1]), measure=measure)


def sgd(rate):
    return SGDConfig().build(rate)


def by_hand(make, argument, family, key, horizon):
    """One task: ask, evaluate, tell, and once more ask and evaluate after the last update."""
    optimizer = make(argument)
    sample_key, init_key, run_key, measure_key = jax.random.split(key, 4)
    task = family.task(family.sample(sample_key)).with_horizon(horizon)
    state = optimizer.init(init_key, task.problem)
    values = []
    for t in range(horizon + 1):
        ask_key, evaluate_key, tell_key = jax.random.split(jax.random.fold_in(jax.random.clone(run_key), t), 3)
        x, state = optimizer.ask(ask_key, state)
        evaluation = task.evaluate(evaluate_key, x)
        values.append(float(evaluation.value[0]))
        if t < horizon:
            state = optimizer.tell(tell_key, state, x, evaluation)
    return values, task.measure(measure_key, x[0])


@pytest.mark.parametrize("family", [FAMILY, Noisy(0.1)], ids=["quadratic", "noisy"])
@pytest.mark.parametrize("learned", [False, True])
def test_equals_a_loop_by_hand(family, learned):
    make, argument = sgd, 0.02
    if learned:
        lstm = LSTMConfig(layers=1, hidden=2).build()
        make, argument = lstm.bind, lstm.init(jax.random.key(0))
    key = jax.random.key(1)
    out = evaluate(make, argument, family, jax.random.clone(key), tasks=2, horizon=HORIZON)
    assert out["value"].shape == (2, HORIZON + 1)
    for i, task_key in enumerate(jax.random.split(key, 2)):
        values, measured = by_hand(make, argument, family, task_key, HORIZON)
        np.testing.assert_allclose(out["value"][i], values, rtol=1e-4, atol=1e-5)
        assert set(out) == {"value", *measured}
        for name, value in measured.items():
            np.testing.assert_allclose(out[name][i], value, rtol=1e-4, atol=1e-5)


def test_the_value_at_t_is_that_after_t_updates():
    """In closed form: each step of gradient descent on ||x - a||^2 shrinks the distance by 1 - 2 rate."""
    out = evaluate(sgd, 0.1, Noisy(0.0), jax.random.key(2), tasks=3, horizon=HORIZON)
    expected = np.asarray(out["value"][:, :1]) * 0.8 ** (2 * np.arange(HORIZON + 1))
    np.testing.assert_allclose(out["value"], expected, rtol=1e-4)
    np.testing.assert_allclose(out["distance"], np.sqrt(out["value"][:, -1]), rtol=1e-4)


@pytest.mark.parametrize("config", [SumConfig(), SumConfig(log=True), BestConfig(), FinalConfig()])
def test_the_objective_is_the_mean_over_the_updates(config):
    out = evaluate(sgd, 0.3, FAMILY, jax.random.key(3), tasks=4, horizon=HORIZON, objective=config.build())
    values = np.asarray(out["value"], np.float64)
    values = np.log(np.maximum(values, config.floor)) if config.log else values
    if config.kind == "best":
        values = np.minimum.accumulate(values, axis=1)
    expected = values[:, -1] / HORIZON if config.kind == "final" else values[:, 1:].mean(1)
    np.testing.assert_allclose(out["objective"], expected, rtol=1e-4)


def test_one_key_gives_every_optimizer_the_same_tasks():
    def momentum(rate):
        return MomentumConfig().build(rate)

    def adam(rate):
        return AdamConfig().build(rate)

    def value(make, key=4):
        return np.asarray(evaluate(make, 0.05, Noisy(1.0), jax.random.key(key), tasks=3, horizon=2)["value"])

    sgd_, momentum_, adam_ = value(sgd), value(momentum), value(adam)
    np.testing.assert_allclose(momentum_[:, 0], sgd_[:, 0], rtol=1e-6)
    np.testing.assert_allclose(adam_[:, 0], sgd_[:, 0], rtol=1e-6)
    # after one update momentum is where gradient descent is, so the minibatches are compared too
    np.testing.assert_allclose(momentum_[:, 1], sgd_[:, 1], rtol=1e-5)
    assert not np.allclose(momentum_[:, 2], sgd_[:, 2], rtol=1e-3) and not np.allclose(adam_, sgd_, rtol=1e-3)
    assert not np.any(np.isclose(value(sgd, key=5)[:, 0], sgd_[:, 0])), "another key, other tasks"


@pytest.mark.parametrize("batch", [1, 2, 5, 99])
def test_the_batch_does_not_change_the_result(batch):
    whole, parts = (
        evaluate(sgd, 0.02, Noisy(0.5), jax.random.key(6), tasks=5, horizon=3, batch=b) for b in (None, batch)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), whole, parts)


def test_a_task_depends_on_the_key_and_its_number_alone():
    few, many = (evaluate(sgd, 0.02, Noisy(0.5), jax.random.key(7), tasks=n, horizon=3) for n in (2, 7))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b[:2], rtol=1e-5, atol=1e-6), few, many)
    assert len(set(np.asarray(many["value"])[:, 0].tolist())) == 7


def test_the_argument_is_traced():
    traces = []

    def make(rate):
        traces.append(rate)
        return sgd(rate)

    for rate in (0.01, 0.02, 0.03):
        evaluate(make, jnp.asarray(rate), FAMILY, jax.random.key(8), tasks=2, horizon=2)
    assert len(traces) == 1


def test_of_a_round_of_queries_the_best_counts_and_is_measured():
    def make(argument):
        """Asks the start and two points beside it, one of which is the better one."""

        def ask(key, state):
            return state + jnp.array([0.0, 0.5, -0.5])[:, None] * jnp.ones((3, 3)), state

        return Optimizer(lambda key, problem: problem.start[None], ask, lambda key, state, x, evaluation: state)

    out = evaluate(make, 0.0, Noisy(0.0), jax.random.key(9), tasks=4, horizon=2)
    np.testing.assert_allclose(out["distance"] ** 2, out["value"][:, -1], rtol=1e-4)
    for i, key in enumerate(jax.random.split(jax.random.key(9), 4)):
        params = np.asarray(Noisy(0.0).sample(jax.random.split(key, 4)[0]))
        values = [((params[1] + shift - params[0]) ** 2).sum() for shift in (0.0, 0.5, -0.5)]
        np.testing.assert_allclose(out["value"][i], min(values), rtol=1e-4)


def test_black_box_tasks_need_no_gradient():
    @jax.tree_util.register_dataclass
    @dataclass(frozen=True)
    class BlackBox(TaskFamily):
        def sample(self, key):
            return jax.random.normal(key, (2,))

        def task(self, params):
            return Task(Problem(Space.free(), params), lambda key, x: Evaluation(jnp.sum(x**2, -1)))

    def stay(argument):
        return Optimizer(lambda key, p: p.start[None], lambda key, s: (s, s), lambda key, s, x, e: s)

    out = evaluate(stay, 0.0, BlackBox(), jax.random.key(10), tasks=2, horizon=3)
    assert out["value"].shape == (2, 4)
    np.testing.assert_allclose(out["value"], np.repeat(out["value"][:, :1], 4, axis=1))
