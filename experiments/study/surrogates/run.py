"""What a study of surrogates runs: predictions of the same points from the same observations."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.scipy.stats import norm
from jaxtyping import Array, Float

import l2o
from experiments.study.columns import identity, label, need_different_names
from experiments.study.pieces import Arrays, Pieces
from experiments.study.surrogates.config import Process, SurrogateStudy
from l2o.acquisition import without_failures
from l2o.baselines.hyperparameters import HYPERPRIORS, centre, fit, unpack
from l2o.errors import UserError
from l2o.gp import Posterior, Prior
from l2o.surrogate.prediction import units_of
from l2o.wrappers.flat import flat_space
from tasks.family import TaskFamily

STRATA = 64  # values of an exact distribution that a divergence is the mean over
Forecast = Callable[..., Any]  # (x [n, d], y [n], used [n], ordered [d], queries [m, d], prior) -> a distribution


class Normal(NamedTuple):
    """Normal distributions, read as predictions of surrogates are."""

    mean: Float[Array, "m"]
    deviation: Float[Array, "m"]

    def log_prob(self, y: Float[Array, "m"]) -> Float[Array, "m"]:
        """The logarithm of the density."""
        return norm.logpdf(y, self.mean, self.deviation)

    def cdf(self, y: Float[Array, "m"]) -> Float[Array, "m"]:
        """The probability of at most y."""
        return norm.cdf(y, self.mean, self.deviation)

    def quantile(self, q: Float[Array, ""]) -> Float[Array, "m"]:
        """The value that is not exceeded with probability q."""
        return norm.ppf(q, self.mean, self.deviation)


class Forecaster(NamedTuple):
    """A column of the study.

    Attributes:
      name: its label.
      forecast: what it says.
      sha256: fingerprint of a learned one.
      file: a name for files of what it said.
      exact: whether it needs the prior of the tasks.
    """

    name: str
    forecast: Forecast
    sha256: str
    file: str
    exact: bool = False


class Plan(NamedTuple):
    """What is going to be run.

    Attributes:
      study: what was asked for.
      families: by name.
      forecasters: the columns, learned ones first.
    """

    study: SurrogateStudy
    families: dict[str, TaskFamily]
    forecasters: list[Forecaster]

    @property
    def opening(self) -> str:
        """How much it is."""
        count = f"{self.study.functions} functions of {len(self.families)} priors"
        return f"{count}, {self.study.queries} points of each, {len(self.forecasters)} surrogates"

    @property
    def pieces(self) -> int:
        """One for each prior and column."""
        return len(self.families) * len(self.forecasters)


def plan(study: SurrogateStudy) -> Plan:
    """What a study is going to run.

    Raises:
      UserError: an optimizer does not exist or does not predict, a family is a mixture or has no bounds, or a process
        is to be given what its tasks do not tell.
    """
    families: dict[str, TaskFamily] = {name: task.build("test") for name, task in study.priors.items()}
    for name, family in families.items():
        if len(family.parts) > 1:
            raise UserError(f"priors.{name}: a mixture has several kinds of functions, expected each by itself")
        prior = jax.eval_shape(lambda key, of=family: of.task(of.sample(key)).info.get("prior"), jax.random.key(0))
        given = any(process.hyperparameters == "given" for process in study.processes.values())
        if given and not isinstance(prior, Prior):
            raise UserError(f"priors.{name}: the tasks tell no prior, expected no process that is given it")
    found = []
    for name in study.optimizers:
        loaded = l2o.load(name)
        if loaded.learned.surrogate is None:
            raise UserError(f"{name} is of kind {loaded.config.kind!r}, which does not predict, expected one that does")
        short = identity(loaded.sha256, loaded.config.model_dump(mode="json"))
        found.append(Forecaster(label(name), _learned(loaded), loaded.fingerprint, short))
    for name, process in study.processes.items():
        short = f"{name}-{identity(process.model_dump(mode='json'))}"
        found.append(Forecaster(name, _process(process), "", short, process.hyperparameters == "given"))
    need_different_names([forecaster.name for forecaster in found])
    return Plan(study, families, found)


def _learned(loaded: l2o.Loaded) -> Forecast:
    surrogate, theta = loaded.learned.surrogate, loaded.theta

    def forecast(x, y, used, ordered, queries, prior):
        del prior
        return surrogate.predict(theta, surrogate.read(theta, x, y, used, ordered), queries)

    return forecast


def _process(process: Process) -> Forecast:
    def forecast(x, y, used, ordered, queries, prior):
        count, y = jnp.sum(used), without_failures(y, used)
        if process.hyperparameters == "given":
            return _predictive(prior, x, y, count, queries)
        units, hyperprior = units_of(y, used), HYPERPRIORS[process.hyperparameters]
        read = jnp.where(used, y - units.shift, 0.0) / units.scale
        first = unpack(centre(x.shape[1], hyperprior=hyperprior))._replace(categories=~ordered)
        fitted = fit(first, x, read, count, process.fit_steps, hyperprior)
        found = _predictive(fitted, x, read, count, queries)
        return Normal(units.shift + units.scale * found.mean, units.scale * found.deviation)

    return forecast


def _predictive(prior: Prior, x: Array, y: Array, count: Array, queries: Array) -> Normal:
    """Of an observation, with its noise."""
    mean, variance = Posterior.fit(prior, x, y, count).predict(queries)
    return Normal(mean, jnp.sqrt(variance + prior.noise))


def run(plan: Plan, pieces: Pieces) -> dict[str, dict[str, Arrays]]:
    """By prior and column: "density", "pit" and, of priors that are known, "divergence", [functions, told, queries]."""
    return {
        name: {
            forecaster.name: pieces(
                f"cells/{name}-{forecaster.file}", f"{forecaster.name} on {name}",
                lambda family=family, forecaster=forecaster: _scores(plan.study, family, forecaster),
            )
            for forecaster in plan.forecasters
        }
        for name, family in plan.families.items()
    }  # fmt: skip


def _scores(study: SurrogateStudy, family: TaskFamily, forecaster: Forecaster) -> Arrays:
    most = study.told[-1]

    def of_function(key):
        task_key, point_key, value_key = jax.random.split(key, 3)
        task = family.task(family.sample(task_key))
        space = flat_space(task.problem.space)
        flat, back = ravel_pytree(jax.tree.map(jnp.asarray, task.problem.start))
        x = jax.vmap(space.from_unit)(jax.random.uniform(point_key, (most + study.queries, flat.size)))
        y = task.evaluate(value_key, jax.vmap(back)(x)).value
        u, prior = jax.vmap(space.to_unit)(x), task.info.get("prior")
        queries, known = u[most:], jnp.isfinite(y[most:])
        truth = jnp.where(known, y[most:], 0.0)
        deviation = jnp.maximum(jnp.nanstd(jnp.where(jnp.isfinite(y), y, jnp.nan)), 1e-12)

        def after(count):
            used = jnp.arange(most) < count
            told = u[:most], y[:most], used, space.ordered, queries
            said = forecaster.forecast(*told, prior)
            density = jnp.nan_to_num(said.log_prob(truth) + jnp.log(deviation), nan=-jnp.inf)
            # an evaluation that fails has no value that could be known
            found = {"density": jnp.where(known, density, jnp.nan), "pit": jnp.where(known, said.cdf(truth), jnp.nan)}
            if isinstance(prior, Prior):
                exact = _predictive(prior, u[:most], y[:most], count, queries)

                def apart(level):
                    value = exact.quantile(level)
                    return exact.log_prob(value) - said.log_prob(value)

                found["divergence"] = jnp.mean(jax.vmap(apart)((jnp.arange(STRATA) + 0.5) / STRATA), 0)
            return found

        return jax.lax.map(after, jnp.asarray(study.told))

    keys = jax.random.split(jax.random.key(study.seed), study.functions)
    found = jax.jit(lambda keys: jax.lax.map(of_function, keys, batch_size=study.batch))(keys)
    return {name: np.asarray(array, np.float32) for name, array in found.items()}
