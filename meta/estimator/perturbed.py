"""What es, pes and nres share: pairs of runs under perturbed meta-parameters, on the same task and randomness.

With noise e ~ N(0, I) and L the meta-loss of a run under theta + sigma e, `E[e L] / sigma` is the gradient of the
smoothed meta-loss `E[L(theta + sigma e)]`. No derivative of the optimizer or of the task is taken, so anything can
be meta-trained; and nothing is stored for a backward pass. The three estimators differ in two questions: when fresh
noise is drawn, and whether a run goes on from where its own perturbed meta-parameters led it.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt32
from pydantic import Field

from meta.estimator.base import Estimator, EstimatorConfig, InnerRun, Windows, nanmean, replace, successor

Noise = Literal["window", "run"]
Normalisation = Literal["none", "std", "rank"]
SHARED: Any = None
MEMBERS = InnerRun(key=SHARED, params=SHARED, state=0, carry=0, step=SHARED)  # the axes that a run's two members have


class Pair(NamedTuple):
    """Two runs of one task under two perturbations of theta.

    Attributes:
      run: `state` and `carry` have a leading axis of 2, the rest is shared.
      key: where the noise is drawn from, raw key data.
      noise: the noise, in units of sigma, accumulated over the windows of the run so far; without leaves when not
        needed.
    """

    run: InnerRun
    key: UInt32[Array, "2"]
    noise: Any


class PerturbedConfig(EstimatorConfig):
    """Fields that the perturbed estimators share.

    Attributes:
      unroll_length: updates in a window, at least 1; the whole horizon when left out. A window that reaches past the
        horizon is cut there.
      sigma: standard deviation of the noise on theta, positive. The gradient is that of the meta-loss smoothed by it.
      pairs: pairs of perturbed runs per task; those of one task share its randomness.
      antithetic: the two runs of a pair are perturbed in opposite directions; otherwise independently, which has a
        much larger variance.
      normalisation: of the meta-losses among the 2 * pairs runs of a task. "none" keeps the gradient's scale and is
        unbiased; "std" subtracts the mean and divides by the standard deviation; "rank" takes centred ranks in
        [-1/2, 1/2]. The latter two make tasks count alike, whatever the scale of their losses.
      stagger: start the runs at different phases, so that each batch covers the whole horizon.
    """

    unroll_length: int | None = Field(default=None, ge=1)
    sigma: float = Field(default=0.01, gt=0)
    pairs: int = Field(default=1, ge=1)
    antithetic: bool = True
    normalisation: Normalisation = "none"
    stagger: bool = True

    def estimator(self, learned, objective, horizon, tasks, axis, *, noise: Noise, persistent: bool) -> Estimator:
        """Build the estimator.

        Args:
          learned, objective, horizon, tasks, axis: see `EstimatorConfig.build`.
          noise: draw it afresh for every window or for every run.
          persistent: both runs of a pair go on from their own states; otherwise both start each window from the state
            that the first of them has reached.
        """
        runs_of = Windows(learned, objective, min(self.unroll_length or horizon, horizon))
        accumulates = persistent and noise == "window"

        def start(theta, key, noise_key, family) -> Pair:
            run = runs_of.start(theta, key, family)
            state, carry = jax.tree.map(lambda a: jnp.stack([a, a]), (run.state, run.carry))
            count = 1 if self.antithetic else 2
            accumulated = jax.tree.map(lambda a: jnp.zeros((count, *a.shape), a.dtype), theta) if accumulates else ()
            return Pair(run._replace(state=state, carry=carry), jax.random.key_data(noise_key), accumulated)

        def init(key, theta, family):
            run_key, noise_key = jax.random.split(key)
            run_keys = jnp.repeat(jax.random.split(run_key, tasks), self.pairs)
            noise_keys = jax.random.split(noise_key, tasks * self.pairs)
            state = jax.vmap(lambda k, n: start(theta, k, n, family))(run_keys, noise_keys)
            if not self.stagger:
                return state
            fractions = jnp.repeat(jnp.arange(tasks) / tasks, self.pairs)
            step = jax.vmap(lambda p, f: runs_of.phase(p, family, f))(state.run.params, fractions)
            return state._replace(run=state.run._replace(step=step))

        def draw(key, theta, step):
            """Noise for the members, leading axis 1 (antithetic) or 2."""
            key = jax.random.wrap_key_data(key)
            key = jax.random.fold_in(key, step if noise == "window" else 0)
            leaves, tree = jax.tree.flatten(theta)
            shape = (1,) if self.antithetic else (2,)
            return tree.unflatten(
                [
                    jax.random.normal(k, shape + leaf.shape, leaf.dtype)
                    for k, leaf in zip(jax.random.split(key, len(leaves)), leaves, strict=True)
                ]
            )

        def members(noise):
            return jax.tree.map(lambda e: jnp.concatenate([e, -e]), noise) if self.antithetic else noise

        def advance(theta, pair: Pair, family):
            drawn = draw(pair.key, theta, pair.run.step)
            thetas = jax.tree.map(lambda a, e: a[None] + self.sigma * e, theta, members(drawn))
            run, total, mean = jax.vmap(lambda t, r: runs_of.advance(t, r, family), (0, MEMBERS), (MEMBERS, 0, 0))(
                thetas, pair.run
            )
            if not persistent:
                first = jax.tree.map(lambda a: jnp.stack([a[0], a[0]]), (run.state, run.carry))
                run = run._replace(state=first[0], carry=first[1])
            summed = jax.tree.map(jnp.add, pair.noise, drawn) if accumulates else drawn
            return Pair(run, pair.key, summed if accumulates else ()), summed, total, mean

        def estimate(theta, state, family):
            due = jax.vmap(lambda run: runs_of.finished(run, family))(state.run)
            due = self._by_task(lambda due: jnp.broadcast_to(due.any(1, keepdims=True), due.shape), axis, due)

            def fresh():
                return jax.vmap(lambda k, n: start(theta, successor(k), successor(n), family))(state.run.key, state.key)

            state = replace(due, fresh, state)
            state, noise, total, mean = jax.vmap(lambda pair: advance(theta, pair, family))(state)
            finite = jnp.all(jnp.isfinite(total), axis=1)
            weight = self._weights(jnp.where(finite[:, None], total, 0.0), finite, axis)
            if self.antithetic:
                weight = weight[:, :1] - weight[:, 1:]
            scale = 1 / (2 * self.sigma * weight.shape[0])
            gradient = jax.tree.map(lambda e: scale * jnp.einsum("pm,pm...->...", weight.astype(e.dtype), e), noise)
            return gradient, state, nanmean(mean)

        return Estimator(init, estimate, tasks * self.pairs)

    def _weights(self, losses: Float[Array, "runs 2"], finite: Array, axis: str | None) -> Float[Array, "runs 2"]:
        """The losses, normalised among the runs of a task; a pair with a loss that is not finite weighs nothing."""
        if self.normalisation == "none":
            return losses
        scores = jax.vmap(std_scores if self.normalisation == "std" else rank_scores)
        return self._by_task(lambda losses, finite: scores(losses, finite[..., None]), axis, losses, finite)

    def _by_task(self, function: Callable[..., Array], axis: str | None, *values: Array) -> Array:
        """Apply a function of [tasks, pairs, ...] to values [runs, ...], also where a task lies on several devices."""
        count = values[0].shape[0]
        scattered = axis is not None and count % self.pairs > 0
        if scattered:
            values = jax.lax.all_gather(values, axis, tiled=True)
        out = function(*(value.reshape(-1, self.pairs, *value.shape[1:]) for value in values))
        out = out.reshape(-1, *out.shape[2:])
        return jax.lax.dynamic_slice_in_dim(out, jax.lax.axis_index(axis) * count, count) if scattered else out


def std_scores(losses: Float[Array, "pairs 2"], mask: Array) -> Float[Array, "pairs 2"]:
    """`(loss - mean) / std` among the finite pairs, zero for the others and where all losses are equal."""
    count = jnp.maximum(jnp.sum(mask), 1) * losses.shape[1]
    centred = jnp.where(mask, losses - jnp.sum(jnp.where(mask, losses, 0.0)) / count, 0.0)
    variance = jnp.sum(centred**2) / count
    spread = jnp.max(jnp.where(mask, losses, -jnp.inf)) > jnp.min(jnp.where(mask, losses, jnp.inf))
    return jnp.where(spread & (variance > 0), centred / jnp.sqrt(jnp.where(variance > 0, variance, 1.0)), 0.0)


def rank_scores(losses: Float[Array, "pairs 2"], mask: Array) -> Float[Array, "pairs 2"]:
    """Ranks among the finite pairs from -1/2 (best) to 1/2, ties in the middle; zero for the other pairs."""
    flat = jnp.where(mask, losses, jnp.inf).ravel()
    below = jnp.sum(flat[:, None] > flat[None, :], axis=1)
    ties = jnp.sum(flat[:, None] == flat[None, :], axis=1)
    count = jnp.maximum(jnp.sum(mask) * losses.shape[1] - 1, 1)
    ranks = (below + 0.5 * (ties - 1)) / count - 0.5
    return jnp.where(mask, ranks.reshape(losses.shape), 0.0)
