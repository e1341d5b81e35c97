"""Between this project's contract and evosax."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from l2o.core import Optimizer
from l2o.space.domain import Space, X
from l2o.wrappers.cube import in_unit_cube


class EvosaxState(NamedTuple):
    """State of a lifted evosax algorithm.

    Attributes:
      inner: the algorithm's own.
      space: bounds of the queries.
      start: where it begins.
      sigma: standard deviation that it begins with.
      worst: largest finite value seen so far.
      begun: whether `inner` is to be used; a population-based algorithm has none before its first values.
    """

    inner: Any
    space: Space
    start: X
    sigma: Float[Array, ""]
    worst: Float[Array, ""]
    begun: Bool[Array, ""]


def from_evosax(
    make: Callable[[X], Any], *, sigma: float | None = None, params: Callable[[Any], Any] = lambda params: params
) -> Optimizer:
    """Lift an evosax algorithm to an `Optimizer` that asks a population at a time.

    On a box it works in the unit cube; queries are projected to it, and the projected points are what the algorithm is
    told. A distribution-based algorithm starts from `problem.start`. A population-based one first asks for a
    population of its own to start from: uniform in the box, or normal around `problem.start` on a free space. A failed
    evaluation is told as a value above all that were seen.

    Args:
      make: `solution -> algorithm`, where the solution is a point whose values do not matter.
      sigma: initial standard deviation in widths of the box. None, or a free space: `problem.scale`.
      params: changes the algorithm's default parameters; `std_init` is set before.

    Returns:
      An optimizer equal to the plain evosax loop in those coordinates.

    >>> from evosax.algorithms import CMA_ES
    >>> cma = from_evosax(lambda solution: CMA_ES(population_size=8, solution=solution), sigma=0.3)
    """

    @functools.cache  # evosax compiles its methods for each instance
    def algorithm_like(tree, shapes) -> Any:
        with jax.ensure_compile_time_eval(), jax.numpy_rank_promotion("allow"):
            algorithm = make(tree.unflatten([np.zeros(shape, dtype) for shape, dtype in shapes]))
        if hasattr(algorithm, "num_populations"):
            raise TypeError(f"{type(algorithm).__name__} has several means, which from_evosax does not support")
        return algorithm

    def rules(start: X, deviation: Float[Array, ""]) -> tuple[Any, Any]:
        leaves, tree = jax.tree.flatten(start)
        algorithm = algorithm_like(tree, tuple((leaf.shape, leaf.dtype) for leaf in leaves))
        values = algorithm.default_params
        if hasattr(values, "std_init"):
            like = jnp.asarray(values.std_init)
            values = values.replace(std_init=jnp.broadcast_to(deviation, like.shape).astype(like.dtype))
        return algorithm, params(values)

    def first_population(key: Array, state: EvosaxState, size: int) -> X:
        flat, unravel = ravel_pytree(state.start)
        if state.space.is_free:
            points = flat[None] + state.sigma * jax.random.normal(key, (size, flat.size), flat.dtype)
            return jax.vmap(unravel)(points)
        return jax.vmap(state.space.sample)(jax.random.split(key, size))

    def init(key, problem):
        key = untyped(key)
        start = jax.tree.map(lambda a: jnp.asarray(a, jnp.result_type(a)), problem.start)
        deviation = problem.scale if sigma is None or problem.space.is_free else sigma
        deviation = jnp.asarray(deviation, jnp.float32)
        with jax.numpy_rank_promotion("allow"):
            algorithm, values = rules(start, deviation)
            by_distribution = hasattr(algorithm, "get_mean")
            if by_distribution:
                inner = algorithm.init(key, start, values)
            else:  # of the right shapes; replaced when the first population is told
                size = algorithm.population_size
                population = jax.tree.map(lambda a: jnp.broadcast_to(a[None], (size, *a.shape)), start)
                inner = algorithm.init(key, population, jnp.zeros(size), values)
        inner = jax.tree.map(lambda a: jnp.asarray(a, jnp.result_type(a)), inner)
        lowest = jnp.full((), jnp.finfo(jnp.float32).min)
        return EvosaxState(inner, problem.space, start, deviation, lowest, jnp.asarray(by_distribution))

    def ask(key, state):
        key = untyped(key)
        with jax.numpy_rank_promotion("allow"):
            algorithm, values = rules(state.start, state.sigma)
            x, inner = algorithm.ask(key, state.inner, values)
        inner = like(inner, state.inner)
        if not hasattr(algorithm, "get_mean"):
            first = first_population(key, state, algorithm.population_size)
            x, inner = choose(state.begun, (x, inner), (first, state.inner))
        return like(x, state.start), state._replace(inner=inner)

    def tell(key, state, x, evaluation):
        key = untyped(key)
        value = evaluation.value.astype(jnp.float32)
        valid = jnp.isfinite(value)
        worst = jnp.maximum(state.worst, jnp.max(jnp.where(valid, value, -jnp.inf)))
        fitness = jnp.where(valid, value, above(worst))
        with jax.numpy_rank_promotion("allow"):
            algorithm, values = rules(state.start, state.sigma)
            inner = like(algorithm.tell(key, x, fitness, state.inner, values)[0], state.inner)
            if not hasattr(algorithm, "get_mean"):
                begun = like(algorithm.init(key, x, fitness, values), state.inner)
                inner = choose(state.begun, inner, begun)
        return state._replace(inner=inner, worst=worst, begun=jnp.ones_like(state.begun))

    return in_unit_cube(Optimizer(init, ask, tell))


def untyped(key: PRNGKeyArray) -> Array:
    """An old-style key: some algorithms use one key twice, which JAX's checks would refuse of a new-style one."""
    return jax.random.key_data(key)


def like(new: Any, old: Any) -> Any:
    """The same tree with the dtypes of another, none of them weak: state must not change its type."""
    return jax.tree.map(lambda a, b: jnp.asarray(a, jnp.result_type(b)), new, old)


def choose(condition: Bool[Array, ""], yes: Any, no: Any) -> Any:
    """One of two trees."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def above(worst: Float[Array, ""]) -> Float[Array, ""]:
    """A finite number above the worst value, if there is one; any number if nothing was finite yet."""
    largest = jnp.finfo(worst.dtype).max
    return jnp.where(worst == -largest, 0.0, jnp.minimum(worst + jnp.minimum(jnp.abs(worst), largest / 2) + 1, largest))
