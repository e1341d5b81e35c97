"""An average of the iterates beside an optax transformation, to read out of a run whose end nobody knows."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from l2o.errors import UserError


class AveragedState(NamedTuple):
    """State of `averaged`.

    Attributes:
      count: updates made.
      average: average of the parameters after each update, like them; at first they themselves.
      inner: state of the transformation.
    """

    count: Any
    average: Any
    inner: Any


def averaged(tx: optax.GradientTransformation, power: float = 8.0) -> optax.GradientTransformationExtraArgs:
    """The same updates, and an average of the parameters in which late ones count most.

    The parameters after update t have a weight of about `t^power`, so that the average looks back on the last part of
    the run, whenever that ends (Shamir and Zhang 2013, polynomial-decay averaging). It is meant for steps
    that do not fall. Read it with `l2o.average_of(state)`. It takes the memory of the parameters once more.

    Args:
      tx: any transformation; its `update` gets the parameters and what extra arguments there are.
      power: 0 for the mean of all iterates; not negative.

    >>> import jax.numpy as jnp, l2o
    >>> tx = averaged(l2o.polar())
    >>> state = tx.init({"w": jnp.ones((3, 2))})
    """
    inner = optax.with_extra_args_support(tx)

    def init(params):
        return AveragedState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.asarray, params), inner.init(params))

    def update(updates, state, params=None, **extra):
        if params is None:
            raise ValueError("averaged needs the parameters: tx.update(updates, state, params)")
        updates, after = inner.update(updates, state.inner, params, **extra)
        count = optax.safe_increment(state.count)
        share = (1 + power) / (count + power)

        def closer(mean, new):
            if not jnp.issubdtype(jnp.result_type(mean), jnp.inexact):
                return jnp.asarray(new, jnp.result_type(mean))
            return (mean + share * (new - mean)).astype(jnp.result_type(mean))

        average = jax.tree.map(closer, state.average, optax.apply_updates(params, updates))
        return updates, AveragedState(count, average, after)

    return optax.GradientTransformationExtraArgs(init, update)


def average_of(state: Any) -> Any:
    """The average in a state of `averaged`, which may lie inside of another one, such as that of `optax.chain`.

    Raises:
      UserError: there is none, or more than one.
    """

    def is_one(node):
        return isinstance(node, AveragedState)

    found = [node for node in jax.tree.leaves(state, is_leaf=is_one) if is_one(node)]
    if len(found) != 1:
        raise UserError(f"the state holds {len(found)} averages of iterates, expected one, of l2o.averaged")
    return found[0].average
