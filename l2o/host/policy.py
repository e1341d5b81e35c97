"""Suggestions and predictions of a trained OptFormer for studies of named parameters, on the host.

A policy keeps nothing between calls: all that it knows is in the record that it is given. So it serves any number of
studies, whose trials may come from anywhere and in any order.
"""

import dataclasses
import functools
import math
import sys
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from l2o.errors import UserError
from l2o.host.view import NamedView
from l2o.loaded import Loaded
from l2o.optformer.choice import choose
from l2o.optformer.decoding import EncodedStudy, begin, predict, value_probabilities
from l2o.optformer.optformer import OptFormerConfig
from l2o.optformer.prompt import Prompt, Range, prompt
from l2o.record import Record
from l2o.space.domain import Space

STEP = 64  # lengths of metadata are rounded up to a multiple of this, so that few programs are compiled
GREATEST = 1e36  # of values that are read; ten times that is a number in single precision, too
DRAWS = 32  # attempts at a suggestion that is different from others


class Prediction(NamedTuple):
    """What the value of an assignment may be, in the metric's own units.

    Attributes:
      edges: of the bins, increasing.
      probabilities: of each bin, if the evaluation succeeds.
      failure: probability that it fails.
    """

    edges: Float[np.ndarray, "bins+1"]
    probabilities: Float[np.ndarray, "bins"]
    failure: float

    def mean(self) -> float:
        """The expected value, each bin counting with its middle."""
        return float(self.probabilities @ (self.edges[1:] + self.edges[:-1]) / 2)

    def quantile(self, q: float) -> float:
        """The value that is not exceeded with probability q, linear within a bin.

        Raises:
          UserError: q is none.
        """
        if not 0 <= q <= 1:
            raise UserError(f"a quantile is {q!r}: expected a number from 0 to 1")
        return float(np.interp(q, np.append(0.0, np.cumsum(self.probabilities)), self.edges))


class _History(NamedTuple):
    """Trials as a network reads them.

    Attributes:
      tokens: [max_trials + max_pending, d + 1], those in use first.
      used: trials in use.
      seen: tokens of the study's own trials, of the same shape but for values.
      valid: which of these count.
      share: values of these in the unit interval, +inf of those in progress and failed.
      scale: of the study's own values, as `_in_units` has them.
      least: of these, minimised.
      unit: of these.
    """

    tokens: np.ndarray
    used: int
    seen: np.ndarray
    valid: np.ndarray
    share: np.ndarray
    scale: Range
    least: float
    unit: float


class Policy:
    """What a trained OptFormer would try next in a study, and what it expects.

    Args:
      loaded: of kind "optformer"; its config says how trials are chosen, see `l2o.Loaded.configured`.

    Raises:
      UserError: it is of another kind.

    >>> import l2o
    >>> space = l2o.SearchSpace.from_dict({"lr": (0.0, 1.0), "optimizer": ["sgd", "adam"]})
    >>> l2o.Policy(l2o.load("optformer")).suggest(l2o.Record(space), seed=0)[0].keys()
    dict_keys(['lr', 'optimizer'])
    """

    def __init__(self, loaded: Loaded):
        if not isinstance(loaded.config, OptFormerConfig):
            raise UserError(f"a policy is a trained optimizer of kind 'optformer', found kind {loaded.config.kind!r}")
        self.config, self.theta = loaded.config, loaded.theta
        # a frozen model is hashable, which its type does not say
        self._choose, self._predict = _programs(cast(Hashable, loaded.config))

    def suggest(
        self, record: Record, count: int = 1, *, seed: int = 0, earlier: Sequence[Record] = ()
    ) -> list[dict[str, Any]]:
        """Assignments to try next.

        Args:
          record: the study so far. Of more than `max_trials` trials, the best and the latest are read.
          count: how many. They differ from each other and from trials in progress, where the space has so many values.
          seed: with the record, decides all randomness.
          earlier: studies of the same space, whose trials are read before the record's own as if they had been made
            in it, each scaled by its own study's range.

        Raises:
          UserError: more parameters than the network reads, or an earlier study of another space.
        """
        space, about = record.space, self._metadata(record)
        key = jax.random.fold_in(jax.random.key(seed), len(record.trials))
        pending = [trial.parameters for trial in record.trials if trial.state == "pending"]
        before = self._earlier_rows(record, earlier)
        found: list[dict[str, Any]] = []
        for number in range(count):
            tokens: list[int] = []
            taken = [space.to_tokens(parameters, self.config.bins) for parameters in [*pending, *found]]
            history = self._history(record, before, taken)
            base = jax.random.fold_in(key, number)
            for attempt in range(2 * DRAWS):
                draw = jax.random.fold_in(base, attempt)
                if attempt < DRAWS:
                    tokens = np.asarray(
                        self._choose(
                            self.theta, *about, history.tokens, history.used, history.scale, history.seen,
                            history.valid, history.share, draw,
                        )
                    ).tolist()  # fmt: skip
                else:  # the policy insists: somewhere else
                    tokens = np.asarray(about[1].to_tokens(about[1].sample(draw), self.config.bins)).tolist()
                if tokens not in taken:
                    break
            found.append(space.from_tokens(tokens, self.config.bins))
        return found

    def predict(
        self, record: Record, assignments: Sequence[dict[str, Any]], *, earlier: Sequence[Record] = ()
    ) -> list[Prediction]:
        """What the values of assignments may be, each as if it were the next trial.

        Raises:
          UserError: the study has no two different values yet, from which to tell its units.
        """
        about = self._metadata(record)
        pending = [t.parameters for t in record.trials if t.state == "pending"]
        taken = [record.space.to_tokens(parameters, self.config.bins) for parameters in pending]
        history = self._history(record, self._earlier_rows(record, earlier), taken)
        if not float(history.scale.span) > 0:
            raise UserError("a prediction needs a study with two different values, from which to tell its units")
        points = np.array([record.space.to_tokens(a, self.config.bins) for a in assignments], np.int32)
        points = points.reshape(-1, len(record.space))
        padded = np.concatenate([points, np.repeat(points[:1], -len(points) % STEP, 0)])
        found = np.asarray(self._predict(self.theta, *about, history.tokens, history.used, padded))[: len(points)]
        edges = np.asarray(history.scale.value(jnp.linspace(0.0, 1.0, self.config.bins + 1)), np.float64)
        edges, flip = edges * history.unit + history.least, record.goal == "maximize"
        predictions = []
        for row in found.astype(np.float64):
            shares = row[:-1] / max(row[:-1].sum(), np.finfo(np.float64).tiny)
            if flip:
                predictions.append(Prediction(-edges[::-1], shares[::-1], float(row[-1])))
            else:
                predictions.append(Prediction(edges, shares, float(row[-1])))
        return predictions

    def _metadata(self, record: Record) -> tuple[Prompt, Space]:
        """The metadata, padded, and the space."""
        named = dataclasses.replace(record, algorithm=self.config.algorithm, trials=())
        short = prompt(named)
        return prompt(named, -(-short.token.size // STEP) * STEP), NamedView(record.space).space

    def _earlier_rows(self, record: Record, earlier: Sequence[Record]) -> list[list[int]]:
        """Tokens of the trials of earlier studies."""
        rows: list[list[int]] = []
        own = sum(trial.state != "pending" for trial in record.trials)
        room = max(self.config.max_trials - max(own, self.config.max_trials // 4), 0)
        for i, other in enumerate(earlier):
            if other.space.to_dict() != record.space.to_dict():
                raise UserError(f"earlier study {i} has another search space: expected that of the study")
            other = dataclasses.replace(other, space=record.space)  # the same parameters may be in another order
            share = room // len(earlier) + (i < room % len(earlier))
            points, values = self._finished(other)
            narrow, _, _ = _in_units(values)
            tokens = np.asarray(_range(narrow).tokens(narrow, self.config.vocabulary))
            rows += [[*points[j], int(tokens[j])] for j in trials_to_read(values, share)]
        return rows

    def _finished(self, record: Record) -> tuple[list[list[int]], np.ndarray]:
        """Tokens and minimised values of the trials that are not in progress; NaN for failed ones."""
        done = [trial for trial in record.trials if trial.state != "pending"]
        sign = -1.0 if record.goal == "maximize" else 1.0
        points = [record.space.to_tokens(trial.parameters, self.config.bins) for trial in done]
        values = [math.nan if trial.value is None else sign * trial.value for trial in done]
        return points, np.array(values, np.float64)

    def _history(self, record: Record, before: list[list[int]], taken: list[list[int]]) -> _History:
        c, d = self.config, len(record.space)
        points, values = self._finished(record)
        narrow, least, unit = _in_units(values)
        scale = _range(narrow)
        tokens = np.asarray(scale.tokens(narrow, c.vocabulary))
        kept = trials_to_read(values, c.max_trials - len(before))
        own = [[*points[j], int(tokens[j])] for j in kept]
        rows = [*before, *own, *([*row, c.vocabulary.pending] for row in taken[-c.max_pending :])]
        grid = np.zeros((c.max_trials + c.max_pending, d + 1), np.int32)
        grid[: len(rows)] = np.array(rows, np.int32).reshape(-1, d + 1)
        valid = (np.arange(len(grid)) >= len(before)) & (np.arange(len(grid)) < len(rows))
        finite = np.isfinite(values)
        shares = np.where(finite, np.asarray(scale.share(narrow))[: values.size], np.inf)
        share = np.full(len(grid), np.inf, np.float32)
        share[len(before) : len(before) + len(own)] = shares[kept]
        return _History(grid, len(rows), grid[:, :d], valid, share, scale, least, unit)


def _in_units(values: np.ndarray) -> tuple[jax.Array, float, float]:
    """Values in single precision, less the least one and in units of their median's distance from it; and both.

    What is too far away for single precision becomes `GREATEST`.
    """
    finite = values[np.isfinite(values)]
    padded = np.full(-(-max(values.size, 1) // STEP) * STEP, np.nan)
    least, unit = float(np.min(finite)) if finite.size else 0.0, 1.0
    with np.errstate(over="ignore"):
        above = np.minimum(values - least, sys.float_info.max)
        apart = np.sort(above[np.isfinite(values) & (above > 0)])
        if apart.size:
            unit = float(apart[(apart.size - 1) // 2])
        padded[: values.size] = np.where(np.isfinite(values), np.minimum(above / unit, GREATEST), values)
    return jnp.asarray(padded, jnp.float32), least, unit


_range = jax.jit(lambda less: Range.of(less, jnp.isfinite(less)))


def trials_to_read(values: np.ndarray, room: int) -> list[int]:
    """Which trials are read where there are more than `room`: the better half from all, and the latest."""
    if values.size <= room:
        return list(range(values.size))
    ranked = np.argsort(np.where(np.isfinite(values), values, np.inf), kind="stable")
    best = set(ranked[: room // 2].tolist())
    latest = [i for i in reversed(range(values.size)) if i not in best][: room - len(best)]
    return sorted([*best, *latest])


@functools.cache
def _programs(config: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Compiled once for each number of parameters and rounded length of metadata."""
    net = config.network()

    def encoded(theta, prompt: Prompt, space: Space, tokens, count, spare):
        assert space.ordered is not None
        token = jnp.where(prompt.token < 0, -1, prompt.token + config.bins)
        start = jnp.full((), config.vocabulary.word("start"), jnp.int32)
        study = EncodedStudy(
            net.encode(theta, token, prompt.slot), space.sizes(config.bins), space.ordered, prompt.first, start
        )
        size = tokens.shape[1]
        return study, begin(net, theta, study, tokens.reshape(-1), count * size, spare * size)

    def chosen(theta, prompt, space, tokens, count, scale, seen, valid, share, key):
        study, context = encoded(theta, prompt, space, tokens, count, config.lookahead)
        return choose(net, theta, study, context, key, config.choice, space, scale, seen, valid, share)

    def predicted(theta, prompt, space, tokens, count, points):
        study, context = encoded(theta, prompt, space, tokens, count, 0)
        logits = jax.vmap(lambda row: predict(net, theta, study, context, row))(points)
        return jax.vmap(lambda row: value_probabilities(row, config.bins, config.value_temperature))(logits)

    return cast(tuple[Callable[..., Any], Callable[..., Any]], (jax.jit(chosen), jax.jit(predicted)))
