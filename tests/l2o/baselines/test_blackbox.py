"""Hand-designed black-box optimizers: equal to what they wrap, inside the box, robust to failures, and good."""

import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optuna
import pytest
from evosax.algorithms import CMA_ES, PSO, SNES, DifferentialEvolution, Open_ES
from scipy.optimize import minimize
from scipy.stats import lognorm, qmc
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor, kernels

import l2o
from l2o import Evaluation, HostOptimizer, Problem, SearchSpace, Space, Task, UserError, from_evosax, unroll
from l2o.acquisition import maximise, without_failures
from l2o.baselines.evosax import CMAESConfig, DifferentialEvolutionConfig, PSOConfig, SNESConfig
from l2o.baselines.gp import GPEIConfig, GPUCBConfig, standardised
from l2o.baselines.hyperparameters import BOTORCH, centre, fit, log_hyperprior, log_posterior, pack, unpack
from l2o.baselines.optuna import TPEConfig
from l2o.baselines.search import BITS, RandomConfig, SobolConfig
from l2o.gp import Posterior, Prior, log_likelihood

CUBE = Space.box(jnp.zeros(3), jnp.ones(3))
BRANIN = Space.box(jnp.array([-5.0, 0.0]), jnp.array([10.0, 15.0]))


def problem(space=CUBE, context=None):
    return Problem(space, jax.tree.map(lambda a, b: (a + b) / 2, space.low, space.high), 1.0, 20, context)


def branin(x):
    """Its regret."""
    a, b = x[..., 0], x[..., 1]
    bowl = b - 5.1 / (4 * jnp.pi**2) * a**2 + 5 / jnp.pi * a - 6
    return bowl**2 + 10 * (1 - 1 / (8 * jnp.pi)) * jnp.cos(a) + 10 - 0.397887


def task(f, space):
    return Task(problem(space), lambda key, x: Evaluation(f(x)))


def player(optimizer, f, space, steps):
    """The trajectory of a run, by its key."""

    @jax.jit
    def play(key):
        init_key, run_key = jax.random.split(key)
        state = optimizer.init(init_key, problem(space))
        return unroll(optimizer, task(f, space), state, run_key, steps)[1]

    return play


def run(optimizer, f, space, steps, seed=0):
    """Queries and values of a run."""
    trajectory = player(optimizer, f, space, steps)(jax.random.key(seed))
    return trajectory.x, trajectory.evaluation.value


def on_the_host(optimizer, f, space, steps, seed=0):
    state, best = optimizer.init(jax.random.key(seed), problem(space)), np.inf
    for t in range(steps):
        ask_key, tell_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), t))
        x, state = optimizer.ask(ask_key, state)
        value = f(x)
        state = optimizer.tell(tell_key, state, x, Evaluation(value))
        best = min(best, float(value.min()))
    return best, state


# --- random and Sobol


def test_random_points_are_uniform():
    x, _ = run(RandomConfig().build(), branin, BRANIN, 2000)
    u = np.asarray(jax.vmap(BRANIN.to_unit)(x[:, 0]))
    counts = np.histogramdd(u, bins=(4, 4), range=[(0, 1)] * 2)[0]
    assert 5 < ((counts - 125) ** 2 / 125).sum() < 31  # chi-squared of 15 degrees of freedom: 0.99 and 0.01


def test_sobol_is_that_of_scipy_up_to_a_digital_shift():
    x, _ = run(SobolConfig(max_trials=16).build(), lambda x: x.sum(-1), CUBE, 16)
    digits = np.asarray(np.asarray(x[:, 0], float) * 2**BITS, np.int64)
    scipys = (qmc.Sobol(3, scramble=False, bits=BITS).random_base2(4) * 2**BITS).astype(np.int64)
    # single precision keeps the first 24 digits, or so
    shift = (digits ^ scipys) >> (BITS - 20)
    assert (np.abs(shift - shift[:1]) <= 1).all()
    assert qmc.discrepancy(np.asarray(x[:, 0], float)) < 0.5 * qmc.discrepancy(np.random.default_rng(0).random((16, 3)))


def test_sobol_begins_again_with_another_shift_and_differs_between_keys():
    optimizer = SobolConfig(max_trials=4).build()
    x, _ = run(optimizer, lambda x: x.sum(-1), CUBE, 8)
    assert len(np.unique(np.asarray(x[:, 0]), axis=0)) == 8
    assert not np.allclose(x, run(optimizer, lambda x: x.sum(-1), CUBE, 8, seed=1)[0])


# --- Gaussian processes


@pytest.mark.slow
@pytest.mark.parametrize("config", [GPEIConfig(max_trials=32), GPUCBConfig(max_trials=32)])
def test_gaussian_processes_find_the_minimum_of_branin(config):
    play, regrets = player(config.build(), branin, BRANIN, 32), []
    for seed in range(3):
        found = play(jax.random.key(seed))
        assert jax.vmap(BRANIN.contains)(found.x[:, 0]).all()
        regrets.append(found.evaluation.value.min())
    assert np.median(regrets) < 0.1


@pytest.mark.slow
def test_the_fit_is_as_good_as_that_of_scikit_learn():
    """The likelihood found from afar, in 60 steps, against scikit-learn's best of many starts."""
    x = jax.random.uniform(jax.random.key(0), (40, 2))
    used = jnp.ones(40, bool)
    y = standardised(branin(jax.vmap(BRANIN.from_unit)(x)), used)
    count = jnp.asarray(40)
    found = jax.jit(lambda: fit(unpack(centre(2)), x, y, count, 60))()

    target = -minimize_posterior(x, y, count)
    assert float(log_posterior(pack(found), x, y, count)) > target - 0.5

    # with our limit on the noise, which is relative to the variance
    kernel = kernels.Matern([0.5, 0.5], (0.05, 20.0), nu=2.5) + kernels.WhiteKernel(1e-5, "fixed")
    kernel = kernels.ConstantKernel(1.0, (0.01, 1000.0)) * kernel
    theirs = GaussianProcessRegressor(kernel, alpha=1e-12, n_restarts_optimizer=4, random_state=0)
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):  # of some of the starts
        theirs.fit(np.asarray(x, float), np.asarray(y, float))
    assert float(log_likelihood(found, x, y, count)) > theirs.log_marginal_likelihood_value_ - 2
    where = jax.random.uniform(jax.random.key(1), (200, 2))
    truth = branin(jax.vmap(BRANIN.from_unit)(where))
    values = branin(jax.vmap(BRANIN.from_unit)(x))
    truth = np.asarray((truth - values.mean()) / values.std())
    ours = Posterior.fit(found, x, y, count).predict(where)[0]
    error, their_error = (np.sqrt(np.mean((m - truth) ** 2)) for m in (ours, theirs.predict(np.asarray(where, float))))
    assert error < 1.3 * their_error


def minimize_posterior(x, y, count):
    """The best of several runs of L-BFGS."""
    flat, unravel = jax.flatten_util.ravel_pytree(centre(2)._replace(matern=None))

    @jax.jit
    def loss(z):
        return -log_posterior(unravel(z)._replace(matern=jnp.ones(())), x, y, count)

    both = jax.jit(jax.value_and_grad(loss))

    def objective(z):
        value, gradient = both(jnp.asarray(z, jnp.float32))
        return (float(value), np.asarray(gradient, float)) if np.isfinite(value) else (1e6, np.zeros(z.size))

    starts = [flat + 0.5 * jax.random.normal(jax.random.key(i), flat.shape) for i in range(4)]
    bounds = [(np.log(0.01), np.log(100))] * 2 + [(np.log(0.01), np.log(1000)), (np.log(1e-5), 0), (-5, 5)]
    return min(minimize(objective, np.asarray(z, float), jac=True, bounds=bounds).fun for z in starts)


def test_the_hyperprior_of_botorch_is_log_normal():
    """Differences of its logarithm are those of scipy's densities of the length scales and of the noise themselves."""
    d, expected = 6, centre(6, hyperprior=BOTORCH)
    random = np.random.default_rng(0)
    scales, noises = np.exp(random.normal(size=(8, d))), np.exp(random.normal(-4, 1, 8))
    ours = [
        float(log_hyperprior(expected._replace(length_scale=jnp.log(s), noise=jnp.log(n)), BOTORCH))
        for s, n in zip(scales, noises, strict=True)
    ]
    theirs = lognorm(s=3**0.5, scale=np.exp(2**0.5) * d**0.5).logpdf(scales).sum(1)
    theirs += lognorm(s=1, scale=np.exp(-4)).logpdf(noises)
    np.testing.assert_allclose(np.array(ours) - ours[0], theirs - theirs[0], rtol=1e-4, atol=1e-4)
    assert log_hyperprior(expected._replace(mean=jnp.asarray(9.0)), BOTORCH) == log_hyperprior(expected, BOTORCH)


def test_a_fit_under_the_hyperprior_of_botorch_has_its_kernel():
    """A squared exponential kernel of variance 1 and as much noise as it allows, whatever was believed before."""
    x = jax.random.uniform(jax.random.key(0), (16, 2))
    y = standardised(jnp.sin(9 * x[:, 0]), jnp.ones(16, bool))
    found = jax.jit(lambda: fit(unpack(centre(2)), x, y, jnp.asarray(16), 40, BOTORCH))()
    assert found.variance == 1 and found.matern == 0 and found.noise >= 0.99e-4
    assert found.length_scale[0] < 0.3 < found.length_scale[1], "the second input decides nothing"


def test_the_given_prior_is_used_as_it_is():
    given = Prior(jnp.full(3, 0.4), 2.0, 1e-4, -1.0, 0.0)
    optimizer = GPEIConfig(prior="given", initial=2, max_trials=8, candidates=16, ascent_steps=1).build()
    state = optimizer.init(jax.random.key(0), problem(context=given))
    for i in range(4):
        x, state = optimizer.ask(jax.random.key(i), state)
        state = optimizer.tell(jax.random.key(i), state, x, Evaluation(x.sum(-1)))
    jax.tree.map(np.testing.assert_array_equal, state[1].prior, jax.tree.map(lambda a: jnp.asarray(a, float), given))


@pytest.mark.parametrize(
    ("context", "message"), [(None, "as the context"), (Prior(jnp.ones(2)), "expected one for each of 3 coordinates")]
)
def test_a_given_prior_must_be_given_and_fit(context, message):
    with pytest.raises(UserError, match=message):
        GPEIConfig(prior="given").build().init(jax.random.key(0), problem(context=context))


def test_failed_evaluations_count_as_the_worst_and_values_of_any_size_are_standardised():
    used = jnp.arange(5) < 4
    y = without_failures(jnp.array([1.0, jnp.nan, 3.0, jnp.inf, 7.0]), used)
    np.testing.assert_array_equal(y, [1.0, 3.0, 3.0, 3.0, 0.0])
    np.testing.assert_array_equal(without_failures(jnp.full(5, jnp.nan), used), jnp.zeros(5))
    for scale in (1e-20, 1.0, 1e30):
        z = standardised(y * scale, used)
        np.testing.assert_allclose([z[:4].mean(), z[:4].std(), z[4]], [0, 1, 0], atol=1e-5)
    assert np.isfinite(standardised(jnp.full(5, 3.0), used)).all()


@pytest.mark.slow
@pytest.mark.parametrize("failing", [lambda x: x[..., 0] > 5.0, lambda x: x[..., 0] > -99.0])
def test_gp_goes_on_when_evaluations_fail_and_when_the_buffer_is_full(failing):
    config = GPEIConfig(initial=3, max_trials=8, fit_steps=4, candidates=64)
    x, values = run(config.build(), lambda x: jnp.where(failing(x), jnp.nan, branin(x)), BRANIN, 20)
    assert jax.vmap(BRANIN.contains)(x[:, 0]).all()
    assert len(np.unique(np.asarray(x[:, 0]), axis=0)) == 20
    if not np.isnan(values).all():
        assert np.nanmin(values) < 2.0


def test_a_full_buffer_keeps_the_best():
    optimizer = GPEIConfig(initial=9, max_trials=4).build()
    state = optimizer.init(jax.random.key(0), problem())
    values = jnp.array([5.0, 1.0, jnp.nan, 4.0, 3.0, 2.0, 0.5])
    x = jax.random.uniform(jax.random.key(1), (7, 3))
    _, inner = optimizer.tell(jax.random.key(2), state, x, Evaluation(values))
    np.testing.assert_array_equal(np.sort(inner.seen.y), [0.5, 1.0, 2.0, 3.0])
    rows = [int(np.flatnonzero(np.asarray(values) == y)[0]) for y in inner.seen.y]
    np.testing.assert_allclose(inner.seen.x, x[jnp.asarray(rows)], atol=1e-6)


def test_the_acquisition_is_climbed_to_its_top():
    top = jnp.array([0.123, 0.987, 1.0])
    found = maximise(
        jax.random.key(0), lambda u: -jnp.sum((u - top[None]) ** 2, 1), jnp.full((2, 3), 0.5), candidates=256, steps=40
    )
    np.testing.assert_allclose(found, top, atol=1e-2)


def test_a_dearer_score_chooses_among_what_a_cheaper_one_finds():
    """Of two equal hills it is the one that the judge prefers; and the score itself as a judge changes nothing."""
    hills = jnp.array([[0.2, 0.2], [0.8, 0.8]])

    def score(u):
        return -jnp.min(jnp.sum((u[:, None] - hills[None]) ** 2, -1), 1)

    for sign in (1.0, -1.0):
        found = maximise(
            jax.random.key(0), score, hills, 64, 40, starts=8, judge=lambda u, sign=sign: sign * u[:, 0] + score(u)
        )
        np.testing.assert_allclose(found, hills[int(sign > 0)], atol=0.2)  # or a start on its slope
    same = [maximise(jax.random.key(0), score, hills, 64, 40, judge=judge) for judge in (None, score)]
    np.testing.assert_array_equal(*same)


# --- evosax


@pytest.mark.parametrize("make", [CMA_ES, SNES, Open_ES, PSO, DifferentialEvolution])
@pytest.mark.parametrize("space", [CUBE, Space.free()])
def test_a_lifted_evosax_algorithm_equals_the_plain_loop(make, space):
    start, scale = jnp.array([0.4, 0.5, 0.6]), 0.25
    optimizer = from_evosax(lambda solution: make(population_size=6, solution=solution))
    keys = [jax.random.split(jax.random.fold_in(jax.random.key(1), t)) for t in range(6)]

    def loss(x):
        return jnp.sum((x - 0.45) ** 2, -1)

    state, asked = optimizer.init(jax.random.key(0), Problem(space, start, scale)), []
    for ask_key, tell_key in keys:
        x, state = jax.jit(optimizer.ask)(ask_key, state)
        state = jax.jit(optimizer.tell)(tell_key, state, x, Evaluation(loss(x)))
        asked.append(x)

    project = (lambda x: x) if space.is_free else (lambda x: jnp.clip(x, 0, 1))
    with jax.numpy_rank_promotion("allow"):
        algorithm = make(population_size=6, solution=start)
        params = algorithm.default_params
        if hasattr(params, "std_init"):
            params = params.replace(std_init=jnp.full(jnp.shape(params.std_init), scale))
        plain = [[jax.random.key_data(k) for k in pair] for pair in keys]
        if hasattr(algorithm, "get_mean"):
            inner = algorithm.init(jax.random.key_data(jax.random.key(0)), start, params)
        else:
            inner = algorithm.init(plain[0][1], asked[0], loss(asked[0]), params)
        for t, (ask_key, tell_key) in enumerate(plain):
            if t or hasattr(algorithm, "get_mean"):
                x, inner = algorithm.ask(ask_key, inner, params)
                np.testing.assert_allclose(asked[t], project(x), rtol=1e-5, atol=1e-6)
                inner, _ = algorithm.tell(tell_key, asked[t], loss(asked[t]), inner, params)


def test_a_swarm_starts_all_over_the_box_and_around_the_start_of_a_free_space():
    optimizer = PSOConfig(population_size=500).build()
    x, _ = optimizer.ask(jax.random.key(1), optimizer.init(jax.random.key(0), problem(BRANIN)))
    np.testing.assert_allclose([x.min(0), x.max(0)], [BRANIN.low, BRANIN.high], atol=0.3)
    free = Problem(Space.free(), jnp.array([3.0, -2.0]), 0.1)
    x, _ = optimizer.ask(jax.random.key(1), optimizer.init(jax.random.key(0), free))
    np.testing.assert_allclose(x.mean(0), free.start, atol=0.02)
    np.testing.assert_allclose(x.std(0), 0.1, rtol=0.1)


@pytest.mark.parametrize("space", [BRANIN, Space.free()])
def test_sigma_is_in_widths_of_the_box(space):
    start = jnp.array([2.5, 7.5])
    optimizer = CMAESConfig(population_size=4000, sigma=0.05).build()
    x, _ = optimizer.ask(jax.random.key(1), optimizer.init(jax.random.key(0), Problem(space, start, 2.0)))
    np.testing.assert_allclose(x.std(0), 2.0 if space.is_free else 0.05 * 15, rtol=0.05)


@pytest.mark.parametrize("config", [CMAESConfig(), SNESConfig(), DifferentialEvolutionConfig(), PSOConfig()])
def test_evolution_minimizes_and_survives_failures(config):
    def loss(x):
        value = jnp.sum((x - 0.7) ** 2, -1)
        return jnp.where(x[..., 0] < 0.3, jnp.nan, value)

    x, values = run(config.build(), loss, CUBE, 40)
    assert x.shape == (40, 4 + 3, 3)
    assert jax.vmap(jax.vmap(CUBE.contains))(x).all()
    assert np.nanmin(values) < 0.01


def test_a_failure_is_told_as_worse_than_all_before():
    optimizer = from_evosax(lambda solution: DifferentialEvolution(population_size=4, solution=solution))
    state = optimizer.init(jax.random.key(0), problem())
    x, state = optimizer.ask(jax.random.key(1), state)
    state = optimizer.tell(jax.random.key(2), state, x, Evaluation(jnp.array([-5.0, jnp.nan, 2.0, jnp.inf])))
    fitness = state[1].inner.fitness
    assert np.isfinite(fitness).all()
    assert min(fitness[1], fitness[3]) > 2.0
    all_failed = optimizer.tell(jax.random.key(2), state, x, Evaluation(jnp.full(4, jnp.nan)))
    assert jax.tree.all(jax.tree.map(lambda a: bool(jnp.isfinite(a).all()), all_failed[1].inner))


def test_algorithms_of_several_means_are_refused():
    from evosax.algorithms import SV_CMA_ES

    optimizer = from_evosax(lambda solution: SV_CMA_ES(population_size=4, num_populations=2, solution=solution))
    with pytest.raises(TypeError, match="several means"):
        optimizer.init(jax.random.key(0), problem())


# --- Optuna


def test_tpe_is_that_of_optuna():
    steps = 25
    optimizer = TPEConfig().build()
    assert isinstance(optimizer, HostOptimizer)
    best, state = on_the_host(optimizer, branin, BRANIN, steps)
    seed = int(jax.random.randint(jax.random.key(0), (), 0, 2**31 - 1))
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))

    def objective(trial):
        x = [trial.suggest_float("x0", -5, 10), trial.suggest_float("x1", 0, 15)]
        return float(branin(jnp.array([x], jnp.float32))[0])

    study.optimize(objective, n_trials=steps)
    assert best == pytest.approx(study.best_value, rel=1e-5)
    assert best < 5
    assert [t.params for t in state.study.trials] == [t.params for t in study.trials]


def test_tpe_is_told_in_any_order_and_of_failures_and_of_points_of_others():
    optimizer = TPEConfig(initial=2).build()
    state = optimizer.init(jax.random.key(0), problem(BRANIN))
    first, state = optimizer.ask(jax.random.key(1), state)
    second, state = optimizer.ask(jax.random.key(2), state)
    assert first.shape == (1, 2)
    assert not np.allclose(first, second)
    state = optimizer.tell(jax.random.key(3), state, second, Evaluation(jnp.array([2.0])))
    state = optimizer.tell(jax.random.key(4), state, first, Evaluation(jnp.array([jnp.nan])))
    state = optimizer.tell(jax.random.key(5), state, jnp.array([[1.0, 2.0]]), Evaluation(jnp.array([3.0])))
    outcomes = [(trial.state.name, trial.value) for trial in state.study.trials]
    assert outcomes == [("FAIL", None), ("COMPLETE", 2.0), ("COMPLETE", 3.0)]
    assert state.study.trials[2].params == {"x0": 1.0, "x1": 2.0}
    assert not state.open


def test_tpe_takes_points_that_are_trees():
    space = Space.box({"a": jnp.zeros((2, 2)), "b": jnp.array(-1.0)}, {"a": jnp.ones((2, 2)), "b": jnp.array(1.0)})
    optimizer = TPEConfig().build()
    x, _ = optimizer.ask(jax.random.key(0), optimizer.init(jax.random.key(0), problem(space)))
    assert jax.tree.map(jnp.shape, x) == {"a": (1, 2, 2), "b": (1,)}


NAMED = SearchSpace.from_dict({
    "rate": {"kind": "float", "low": 1e-5, "high": 0.1, "scale": "log"},
    "share": {"kind": "float", "low": 0.5, "high": 0.999, "scale": "reverse_log"},
    "layers": {"kind": "integer", "low": 1, "high": 64, "scale": "log"},
    "width": {"kind": "discrete", "values": [8, 32, 100]},
    "activation": ["relu", "tanh", "gelu"],
})  # fmt: skip


def rated(x):
    """Lowest where the category is 1, more so than any number can make up for."""
    return 10 * (x[:, 4] != 1) + jnp.abs(jnp.log10(x[:, 0]) + 3) + x[:, 3]


@pytest.mark.parametrize("multivariate", [False, True])
def test_tpe_samples_the_kinds_of_a_mixed_space(multivariate):
    optimizer, space = TPEConfig(initial=5, multivariate=multivariate).build(), NAMED.space
    _, state = on_the_host(optimizer, rated, space, 40)
    kinds = optuna.distributions
    rate, share, layers, width, activation = state.distributions.values()
    assert isinstance(rate, kinds.FloatDistribution) and rate.log and rate.high == pytest.approx(0.1)
    assert isinstance(share, kinds.FloatDistribution) and not share.log
    assert layers == kinds.IntDistribution(1, 64, log=True) and width == kinds.IntDistribution(0, 2)
    assert activation == kinds.CategoricalDistribution((0, 1, 2))
    points = np.array([list(trial.params.values()) for trial in state.study.trials], np.float32)
    assert all(space.contains(jnp.asarray(point)) for point in points)
    assert len({*points[:, 2]}) > 8 and {*points[:, 4]} == {0, 1, 2}
    assert np.mean(points[5:, 4] == 1) > 0.6, "the first or the last of floats would not be left out like this"
    assert state.study.sampler._multivariate == multivariate


def test_tpe_is_told_of_mixed_points_of_others():
    optimizer = TPEConfig().build()
    state = optimizer.init(jax.random.key(0), problem(NAMED.space))
    x, state = optimizer.ask(jax.random.key(1), state)
    other = NAMED.to_point({"rate": 0.01, "share": 0.9, "layers": 3, "width": 100, "activation": "gelu"})
    both = jnp.concatenate([x, jnp.asarray(other)[None]])
    state = optimizer.tell(jax.random.key(2), state, both, Evaluation(jnp.array([1.0, 2.0])))
    first, second = state.study.trials
    assert [first.value, second.value] == [1.0, 2.0] and not state.open
    assert [second.params[f"x{i}"] for i in (2, 3, 4)] == [3, 2, 2]
    assert all(type(second.params[f"x{i}"]) is int for i in (2, 3, 4))
    assert second.params["x0"] == pytest.approx(0.01)


def test_without_optuna_one_sentence_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match="pip install optuna"):
        TPEConfig().build().init(jax.random.key(0), problem())


@pytest.mark.parametrize("kind", ["random", "sobol", "gp_ei", "gp_ucb", "tpe"])
def test_a_free_space_is_refused_by_those_that_need_bounds(kind):
    with pytest.raises(UserError, match=f"{kind} needs a space with bounds"):
        l2o.kinds(l2o.BaselineConfig)[kind]().build().init(jax.random.key(0), Problem(Space.free(), jnp.zeros(3)))
