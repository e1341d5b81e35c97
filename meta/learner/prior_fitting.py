"""The prior-fitting learner: theta that predicts values of functions drawn from a prior (Müller et al. 2022)."""

import functools
from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float
from pydantic import Field

from l2o.errors import UserError
from l2o.registry import register
from l2o.surrogate.prediction import units_of
from l2o.wrappers.flat import flat_space
from meta.learner.adamw import AdamWConfig
from meta.learner.base import Learner, share, specs
from meta.parallel import AXIS, DIVIDED, WHOLE, mesh
from tasks.family import TaskFamily

LOW = -5.0  # log density below which what is lost grows with its logarithm alone: values far off do not drown others


@register
class PriorFittingConfig(AdamWConfig):
    """AdamW on the likelihood of values of functions that are drawn anew in each meta-step.

    Any family of tasks with bounds is a prior over functions. Of each function some points are told, and others are
    predicted. Half of the sets of points are uniform, as in a random search; the other half lie around a few centres,
    as those of a search that has found something.

    Attributes:
      sizes: most points that are told; meta-steps use each equally often, and tell a random number up to it.
      fewest: fewest points that are told.
      queries: points that are predicted.
    """

    kind: Literal["prior_fitting"] = "prior_fitting"
    estimates: ClassVar[bool] = False
    sizes: tuple[int, ...] = Field(default=(12, 50, 128), min_length=1, strict=False)
    fewest: int = Field(default=1, ge=0)
    queries: int = Field(default=64, ge=1)

    def build(self, learned, objective, estimator, horizon, tasks, steps, devices=1, parts=1):
        del objective, estimator, horizon
        if learned.surrogate is None:
            raise UserError("meta.optimizer.kind 'prior_fitting' needs an optimizer that predicts, such as pfn")
        chosen, surrogate = mesh(devices, share(tasks, parts)), learned.surrogate
        transformation = self.transformation(steps)

        def negative(theta, function):
            """Mean of -log p over the predicted points of one function, in units of what was told."""
            u, y, used, ordered = function
            size = len(used)
            belief = surrogate.read(theta, u[:size], y[:size], used, ordered)
            prediction = surrogate.predict(theta, belief, u[size:])
            told_well, asked_well = used & jnp.isfinite(y[:size]), jnp.isfinite(y[size:])
            scale = units_of(jnp.where(told_well, y[:size], 0.0), told_well).scale
            found = prediction.log_prob(jnp.where(asked_well, y[size:], 0.0)) + jnp.log(scale)
            return -jnp.mean(jnp.where(asked_well, softened(found), 0.0))

        def total(theta, keys, family, size):
            keys = keys.reshape(parts, -1, *keys.shape[1:])
            alike = {}  # functions of as many parameters share a program of the network
            for k, part in zip(keys, family.parts, strict=True):
                functions = jax.vmap(lambda key, part=part: drawn(key, part, self.fewest, size, self.queries))(k)
                alike.setdefault(functions.u.shape[-1], []).append(functions)
            together = [jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *some) for some in alike.values()]
            losses = [jax.vmap(negative, (None, 0))(theta, functions) for functions in together]
            return jnp.mean(jnp.concatenate(losses))

        def of_size(function):
            """That function of theta, keys, a family and which of the sizes it is."""
            some = [functools.partial(function, size=size) for size in self.sizes]
            return lambda theta, keys, family, which: jax.lax.switch(which, some, theta, keys, family)

        def shared(theta, keys, family, which):
            return jax.lax.pmean(of_size(jax.value_and_grad(total))(theta, keys, family, which), AXIS)

        # check_vma=False: with it, grad inside would be summed over devices once more, silently
        shared = jax.shard_map(
            shared, mesh=chosen, in_specs=(WHOLE, DIVIDED, WHOLE, WHOLE), out_specs=WHOLE, check_vma=False
        )

        def init(key, family, theta):
            del family
            return self.begin(theta, transformation.init(theta), jax.random.key_data(key))

        def step(state, family):
            key = jax.random.fold_in(jax.random.wrap_key_data(state.estimator), state.step)
            size_key, task_key = jax.random.split(key)
            which = jax.random.randint(size_key, (), 0, len(self.sizes))
            value, gradient = shared(state.theta, jax.random.split(task_key, tasks), family, which)
            norm = optax.tree.norm(gradient)
            updates, optimizer = transformation.update(gradient, state.optimizer, state.theta)
            theta = optax.apply_updates(state.theta, updates)
            ok = jnp.isfinite(norm) & jnp.isfinite(value)
            metrics = {"meta_loss": value, "gradient_norm": norm}
            return self.advance(state, ok, theta, optimizer, state.estimator), metrics

        def validate(theta, family, key, count):
            keys = jax.random.split(key, (len(self.sizes), max(count // len(self.sizes) // parts, 1) * parts))
            # one size after another: XLA's runtime for CPUs waits forever for all of them at once, with two threads
            losses = jax.lax.map(lambda of: of_size(total)(theta, of[0], family, of[1]), (keys, jnp.arange(len(keys))))
            return {"validation": jnp.mean(losses)}

        return Learner(init, step, specs(estimator=WHOLE), chosen, validate)


def softened(log_density):
    """The same above `LOW`, and bent below; what is believed too firmly still costs more the farther off it is."""
    return jnp.where(log_density > LOW, log_density, LOW - jnp.log1p(jnp.maximum(LOW - log_density, 0.0)))


class Function(NamedTuple):
    """What is known of a function: n points that can be told, and q that are asked for.

    Attributes:
      u: the points in the unit cube.
      y: values at them.
      used: which of the first n are told.
      ordered: which parameters are no categories.
    """

    u: Float[Array, "n+q d"]
    y: Float[Array, "n+q"]
    used: Bool[Array, "n"]
    ordered: Bool[Array, "d"]


def drawn(key, part: TaskFamily, fewest: int, size: int, queries: int) -> Function:
    """A function of a family, and how it is at some points."""
    task_key, count_key, point_key, value_key = jax.random.split(key, 4)
    task = part.task(part.sample(task_key))
    space = flat_space(task.problem.space)
    flat, back = ravel_pytree(jax.tree.map(jnp.asarray, task.problem.start))
    x = jax.vmap(space.from_unit)(points(point_key, size, queries, flat.size))
    y = task.evaluate(value_key, jax.vmap(back)(x)).value
    used = jnp.arange(size) < jax.random.randint(count_key, (), fewest, size + 1)
    return Function(jax.vmap(space.to_unit)(x), y, used, jnp.asarray(space.ordered))


def points(key, told: int, queries: int, d: int):
    """Points of the unit cube, [told + queries, d]: see `PriorFittingConfig`."""
    kind_key, centre_key, which_key, width_key, normal_key, wide_key, share_key, near_key = jax.random.split(key, 8)
    count = told + queries
    wide = jax.random.uniform(wide_key, (count, d))
    centres = jax.random.uniform(centre_key, (4, d))
    width = 10 ** jax.random.uniform(width_key, (count, 1), minval=-2.5, maxval=-0.5)
    near = centres[jax.random.randint(which_key, (count,), 0, 4)] + width * jax.random.normal(normal_key, (count, d))
    share = jax.random.uniform(share_key) * jax.random.bernoulli(kind_key)
    return jnp.where(jax.random.bernoulli(near_key, share, (count, 1)), jnp.clip(near, 0.0, 1.0), wide)
