"""Which trial comes next: a draw from the policy, or the best of some candidates by an acquisition function.

Chen et al. 2022, section 4.3: candidates are drawn from the policy, and ranked by what the same network predicts of
their values. With `lookahead`, the best of them are ranked again by rolling the model forward: what it would find in so
many trials more (as Dery et al. 2022 plan).
"""

from typing import Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from l2o.core import Theta
from l2o.optformer.acquisition import Acquisition, score
from l2o.optformer.decoding import Context, EncodedStudy, Sampling, predict, propose, read, value_probabilities
from l2o.optformer.model import Network
from l2o.optformer.prompt import Range
from l2o.space.domain import Space
from l2o.space.moves import near

Source = Literal["prior", "random", "both", "near"]
LEADERS = 4  # of a study's trials, near which candidates are drawn
PLANNED = 8  # candidates that are rolled forward
ROLLS = 8  # times, each


class ChoiceRule(NamedTuple):
    """How the next trial is chosen.

    Attributes:
      acquisition: "none" for a draw from the policy.
      candidates: how many are ranked.
      source: where they come from: the policy ("prior"), uniformly from the space ("random"), half of them from each
        ("both"), or half of them from the space and the others from `near` the best trials ("near").
      sampling: of parameters.
      value_temperature: logits of values are divided by it.
      bins: of the unit interval.
      lookahead: trials that the best candidates are rolled forward.
    """

    acquisition: Acquisition | Literal["none"]
    candidates: int
    source: Source
    sampling: Sampling
    value_temperature: float
    bins: int
    lookahead: int = 0


def choose(
    network: Network, theta: Theta, study: EncodedStudy, context: Context, key: PRNGKeyArray, how: ChoiceRule,
    space: Space, scale: Range, seen: Int[Array, "t d"], valid: Bool[Array, "t"], share: Float[Array, "t"],
) -> Int[Array, "d"]:  # fmt: skip
    """The tokens of the next trial.

    Args:
      network: with theta.
      theta: meta-parameters.
      study: encoded.
      context: all trials, those in progress among them.
      key: of the randomness.
      how: to choose.
      space: mixed.
      scale: that values were scaled by.
      seen: tokens of trials that were made or are in progress; others are preferred by an acquisition function.
      valid: which of these count.
      share: values of these in the unit interval, +inf of those in progress and failed.
    """
    if how.acquisition == "none":
        return propose(network, theta, study, context, key, how.sampling)[0]
    draw_key, score_key, plan_key = jax.random.split(key, 3)
    # raw keys, because JAX's checker takes typed ones in a mapped loop for used again
    data, impl = jax.random.key_data(jax.random.split(draw_key, how.candidates)), jax.random.key_impl(key)

    def drawn(data):
        tokens, _, logits = propose(
            network, theta, study, context, jax.random.wrap_key_data(data, impl=impl), how.sampling
        )
        return tokens, logits

    def anywhere(data):
        tokens = space.to_tokens(space.sample(jax.random.wrap_key_data(data, impl=impl)), how.bins)
        return tokens, predict(network, theta, study, context, tokens)

    share = jnp.where(valid, share, jnp.inf)
    ranks = jax.lax.top_k(-share, min(LEADERS, share.size))[1]

    def around(data):
        which_key, near_key, free_key = jax.random.split(jax.random.wrap_key_data(data, impl=impl), 3)
        leader = ranks[jax.random.randint(which_key, (), 0, ranks.size)]
        point = near(near_key, space, space.from_tokens(seen[leader], how.bins))
        point = jnp.where(jnp.isfinite(share[leader]), point, space.sample(free_key))
        tokens = space.to_tokens(point, how.bins)
        return tokens, predict(network, theta, study, context, tokens)

    sources = {"prior": (drawn,), "random": (anywhere,), "both": (drawn, anywhere), "near": (around, anywhere)}
    makers = sources[how.source]
    split = zip(makers, jnp.array_split(data, len(makers)), strict=True)
    parts = [jax.vmap(make)(some) for make, some in split if some.shape[0]]
    tokens, logits = (jnp.concatenate(some) for some in zip(*parts, strict=True))
    probabilities = jax.vmap(lambda row: value_probabilities(row, how.bins, how.value_temperature))(logits)
    name = cast(Acquisition, how.acquisition)
    best = jnp.min(share)
    best = jnp.where(jnp.isfinite(best), best, 0.5)
    gain = improvements(scale, best, how.bins)
    scores = jax.vmap(lambda key, p: score(name, key, p, best, gain))(
        jax.random.split(score_key, how.candidates), probabilities
    )
    same = jnp.all(tokens[:, None] == seen[None], -1) & valid[None]
    scores = jnp.where(jnp.any(same, 1), jnp.min(scores) - 1.0, scores)
    if not how.lookahead:
        return tokens[jnp.argmax(scores)]
    ranked = jax.lax.top_k(scores, min(PLANNED, how.candidates))[1]
    few = tokens[ranked]
    plans = jax.random.key_data(jax.random.split(plan_key, (few.shape[0], ROLLS)))

    def found(tokens, data):
        return roll(network, theta, study, context, jax.random.wrap_key_data(data, impl=impl), how, tokens)

    least = jax.vmap(lambda tokens, rolls: jax.vmap(lambda data: found(tokens, data))(rolls))(few, plans)
    gains = jnp.mean(improvement(scale, best, least), 1)
    return few[jnp.argmax(jnp.where(jnp.any(same[ranked], 1), -1.0, gains))]


def improvements(scale: Range, best: Float[Array, ""], bins: int) -> Float[Array, "bins"]:
    """How far the middle of each bin is below the best value, in the metric's own units; 0 where it is not.

    Where there are no two values, units are those of the unit interval.
    """
    return improvement(scale, best, (jnp.arange(bins) + 0.5) / bins)


def improvement(scale: Range, best: Float[Array, ""], share: Float[Array, "..."]) -> Float[Array, "..."]:
    """How far places of the unit interval are below the best value, see `improvements`."""
    own = scale.value(best) - scale.value(share)
    return jnp.maximum(jnp.where(scale.span > 0, own, best - share), 0.0)


def roll(
    network: Network, theta: Theta, study: EncodedStudy, context: Context, key: PRNGKeyArray, how: ChoiceRule,
    tokens: Int[Array, "d"],
) -> Float[Array, ""]:  # fmt: skip
    """The least value, in the unit interval, of a trial and of `how.lookahead` more, as the model imagines them.

    The context must have room for `how.lookahead` trials.
    """

    def imagined(key, logits):
        p = value_probabilities(logits, how.bins, how.value_temperature)
        token = jax.random.categorical(key, jnp.log(jnp.maximum(p, 1e-30))).astype(jnp.int32)
        return token, jnp.where(token < how.bins, (token + 0.5) / how.bins, 1.0)

    impl = jax.random.key_impl(key)
    keys = jax.random.key_data(jax.random.split(key, (how.lookahead + 1, 2)))
    first = predict(network, theta, study, context, tokens)
    value, least = imagined(jax.random.wrap_key_data(keys[0, 0], impl=impl), first)

    def step(carry, keys):
        context, tokens, value, least = carry
        context = read(network, theta, study, context, jnp.append(tokens, value))
        propose_key, value_key = (jax.random.wrap_key_data(data, impl=impl) for data in keys)
        tokens, _, logits = propose(network, theta, study, context, propose_key, how.sampling)
        value, found = imagined(value_key, logits)
        return (context, tokens, value, jnp.minimum(least, found)), None

    (_, _, _, least), _ = jax.lax.scan(step, (context, tokens, value, least), keys[1:])
    return least
