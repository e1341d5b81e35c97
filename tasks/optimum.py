"""Minima of black-box tasks whose minimum nobody knows: multi-start L-BFGS-B, for the judge of a study."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import PRNGKeyArray

from tasks.family import Params, TaskFamily

WALL = 1e30


def minima(
    family: TaskFamily, params: Params, key: PRNGKeyArray, *, candidates: int = 4096, starts: int = 64
) -> np.ndarray:
    """About the lowest value of each task in its box.

    L-BFGS-B (Byrd et al. 1995, from scipy) in the unit cube, from the best of many random points. It sees the function
    without noise where the task tells a judge what that is, in `info["value"]`.

    Args:
      family: where the tasks come from; they are boxes.
      params: of the tasks, with a leading axis.
      key: decides the random points.
      candidates: random points for each task.
      starts: how many of them a descent begins at.

    Returns:
      [tasks]; infinite where not one value was finite.
    """
    from scipy.optimize import minimize
    from threadpoolctl import threadpool_limits  # comes with scikit-learn

    noise_key, points_key = jax.random.split(key)
    noise = jax.random.key_data(noise_key)

    def value(params, u):
        task = family.task(params)
        x = task.problem.space.from_unit(ravel_pytree(task.problem.start)[1](u))
        if "value" in task.info:
            return task.info["value"](x)
        return task.evaluate(jax.random.wrap_key_data(noise), jax.tree.map(lambda a: a[None], x)).value[0]

    def best(params, points):
        values = jax.vmap(lambda u: value(params, u))(points)
        values = jnp.where(jnp.isfinite(values), values, jnp.inf)
        order = jnp.argsort(values)[:starts]
        return points[order], values[order]

    value_and_slope, best = jax.jit(jax.value_and_grad(value, argnums=1)), jax.jit(best)
    found = []
    for i, one_key in enumerate(jax.random.split(points_key, jax.tree.leaves(params)[0].shape[0])):
        one = jax.tree.map(lambda a, i=i: a[i], params)
        size = ravel_pytree(family.task(one).problem.start)[0].size
        points, values = best(one, jax.random.uniform(one_key, (candidates, size)))

        def objective(u, one=one, size=size):
            y, slope = value_and_slope(one, jnp.asarray(u, jnp.float32))
            usable = np.isfinite(y) and np.isfinite(slope).all()  # elsewhere a wall, which a line search avoids
            return (float(y), np.asarray(slope, np.float64)) if usable else (WALL, np.zeros(size))

        with threadpool_limits(1, "blas"):  # threads for 6 x 6 matrices wait for each other: 10 times as slow
            ends = [minimize(objective, u, jac=True, method="L-BFGS-B", bounds=[(0, 1)] * size).fun
                    for u in np.asarray(points, np.float64)]  # fmt: skip
        found.append(min([float(values[0]), *(y for y in ends if y < WALL)]))
    return np.array(found)
