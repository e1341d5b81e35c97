"""The learned genetic algorithm of Lange et al. (2023), "Discovering attention-based genetic algorithms via
meta-black-box optimization" (arXiv 2304.03995).

A population of parents, each with a standard deviation of its own. In a generation, parents are sampled, their standard
deviations adapted, and children mutated with them; then each parent may be replaced by a child. Attention over fitness
decides who is sampled, how far a child mutates and who replaces whom; what is sampled is sampled.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from pydantic import Field, model_validator

from l2o.core import LearnedOptimizer, Optimizer, Theta
from l2o.evolution.population import (
    LARGEST,
    SMALLEST,
    EvolutionStrategyConfig,
    Strategy,
    dense,
    features,
    layer,
    lift,
    unit_range,
    z_scores,
)
from l2o.registry import register

KEEP = 1.0  # logit of keeping the parent


@register
class LGAConfig(EvolutionStrategyConfig):
    """Learned genetic algorithm (Lange et al. 2023). There are as many parents as children.

    Attributes:
      keys: length of all keys, queries and values of an attention, which its heads share.
      heads: of each attention.
      crossover: share of its coordinates that a child takes from a second parent, sampled like the first.
      scores: of fitness, beside ranks. "normal": from the ranks, so that nothing but the order of values matters. "z":
        z-scores, as published.
    """

    kind: Literal["lga"] = "lga"
    keys: int = Field(default=16, ge=1, le=1024)
    heads: int = Field(default=2, ge=1, le=64)
    crossover: float = Field(default=0.0, ge=0, le=1)
    scores: Literal["normal", "z"] = "normal"

    @model_validator(mode="after")
    def _heads_share_the_keys(self):
        if self.keys % self.heads:
            raise ValueError(f"keys is {self.keys}, expected a multiple of heads, which is {self.heads}")
        return self

    def build(self) -> LearnedOptimizer:
        """The architecture."""
        return lga(self)


class LGAState(NamedTuple):
    """State of the algorithm.

    Attributes:
      population: the parents; before the first generation, the start.
      fitness: their values, +inf for those that failed.
      sigma: their standard deviations.
      age: generations that each has lived.
      child_sigma: standard deviations of the children that were asked last.
    """

    population: Float[Array, "n d"]
    fitness: Float[Array, "n"]
    sigma: Float[Array, "n"]
    age: Float[Array, "n"]
    child_sigma: Float[Array, "n"]


def attend(theta: Theta, queries: Float[Array, "i m"], others: Float[Array, "j n"], heads: int) -> Float[Array, "k m"]:
    """Attention of each member to others, or to all of its own kind, with several heads."""
    q = dense(theta["query"], queries)
    k, v = dense(theta["key"], others), dense(theta["value"], others)
    q, k, v = (a.reshape(heads, -1, a.shape[1]) for a in (q, k, v))
    logits = jnp.einsum("hkm,hkn->hmn", q, k) / k.shape[1] ** 0.5
    mixed = jnp.einsum("hmn,hkn->hkm", jax.nn.softmax(logits), v)
    return dense(theta["out"], mixed.reshape(-1, mixed.shape[2]))


def sampling_logits(theta: Theta, parents: Float[Array, "4 n"], heads: int) -> Float[Array, "n"]:
    """Logits of each parent to have a child, from its fitness and age."""
    return dense(theta["logit"], attend(theta["attention"], parents, parents, heads))[0]


def log_variance(theta: Theta, fitness: Float[Array, "3 n"], sigma: Float[Array, "n"], heads: int) -> Float[Array, "n"]:
    """How the logarithm of each child's squared standard deviation changes, from its parent's fitness and own."""
    seen = jnp.concatenate([fitness, z_scores(sigma)[None], 2 * unit_range(sigma)[0][None] - 1])
    return dense(theta["change"], attend(theta["attention"], seen, seen, heads))[0]


def selection_logits(
    theta: Theta, children: Float[Array, "3 n"], parents: Float[Array, "3 m"], heads: int
) -> Float[Array, "m n"]:
    """Logits of each child to replace each parent, from their fitness."""
    queries = dense(theta["query"], attend(theta["attention"], parents, children, heads))
    return queries.T @ dense(theta["key"], children) / queries.shape[0] ** 0.5


def lga(config: LGAConfig) -> LearnedOptimizer:
    """Build the algorithm. Its first generation is normal around the start and becomes the first parents."""
    n, heads = config.population_size, config.heads

    def attention(key, inputs: int) -> Theta:
        sizes = {"query": inputs, "key": inputs, "value": inputs, "out": config.keys}
        keys = jax.random.split(key, len(sizes))
        return {name: layer(k, size, config.keys) for k, (name, size) in zip(keys, sizes.items(), strict=True)}

    def init(key) -> Theta:
        keys = jax.random.split(key, 7)
        return {
            "sampling": {"attention": attention(keys[0], 4), "logit": layer(keys[1], config.keys, 1)},
            "mutation": {"attention": attention(keys[2], 5), "change": layer(keys[3], config.keys, 1)},
            "selection": {
                "attention": attention(keys[4], 3),
                "query": layer(keys[5], config.keys, config.keys),
                "key": layer(keys[6], 3, config.keys),
            },
        }

    def bind(theta: Theta) -> Optimizer:
        def begin(key, mean, sigma):
            each = jnp.broadcast_to(sigma, (n,))
            population = jnp.broadcast_to(mean[None], (n, mean.size))
            return LGAState(population, jnp.full(n, jnp.inf, mean.dtype), each, jnp.zeros(n, mean.dtype), each)

        def ask(key, run):
            population, fitness, sigma, age, _ = run.inner
            parent_key, mate_key, swap_key, noise_key = jax.random.split(key, 4)
            lived = jnp.tanh(age / jnp.maximum(run.generation - 1, 1) - 1)
            seen = jnp.concatenate([features(fitness, run.best, config.scores), lived[None]])
            logits = sampling_logits(theta["sampling"], seen, heads)
            alive = jnp.isfinite(fitness)
            logits = jnp.where(alive | ~jnp.any(alive), logits, -jnp.inf)
            parents = jax.random.categorical(parent_key, logits, shape=(n,))
            x = population[parents]
            if config.crossover:
                mates = population[jax.random.categorical(mate_key, logits, shape=(n,))]
                x = jnp.where(jax.random.bernoulli(swap_key, config.crossover, x.shape), mates, x)
            seen = features(fitness[parents], run.best, config.scores)
            change = jnp.exp(0.5 * log_variance(theta["mutation"], seen, sigma[parents], heads))
            adapted = jnp.clip(sigma[parents] * change, SMALLEST, LARGEST)
            child_sigma = jnp.where(run.generation == 0, sigma, adapted)
            x = x + child_sigma[:, None] * jax.random.normal(noise_key, x.shape, x.dtype)
            return x, run.inner._replace(child_sigma=child_sigma)

        def tell(key, run, x, value):
            population, fitness, sigma, age, child_sigma = run.inner
            seen = features(jnp.concatenate([value, fitness]), run.best, config.scores)
            logits = selection_logits(theta["selection"], seen[:, :n], seen[:, n:], heads)
            logits = jnp.where(jnp.isfinite(value)[None], logits, -jnp.inf)
            chosen = jax.random.categorical(key, jnp.concatenate([logits, jnp.full((n, 1), KEEP)], axis=1))
            first = run.generation == 0
            chosen = jnp.where(first, jnp.arange(n), chosen)
            keep, child = chosen == n, jnp.minimum(chosen, n - 1)
            return LGAState(
                jnp.where(keep[:, None], population, x[child]),
                jnp.where(keep, fitness, value[child]),
                jnp.where(keep, sigma, child_sigma[child]),
                jnp.where(keep, age + 1, 0.0),
                child_sigma,
            )

        return lift(Strategy(begin, ask, tell), config)

    return LearnedOptimizer(init, bind)
