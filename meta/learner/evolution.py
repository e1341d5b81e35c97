"""Any evolution strategy of evosax on the meta-loss."""

import dataclasses
import inspect
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float
from pydantic import Field

from l2o.core import Theta
from l2o.errors import UserError
from l2o.registry import nearest, register
from meta.estimator.base import Windows, nanmean
from meta.learner.base import Learner, LearnerConfig, share, specs
from meta.parallel import AXIS, DIVIDED, WHOLE, mesh


@register
class EvolutionConfig(LearnerConfig):
    """Any algorithm of evosax on theta: no gradient, no estimator.

    In each meta-step every member of the population is run over the whole horizon on the same tasks with the same
    randomness; its meta-losses are z-scored per task among the members, and the median over tasks is its fitness
    (Lange et al. 2022, section 4). A fitness compares the members of one generation: algorithms that compare it between
    generations (PSO, DE, hill climbing) work less well than those that do not.

    Attributes:
      algorithm: an algorithm's name in evosax, for example "SNES", "CMA_ES", "Open_ES" or "SimpleGA".
      population_size: members, at least 2.
      sigma: initial standard deviation of the members around theta, positive.
      learning_rate: of algorithms that move their mean by an optax optimizer (Adam here); the algorithm's own when left
        out.
      params: other parameters of the algorithm, by the names evosax gives them.
      decay: fraction of itself that the mean loses in each meta-step (Lange et al. 2023, against overfitting).
    """

    kind: Literal["evolution"] = "evolution"
    estimates: ClassVar[bool] = False
    algorithm: str = "SNES"
    population_size: int = Field(default=32, ge=2)
    sigma: float = Field(default=0.1, gt=0)
    learning_rate: float | None = Field(default=None, gt=0)
    params: dict[str, float] = {}
    decay: float = Field(default=0.0, ge=0, lt=1)

    def algorithm_for(self, theta: Theta) -> tuple[Any, Any]:
        """The evosax algorithm and its parameters.

        Raises:
          UserError: there is no such algorithm, or it does not take these parameters.
        """
        from evosax.algorithms import algorithms

        where = "meta.optimizer"
        if self.algorithm not in algorithms:
            names = sorted(algorithms)
            raise UserError(
                f"{where}.algorithm: unknown algorithm {self.algorithm!r}{nearest(self.algorithm, names)}, expected one"
                f" of {', '.join(names)}"
            )
        make, options = algorithms[self.algorithm], {}
        accepted = inspect.signature(make).parameters
        if "std_schedule" in accepted:
            options["std_schedule"] = optax.constant_schedule(self.sigma)
        if self.learning_rate is not None:
            if "optimizer" not in accepted:
                raise UserError(f"{where}.learning_rate: {self.algorithm} has none, expected it to be left out")
            options["optimizer"] = optax.adam(self.learning_rate)
        try:
            algorithm = make(population_size=self.population_size, solution=theta, **options)
        except Exception as error:  # its constructors check with whatever comes to hand
            raise UserError(f"{where}: evosax refuses {self.algorithm}: {' '.join(str(error).split())}") from None
        params = algorithm.default_params
        known = [field.name for field in dataclasses.fields(params)]
        values = {"std_init": self.sigma} if hasattr(params, "std_init") else {}
        for name, value in {**values, **self.params}.items():
            if name not in known:
                raise UserError(
                    f"{where}.params.{name}: {self.algorithm} has no such parameter{nearest(name, known)}, expected one"
                    f" of {', '.join(known) or 'none'}"
                )
            like = jnp.asarray(getattr(params, name))
            params = params.replace(**{name: jnp.full(like.shape, value, like.dtype)})
        return algorithm, params

    def build(self, learned, objective, estimator, horizon, tasks, steps, devices=1, parts=1):
        del estimator, steps
        runs_of, each = Windows(learned, objective, horizon), share(tasks, parts)
        algorithm, params = self.algorithm_for(learned.init(jax.random.key(0)))
        if self.decay and not hasattr(algorithm, "get_mean"):
            raise UserError(f"meta.optimizer.decay: {self.algorithm} has no mean, expected it to be left out")
        chosen = mesh(devices, self.population_size, "meta.optimizer.population_size")

        def first(key, members_key, theta):
            """The algorithm's first state around theta."""
            if hasattr(algorithm, "get_mean"):
                return algorithm.init(key, theta, params)
            leaves, tree = jax.tree.flatten(theta)
            noise = [
                self.sigma * jax.random.normal(k, (self.population_size, *leaf.shape), leaf.dtype)
                for k, leaf in zip(jax.random.split(members_key, len(leaves)), leaves, strict=True)
            ]
            members = tree.unflatten([leaf[None] + e for leaf, e in zip(leaves, noise, strict=True)])
            # a z-score is at most the square root of the number of members: all that is told later is better
            return algorithm.init(key, members, jnp.full(self.population_size, self.population_size), params)

        def init(key, family, theta):
            del family
            key, init_key, members_key = jax.random.split(key, 3)
            state = first(init_key, members_key, theta)
            state = jax.tree.map(lambda a: jnp.asarray(a, jnp.result_type(a)), state)  # no weak types: one compilation
            return self.begin(theta, state, jax.random.key_data(key))

        def rehearsal(theta):
            return algorithm.ask(jax.random.key(0), first(jax.random.key(1), jax.random.key(2), theta), params)

        try:
            jax.eval_shape(rehearsal, learned.init(jax.random.key(0)))
        except Exception as error:  # whatever tracing foreign code may raise
            raise UserError(
                f"meta.optimizer.algorithm: {self.algorithm} of evosax does not run under jit"
                f" ({str(error).splitlines()[0]}), expected another algorithm"
            ) from None

        def losses_of(members, keys, family):
            """Meta-losses [members, tasks]: the same tasks, starts and randomness for each member."""

            def one(theta, key, part):
                _, _, mean = runs_of.advance(theta, runs_of.start(theta, key, part), part)
                return mean

            losses = jnp.concatenate(
                [
                    jax.vmap(lambda theta, k=k, p=p: jax.vmap(lambda key: one(theta, key, p))(k))(members)
                    for k, p in zip(keys.reshape(parts, each), family.parts, strict=True)
                ],
                axis=1,
            )
            return jax.lax.all_gather(losses, AXIS, tiled=True)

        losses_of = jax.shard_map(
            losses_of, mesh=chosen, in_specs=(DIVIDED, WHOLE, WHOLE), out_specs=WHOLE, check_vma=False
        )

        def step(state, family):
            key = jax.random.fold_in(jax.random.wrap_key_data(state.estimator), state.step)
            ask_key, task_key, tell_key = jax.random.split(key, 3)
            population, asked = algorithm.ask(ask_key, state.optimizer, params)
            losses = losses_of(population, jax.random.split(task_key, tasks), family)
            told, _ = algorithm.tell(tell_key, population, fitness(losses), asked, params)
            if self.decay:
                told = told.replace(mean=(1 - self.decay) * told.mean)
            theta = algorithm.get_mean(told) if hasattr(algorithm, "get_mean") else algorithm.get_best_solution(told)
            moved = optax.tree.norm(jax.tree.map(jnp.subtract, theta, state.theta))
            ok = jnp.isfinite(moved) & jnp.any(jnp.isfinite(losses))
            told = jax.tree.map(lambda new, old: new.astype(old.dtype), told, state.optimizer)
            return self.advance(state, ok, theta, told, state.estimator), {"meta_loss": nanmean(losses), "moved": moved}

        return Learner(init, step, specs(estimator=WHOLE), chosen)


def fitness(losses: Float[Array, "members tasks"]) -> Float[Array, "members"]:
    """Median over tasks of the z-scores among members; smaller is better.

    A loss that is not finite scores as far above the mean as the worst finite one and a standard deviation more.
    """
    finite = jnp.isfinite(losses)
    count = jnp.maximum(jnp.sum(finite, axis=0), 1)
    mean = jnp.sum(jnp.where(finite, losses, 0.0), axis=0) / count
    centred = jnp.where(finite, losses - mean[None], 0.0)
    std = jnp.sqrt(jnp.sum(centred**2, axis=0) / count)
    scores = centred / jnp.where(std > 0, std, 1.0)[None]
    return jnp.median(jnp.where(finite, scores, jnp.max(scores, axis=0)[None] + 1), axis=1)
