"""Trained optimizers that are ready for use: those that are shipped, by name, and one's own from a directory."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from pydantic import ValidationError

from l2o.artifact import read, reason
from l2o.core import LearnedOptimizer, Optimizer, OptimizerConfig, Theta
from l2o.errors import UserError
from l2o.files import exists
from l2o.lift.optax import decayed
from l2o.registry import nearest
from l2o.space.domain import Space, X
from l2o.surrogate.prediction import Prediction
from l2o.wrappers.flat import flat_space

ZOO = Path(__file__).parent / "zoo"


@dataclass(frozen=True)
class Loaded:
    """A trained optimizer.

    Attributes:
      config: the architecture's configuration.
      theta: the meta-parameters.
      provenance: how it was made: config, command, seed, cost, held-out scores, licence.
      check: the stored output of `five_steps`.
      sha256: checksum of the meta-parameters' file.
    """

    config: OptimizerConfig
    theta: Theta
    provenance: dict[str, Any]
    check: list[float | None]
    sha256: str

    @cached_property
    def learned(self) -> LearnedOptimizer:
        """The architecture."""
        return self.config.build()

    @property
    def fingerprint(self) -> str:
        """What tells it from others: `sha256`, and if settings were changed after the training, one of both."""
        changed = self.provenance.get("configured")
        if not changed:
            return self.sha256
        return hashlib.sha256((self.sha256 + json.dumps(changed, sort_keys=True)).encode()).hexdigest()

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer with its trained meta-parameters bound."""
        return self.learned.bind(self.theta)

    def configured(self, **changes: Any) -> "Loaded":
        """The same meta-parameters with other settings, such as `algorithm="hill_climbing"` of an optformer.

        Raises:
          UserError: there is no such setting, it does not take that value, or the meta-parameters do not fit it.
        """
        kind = type(self.config)
        try:
            config = kind.model_validate(self.config.model_dump() | changes)
        except ValidationError as error:
            wrong = reason(error)
            known = ", ".join(name for name in kind.model_fields if name != "kind")
            raise UserError(f"{self.config.kind} cannot be configured so: {wrong}; its settings are {known}") from None
        expected = jax.eval_shape(config.build().init, jax.random.key(0))
        if jax.tree.map(jnp.shape, expected) != jax.tree.map(jnp.shape, self.theta):
            raise UserError(
                f"{self.config.kind} cannot be configured so: its meta-parameters have the shapes of {self.config!r}"
            )
        return replace(self, config=config)

    def optax(
        self,
        horizon: int | None = None,
        *,
        weight_decay: float = 0.0,
        max_norm: float | None = None,
        label: Any = None,
    ) -> optax.GradientTransformationExtraArgs:
        """An ordinary optax transformation.

        Args:
          horizon: number of steps the run will have, for optimizers that read it; at least 1. May be traced.
          weight_decay: the share of every leaf of two axes or more that an update takes away, beside what the optimizer
            does (decoupled, as in AdamW, where it is the product of rate and decay: 1e-4 is usual). With a horizon it
            rises over a twentieth of the run and falls as a cosine. Not negative.
          max_norm: gradients whose norm over all leaves is larger are made this long first; positive.
          label: roles of leaves, for optimizers that read them: a tree of "matrix", "head", "embedding", "vector" or
            None, whose leaves may stand for whole branches of the parameters, or a function from the parameters to it.
            Names, as haiku, flax and equinox give them, tell of the others.

        Raises:
          TypeError: the family does not read gradients.
          UserError: the horizon is not a whole number or is below 1, or another number is out of range. `tx.update`
            raises it for a `value` that holds no number; of several, the mean counts. `tx.init` raises it for a label
            that is no role or does not fit the parameters.
        """
        if self.learned.native is None:
            raise TypeError(f"a {self.config.kind!r} optimizer does not read gradients, so it has no optax form")
        if not 0 <= weight_decay < 1:
            raise UserError(f"weight_decay is {weight_decay!r}: expected a share of at least 0 and below 1")
        if max_norm is not None and not max_norm > 0:
            raise UserError(f"max_norm is {max_norm!r}: expected a positive number, or None")
        tx = self.learned.native(self.theta, horizon, label)
        if max_norm is not None:
            tx = optax.chain(optax.clip_by_global_norm(max_norm), tx)
        return decayed(tx, weight_decay, horizon) if weight_decay else tx

    def predict(self, x: Any, y: Any, queries: Any, space: Space | None = None) -> Prediction:
        """What is believed of the values at other points, given some that are known.

        Args:
          x: points that were evaluated, [n, d]; n may be 0.
          y: their values, [n]; those that are not finite are failed evaluations.
          queries: points that are asked for, [m, d].
          space: that they are points of, with lower and upper bounds; None for the unit cube.

        Returns:
          A distribution for each query, with `mean`, `variance`, `quantile(q)`, `log_prob(y)`, `cdf(y)`, `sample(key)`,
          `expected_improvement(best)`, its logarithm, `probability_of_improvement(best)` and `confidence_bound(beta)`.

        Raises:
          TypeError: the family does not predict.
          UserError: shapes that do not fit, or a point outside of the space.
        """
        surrogate = self.learned.surrogate
        if surrogate is None:
            raise TypeError(f"a {self.config.kind!r} optimizer does not predict values")
        x, y, queries = (jnp.asarray(a, jnp.float32) for a in (x, y, queries))
        if queries.ndim != 2 or x.shape != (*y.shape, queries.shape[1]) or y.ndim != 1:
            raise UserError(
                f"x, y and queries have shapes {x.shape}, {y.shape}, {queries.shape}: expected [n, d], [n] and [m, d]"
            )
        d = queries.shape[1]
        space = flat_space(space or Space.box(jnp.zeros(d), jnp.ones(d)))
        for name, points in (("x", x), ("queries", queries)):
            inside = np.asarray(jax.vmap(space.contains)(points))
            if not inside.all():
                raise UserError(f"{name}[{int(np.argmin(inside))}] is no point of the space")
        told, asked = jax.vmap(space.to_unit)(x), jax.vmap(space.to_unit)(queries)
        return _predict(surrogate, self.theta, told, y, space.ordered, asked)

    def evosax(self, solution: X, population_size: int | None = None, **options: Any) -> Any:
        """An evosax algorithm, with the `init`, `ask` and `tell` of evosax; `params.params` is theta.

        A strategy that samples around a mean is begun with `init(key, mean, params)`, one that keeps a population with
        `init(key, population, fitness, params)`.

        Args:
          solution: a point, whose values do not matter.
          population_size: members of each generation; None for the config's.
          options: `fitness_shaping_fn` and `metrics_fn`, as evosax's algorithms take them.

        Raises:
          TypeError: the family does not ask for a population at a time.
          UserError: a population of fewer than two.
        """
        from l2o.interop.evosax import to_evosax

        return to_evosax(self.config, self.theta, solution, population_size, **options)


@partial(jax.jit, static_argnums=0)
def _predict(surrogate, theta, x, y, ordered, queries):
    """Of points of the unit cube; those that are known are filled up, so that few numbers of them need a program."""
    room = max(8, 1 << (len(y) - 1).bit_length()) - len(y)
    used = jnp.arange(len(y) + room) < len(y)
    belief = surrogate.read(theta, jnp.pad(x, ((0, room), (0, 0))), jnp.pad(y, (0, room)), used, ordered)
    return surrogate.predict(theta, belief, queries)


def names() -> list[str]:
    """Names of the shipped optimizers."""
    return sorted(path.parent.name for path in ZOO.glob("*/optimizer.json"))


def load(name_or_dir: str | Path = "learned_polar", also: Sequence[str] = ()) -> Loaded:
    """Load a shipped optimizer by name, or one of your own from a directory.

    Args:
      name_or_dir: a name that `l2o list` shows, a run directory, or an artifact directory; by default the gradient
        optimizer that does best on networks of other kinds than those of its training.
      also: other names that a caller accepts, for the message.

    Raises:
      UserError: no such optimizer (the message lists the names that exist), or a file that is missing, damaged,
        truncated, foreign, or of a newer format.

    >>> import l2o
    >>> tx = l2o.load("lstm").optax()
    """
    if not isinstance(name_or_dir, str | os.PathLike):
        raise UserError(f"an optimizer is named by a text or a path, found {name_or_dir!r}")
    path = Path(name_or_dir)
    if isinstance(name_or_dir, str) and name_or_dir in names():
        path = ZOO / name_or_dir
    elif not exists(path):
        known = [*names(), *also] or ["none"]
        hint = nearest(name_or_dir, known)
        raise UserError(
            f"no optimizer named {str(name_or_dir)!r}{hint}: expected a directory or one of {', '.join(known)}"
        )
    return Loaded(*read(path))
