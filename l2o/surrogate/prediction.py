"""What is believed of values at other points: the interface of surrogates, `y_{t+1} = f(x_{t+1}; x_{1:t}, y_{1:t})`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from l2o.surrogate.buckets import Buckets


class Units(NamedTuple):
    """Values are read as `(y - shift) / scale`."""

    shift: Float[Array, "*m"]
    scale: Float[Array, "*m"]


class Prediction(NamedTuple):
    """The distribution of the value at each of m points; all that it is asked for is in closed form.

    Attributes:
      logits: of the buckets.
      buckets: where they are, in units of each point.
      units: of each point.
    """

    logits: Float[Array, "m buckets"]
    buckets: Buckets
    units: Units

    @property
    def mean(self) -> Float[Array, "m"]:
        """The expected value."""
        return self.units.shift + self.units.scale * self.buckets.mean(self.logits)

    @property
    def variance(self) -> Float[Array, "m"]:
        """Of the value."""
        return self.units.scale**2 * self.buckets.variance(self.logits)

    def quantile(self, q: Float[Array, "*m"] | float) -> Float[Array, "m"]:
        """The value that is not exceeded with probability q, strictly between 0 and 1."""
        return self.units.shift + self.units.scale * self.buckets.quantile(self.logits, q)

    def log_prob(self, y: Float[Array, "m"]) -> Float[Array, "m"]:
        """The logarithm of the density."""
        return self.buckets.log_prob(self.logits, self._read(y)) - jnp.log(self.units.scale)

    def cdf(self, y: Float[Array, "*m"] | float) -> Float[Array, "m"]:
        """The probability that the value is at most y."""
        return self.buckets.cdf(self.logits, self._read(y))

    def sample(self, key: PRNGKeyArray) -> Float[Array, "m"]:
        """A value for each point, each for itself."""
        return self.units.shift + self.units.scale * self.buckets.sample(key, self.logits)

    def expected_improvement(self, best: Float[Array, "*m"] | float) -> Float[Array, "m"]:
        """`E max(best - y, 0)`."""
        return jnp.exp(self.log_expected_improvement(best))

    def log_expected_improvement(self, best: Float[Array, "*m"] | float) -> Float[Array, "m"]:
        """Its logarithm, which tells points apart where the improvement itself is 0 in single precision."""
        return self.buckets.log_expected_improvement(self.logits, self._read(best)) + jnp.log(self.units.scale)

    def probability_of_improvement(self, best: Float[Array, "*m"] | float) -> Float[Array, "m"]:
        """The probability of a value below `best`."""
        return self.cdf(best)

    def confidence_bound(self, beta: float) -> Float[Array, "m"]:
        """The lower one, `mean - sqrt(beta) deviation`."""
        return self.mean - beta**0.5 * jnp.sqrt(self.variance)

    def _read(self, y: Any) -> Array:
        return jnp.broadcast_to((jnp.asarray(y) - self.units.shift) / self.units.scale, self.logits.shape[:-1])


class Surrogate(NamedTuple):
    """Predictions of values from a set of observations: pure functions, fit for jit, vmap and grad.

    Attributes:
      read: `(theta, x [n, d], y [n], used [n], ordered [d]) -> belief`, a pytree. Points are of the unit cube; values
        that are not finite are failures; rows that are not in use are not read; parameters that are not ordered are
        categories.
      predict: `(theta, belief, x [m, d]) -> Prediction`; a point does not change what is said of another.
      sketch: the same, faster and less well, for the search of points that are worth predicting; None for those that
        have none.
    """

    read: Callable[..., Any]
    predict: Callable[[Any, Any, Float[Array, "m d"]], Prediction]
    sketch: Callable[[Any, Any, Float[Array, "m d"]], Prediction] | None = None


def units_of(y: Float[Array, "n"], used: Bool[Array, "n"]) -> Units:
    """Mean and standard deviation of the rows in use; a deviation of 1 where there is no difference between values."""
    count = jnp.maximum(jnp.sum(used), 1)
    mean = jnp.sum(jnp.where(used, y, 0.0)) / count
    centred = jnp.where(used, y - mean, 0.0)
    most = jnp.max(jnp.abs(centred))
    deviation = most * jnp.sqrt(jnp.sum((centred / jnp.maximum(most, 1e-30)) ** 2) / count)
    return Units(mean, jnp.where(deviation > 1e-7 * jnp.maximum(jnp.abs(mean), 1e-20), deviation, 1.0))
