"""OptFormer: a transformer that reads a tuning study and proposes as the algorithm it is prompted with would.

Chen et al. 2022, "Towards Learning Universal Hyperparameter Optimizers with Transformers". A study is a sequence of
tokens: what is known of it beforehand for an encoder, the parameters and the value of each trial for a decoder. One
network is both a policy, `P(x_t | metadata, trials before)`, and a model of the function, `P(y_t | ..., x_t)`. Prompted
with an algorithm's name it imitates that algorithm (their section 4.1).
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int
from pydantic import Field, model_validator

from l2o.core import LearnedOptimizer, Optimizer, OptimizerConfig, Problem, Theta, Trajectory
from l2o.optformer.acquisition import Acquisition
from l2o.optformer.choice import ChoiceRule, Source, choose
from l2o.optformer.decoding import Context, EncodedStudy, Sampling, begin, masked_log_softmax, read
from l2o.optformer.model import Network, Sizes, network
from l2o.optformer.prompt import Prompt, Range, reading, stripped
from l2o.optformer.vocabulary import Vocabulary
from l2o.record import Algorithm
from l2o.registry import register
from l2o.space.domain import Space
from l2o.wrappers.flat import flat_space, over_flat_points


class OptFormerState(NamedTuple):
    """What it has been told, and what the network has read of it.

    Attributes:
      space: a mixed one.
      study: encoded metadata, legal tokens and slots; encoded once.
      fixed: range of the values, if the prompt fixes it.
      points: tokens of the trials.
      values: of the trials as they were told.
      told: trials there are.
      open: tokens of the trials that were asked for and not told yet, the latest.
      opened: how many these are.
      context: what the decoder has read.
      fed: trials among that.
      range: that their values were scaled by.
    """

    space: Space
    study: EncodedStudy
    fixed: Range | None
    points: Int[Array, "t d"]
    values: Float[Array, "t"]
    told: Int[Array, ""]
    open: Int[Array, "p d"]
    opened: Int[Array, ""]
    context: Context
    fed: Int[Array, ""]
    range: Range


@register
class OptFormerConfig(OptimizerConfig):
    """OptFormer: proposes as the algorithm would that it is prompted with (Chen et al. 2022).

    Attributes:
      bins: of the unit interval, for parameters and for values.
      width: of the residual stream; a multiple of 8 times the heads.
      heads: of each attention.
      feedforward: width of the hidden layers.
      encoder_layers: for the metadata.
      decoder_layers: for the trials.
      dtype: of the arithmetic; meta-parameters are float32.
      max_trials: of which it remembers; when there are more, the oldest quarter is forgotten.
      algorithm: that it imitates.
      temperature: of sampling; 1 is the policy as it was learned.
      top_k: sample from so many of the likeliest tokens alone.
      nucleus: sample from the likeliest tokens alone that together have this probability.
      acquisition: "none" for a trial drawn from the policy; otherwise how candidates are ranked, see
        `l2o.optformer.acquisition`.
      candidates: how many are ranked.
      source: where they come from: the policy ("prior"), uniformly from the space ("random"), half from each ("both"),
        or half from the space and half from near the best trials ("near").
      value_temperature: of predicted values.
      lookahead: trials that the best candidates are rolled forward before one is chosen.
      max_pending: trials in progress that it sees, the latest.
    """

    kind: Literal["optformer"] = "optformer"
    bins: int = Field(default=256, ge=2, le=4096)
    width: int = Field(default=128, ge=8)
    heads: int = Field(default=4, ge=1)
    feedforward: int = Field(default=512, ge=1)
    encoder_layers: int = Field(default=1, ge=0)
    decoder_layers: int = Field(default=4, ge=1)
    dtype: Literal["float32", "bfloat16"] = "float32"
    max_trials: int = Field(default=40, ge=4, le=10_000)
    algorithm: Algorithm = "gp_ucb"
    temperature: float = Field(default=1.0, gt=0)
    top_k: int | None = Field(default=None, ge=1)
    nucleus: float | None = Field(default=None, gt=0, le=1)
    acquisition: Acquisition | Literal["none"] = "none"
    candidates: int = Field(default=64, ge=1, le=100_000)
    source: Source = "prior"
    value_temperature: float = Field(default=1.0, gt=0)
    lookahead: int = Field(default=0, ge=0, le=100)
    max_pending: int = Field(default=8, ge=1, le=1000)

    @model_validator(mode="after")
    def _check(self):
        if self.width % (8 * self.heads):
            raise ValueError(
                f"width must be a multiple of 8 times the heads, found {self.width} and {self.heads} heads"
            )
        if self.acquisition == "none" and self.lookahead:
            raise ValueError("lookahead ranks candidates, and with acquisition 'none' there are none: expected 0")
        return self

    @property
    def vocabulary(self) -> Vocabulary:
        """What its integers mean."""
        return Vocabulary(self.bins)

    @property
    def sampling(self) -> Sampling:
        """How its tokens are drawn."""
        return Sampling(self.temperature, self.top_k, self.nucleus)

    @property
    def choice(self) -> ChoiceRule:
        """How the next trial is chosen."""
        return ChoiceRule(
            self.acquisition, self.candidates, self.source, self.sampling, self.value_temperature, self.bins,
            self.lookahead,
        )  # fmt: skip

    @property
    def spare(self) -> int:
        """Trials that a context has room for, beside those that were told."""
        return self.max_pending + self.lookahead

    def network(self) -> Network:
        """The transformer."""
        v = self.vocabulary
        return network(
            Sizes(
                v.size, v.outputs, self.bins, self.width, self.heads, self.feedforward, self.encoder_layers,
                self.decoder_layers, self.dtype,
            )
        )  # fmt: skip

    def build(self) -> LearnedOptimizer:
        net = self.network()
        return LearnedOptimizer(
            init=net.init,
            bind=lambda theta: _optimizer(self, net, theta),
            log_prob=lambda theta, problem, trajectory: _log_prob(self, net, theta, problem, trajectory),
        )


def _prompt(config: OptFormerConfig, problem: Problem, space: Space) -> Prompt:
    given = problem.context
    prompt = given if isinstance(given, Prompt) else stripped(space, config.algorithm)
    return prompt._replace(token=jnp.where(prompt.token < 0, -1, prompt.token + config.bins))


def _log_prob(
    config: OptFormerConfig, net: Network, theta: Theta, problem: Problem, trajectory: Trajectory
) -> dict[str, Float[Array, "t"]]:
    """Log-probabilities of the parameters and of the value of each trial, given all that came before; 0 where masked.

    Values are scaled by the prompt's range, or by that of the whole trajectory. Only what may be at a place counts:
    tokens that are illegal there have probability 0. A value of -inf is that of a trial in progress, which has none.
    """
    v, space = config.vocabulary, flat_space(problem.space)
    prompt = _prompt(config, problem, space)
    trials, d = trajectory.mask.size, space.low.size
    values = trajectory.evaluation.value[:, 0]
    scaling = Range.of(values, trajectory.mask) if prompt.range is None else prompt.range
    flat = jax.vmap(lambda x: ravel_pytree(jax.tree.map(lambda a: a[0], x))[0])(trajectory.x)
    points = jax.vmap(lambda x: space.to_tokens(x, config.bins))(flat)
    parameters = jnp.asarray(d) if prompt.parameters is None else prompt.parameters
    grid = jnp.concatenate([points, scaling.tokens(values, v)[:, None]], 1)  # the value is in the last column

    def at(position):
        trial, place = position // (parameters + 1), position % (parameters + 1)
        trial = jnp.clip(trial, 0, trials - 1)
        return grid[trial, jnp.where(place < parameters, place, d)], place

    reads = trials * (d + 1) if prompt.reads is None else prompt.reads.size
    position = jnp.arange(reads)
    token, place = at(position)
    memory = net.encode(theta, prompt.token, prompt.slot)
    assert space.ordered is not None
    legal = space.sizes(config.bins)
    entries = reading(
        lambda position: at(position)[0], position - 1, v.word("start"), prompt.first, parameters, legal, space.ordered
    )
    logits, _ = net.decode(theta, entries, memory, ())
    sizes = jnp.where(place < parameters, legal[jnp.minimum(place, d - 1)], config.bins + 1)
    log_probs = masked_log_softmax(logits, sizes)[position, token]

    def of(trial, place):
        index = trial * (parameters + 1) + place
        return jnp.where((index < reads) & trajectory.mask[trial], log_probs[jnp.minimum(index, reads - 1)], 0.0)

    every = jnp.arange(trials)
    columns = jax.vmap(lambda place: jnp.where(place < parameters, of(every, place), 0.0))(jnp.arange(d))
    return {"x": jnp.sum(columns, 0), "y": jnp.where(values == -jnp.inf, 0.0, of(every, parameters))}


def _optimizer(config: OptFormerConfig, net: Network, theta: Theta) -> Optimizer:
    v, room = config.vocabulary, config.max_trials

    def init(key: Any, problem: Problem) -> OptFormerState:
        del key
        space = problem.space
        assert space.ordered is not None
        prompt = _prompt(config, problem, space)
        d, zero = space.low.size, jnp.zeros((), jnp.int32)
        study = EncodedStudy(
            net.encode(theta, prompt.token, prompt.slot), space.sizes(config.bins), space.ordered, prompt.first,
            jnp.full((), v.word("start"), jnp.int32),
        )  # fmt: skip
        tokens = jnp.zeros(room * (d + 1), jnp.int32)
        context = jax.eval_shape(lambda: begin(net, theta, study, tokens, zero, config.spare * (d + 1)))
        context = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), context)
        scaling = Range.of(jnp.zeros(1), jnp.zeros(1, bool))
        return OptFormerState(
            space, study, prompt.range, jnp.zeros((room, d), jnp.int32), jnp.full(room, jnp.nan, jnp.float32),
            zero, jnp.zeros((config.max_pending, d), jnp.int32), zero, context, zero - 1, scaling,
        )  # fmt: skip

    def trials_as_tokens(state: OptFormerState, scaling: Range) -> Int[Array, "t dy"]:
        return jnp.concatenate([state.points, scaling.tokens(state.values, v)[:, None]], 1)

    def again(state: OptFormerState, scaling: Range) -> OptFormerState:
        """Read everything, in one pass."""
        trials = trials_as_tokens(state, scaling)
        size = trials.shape[1]
        context = begin(net, theta, state.study, trials.reshape(-1), state.told * size, config.spare * size)
        return state._replace(context=context, fed=state.told, range=scaling)

    def further(state: OptFormerState, scaling: Range) -> OptFormerState:
        """Read the trials that are new, one by one."""
        trials = trials_as_tokens(state, scaling)

        def one(carry):
            context, fed = carry
            return read(net, theta, state.study, context, trials[fed]), fed + 1

        context, fed = jax.lax.while_loop(lambda carry: carry[1] < state.told, one, (state.context, state.fed))
        return state._replace(context=context, fed=fed)

    def with_open(state: OptFormerState) -> Context:
        """What was read, and then the trials in progress."""

        def one(carry):
            context, i = carry
            return read(net, theta, state.study, context, jnp.append(state.open[i], v.pending)), i + 1

        begun = state.context, jnp.zeros((), jnp.int32)
        return jax.lax.while_loop(lambda carry: carry[1] < state.opened, one, begun)[0]

    def append(rows: Int[Array, "p d"], count: Int[Array, ""], row: Int[Array, "d"]):
        """Rows with one more; the first one goes where they are full."""
        full = count == rows.shape[0]
        rows, count = jnp.where(full, jnp.roll(rows, -1, 0), rows), jnp.where(full, count - 1, count)
        return rows.at[count].set(row), count + 1

    def without(rows: Int[Array, "p d"], count: Int[Array, ""], row: Int[Array, "d"]):
        """Rows without the first one that is equal to this, if there is one."""
        places = jnp.arange(rows.shape[0])
        same = jnp.all(rows == row[None], 1) & (places < count)
        found, at = jnp.any(same), jnp.argmax(same)
        shifted = jnp.where((places >= at)[:, None], jnp.roll(rows, -1, 0), rows)
        return jnp.where(found, shifted, rows), count - found

    def ask(key, state: OptFormerState):
        scaling = state.fixed
        if scaling is None:
            scaling = Range.of(state.values, jnp.arange(room) < state.told)
        # the median is that of when the last extreme came: it would change with almost every trial
        extreme = (scaling.anchor != state.range.anchor) | (scaling.span != state.range.span) | (state.fed < 0)
        scaling = jax.tree.map(lambda new, old: jnp.where(extreme, new, old), scaling, state.range)

        # a loop of at most one round, not a cond: that gave wrong logits, mapped over runs under jit (JAX 0.10.2, CPU)
        def once(carry):
            return jnp.zeros_like(extreme), again(carry[1], scaling)

        _, state = jax.lax.while_loop(lambda carry: carry[0], once, (extreme, state))
        state = further(state, scaling)
        told = jnp.where(jnp.isfinite(state.values), scaling.share(state.values), jnp.inf)
        share = jnp.concatenate([jnp.full(config.max_pending, jnp.inf), told])
        seen = jnp.concatenate([state.open, state.points])  # the trials in progress first, as their number varies less
        valid = jnp.concatenate([jnp.arange(config.max_pending) < state.opened, jnp.arange(room) < state.told])
        tokens = choose(
            net, theta, state.study, with_open(state), key, config.choice, state.space, scaling, seen, valid, share
        )  # fmt: skip
        rows, count = append(state.open, state.opened, tokens)
        return state.space.from_tokens(tokens, config.bins)[None], state._replace(open=rows, opened=count)

    def tell(key, state: OptFormerState, x: Float[Array, "n d"], evaluation):
        del key
        points = jax.vmap(lambda point: state.space.to_tokens(point, config.bins))(x)

        def insert(state: OptFormerState, told):
            point, value = told
            rows, count = without(state.open, state.opened, point)
            state = state._replace(open=rows, opened=count)
            full = state.told == room
            away = jnp.where(full, max(room // 4, 1), 0)
            state = state._replace(
                points=jnp.roll(state.points, -away, 0), values=jnp.roll(state.values, -away, 0),
                told=state.told - away, fed=jnp.where(full, -1, state.fed),
            )  # fmt: skip
            return state._replace(
                points=state.points.at[state.told].set(point), values=state.values.at[state.told].set(value),
                told=state.told + 1,
            ), None  # fmt: skip

        value = evaluation.value.astype(jnp.float32)
        return jax.lax.scan(insert, state, (points, jnp.where(jnp.isfinite(value), value, jnp.nan)))[0]

    return over_flat_points(config.kind, Optimizer(init, ask, tell))
