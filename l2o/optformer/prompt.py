"""What a model is told of a study besides its trials, and how the metric's values become tokens."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from l2o.errors import UserError
from l2o.optformer.model import METRIC, NOWHERE, SLOTS, Tokens
from l2o.optformer.serialization import metadata_tokens, segments
from l2o.optformer.vocabulary import Vocabulary
from l2o.record import Record
from l2o.space.domain import Space

METADATA = Vocabulary(bins=0)  # metadata holds no bins: it is written with this, and a network's number is added
CURVE = 10.0  # the median of the values is so many units from the least one; shares are logarithms of 1 + units
REACH = 100.0  # units below the least value to which there is room for better ones
MOST = 1e6  # units above it where the range ends at the latest: one diverged trial must not press all others together
NAME_BYTES = 40  # of each name, and of each category, that a network reads
LOW, HIGH = 0.2, 0.8  # where the range of the values seen lies in the unit interval (Chen et al. 2022, section 4.3)


class Range(NamedTuple):
    """How values are scaled to the unit interval, where the smallest are best.

    With u = curve (value - anchor), the least value is at `LOW`, the greatest one at `HIGH`, and between them and above
    the share grows with log(1 + u). Chen et al. (2022) scale linearly; then, where values span orders of magnitude,
    many of the best trials of a study fall into one bin, and nobody could tell from the tokens which one an algorithm
    went on from. Below the least value the share falls with log(1 - u) and is 0 at u = -`REACH`: after few trials a new
    best value is often better by more than a third of the range, and expected improvement asks how much better.

    Attributes:
      anchor: the least value.
      span: from there to the greatest, or to `MOST` units if that is less; 0 where there are no two.
      curve: positive.
    """

    anchor: Float[Array, ""]
    span: Float[Array, ""]
    curve: Float[Array, ""]

    @classmethod
    def of(cls, values: Float[Array, "t"], used: Bool[Array, "t"]) -> "Range":
        """The range of the finite values in use, whose lower median is `CURVE` units from the least one."""
        counted = used & jnp.isfinite(values)
        least = jnp.min(jnp.where(counted, values, jnp.inf), initial=jnp.inf)
        span = jnp.max(jnp.where(counted, values, -jnp.inf), initial=-jnp.inf) - least
        several = (span > 0) & jnp.isfinite(span)
        span = jnp.where(several, span, 0.0)
        ordered = jnp.sort(jnp.where(counted, values, jnp.inf))
        median = ordered[jnp.maximum(jnp.sum(counted) - 1, 0) // 2]
        half = jnp.where(several & (median > least), median - least, jnp.where(several, span, 1.0))
        half = jnp.maximum(half, 1e-30)  # single precision holds no less
        return cls(jnp.where(jnp.isfinite(least), least, 0.0), jnp.minimum(span, MOST / CURVE * half), CURVE / half)

    def share(self, values: Float[Array, "t"]) -> Float[Array, "t"]:
        """Values in the unit interval, or beyond it where they are far beyond the range; 0.5 where that is empty."""
        whole = jnp.log1p(self.curve * self.span)
        units = self.curve * (values - self.anchor)
        part = jnp.log1p(jnp.abs(units))
        above = LOW + (HIGH - LOW) * part / jnp.where(whole > 0, whole, 1.0)
        below = LOW * (1 - part / jnp.log1p(REACH))
        return jnp.where(whole > 0, jnp.where(units < 0, below, above), 0.5 * (LOW + HIGH))

    def value(self, share: Float[Array, "..."]) -> Float[Array, "..."]:
        """The values at places of the unit interval; inverse of `share` where the range is not empty."""
        above = jnp.log1p(self.curve * self.span) * (share - LOW) / (HIGH - LOW)
        below = jnp.log1p(REACH) * (1 - share / LOW)
        units = jnp.where(share < LOW, -jnp.expm1(jnp.maximum(below, 0.0)), jnp.expm1(jnp.maximum(above, 0.0)))
        return self.anchor + units / self.curve

    def tokens(self, values: Float[Array, "t"], vocabulary: Vocabulary) -> Int[Array, "t"]:
        """Bins of scaled values, those outside of the unit interval in the first or last.

        For NaN or +inf the mark of a failed evaluation, and for -inf that of one in progress.
        """
        valid = jnp.isfinite(values)
        scaled = self.share(jnp.where(valid, values, self.anchor))
        bins = jnp.clip(jnp.floor(scaled * vocabulary.bins), 0, vocabulary.bins - 1).astype(jnp.int32)
        return jnp.where(valid, bins, jnp.where(values == -jnp.inf, vocabulary.pending, vocabulary.infeasible))


class Prompt(NamedTuple):
    """The context of a problem for an OptFormer.

    Attributes:
      token: metadata in the vocabulary `METADATA`, the imitated algorithm first; negative where padded.
      slot: for each, the slot of the parameter that it describes, or NOWHERE.
      first: slot of the first parameter.
      parameters: how many coordinates of a point are parameters, the first ones; None for all.
      range: of the values, fixed; None for that of the trials seen.
      reads: how many tokens of the trials `log_prob` reads, as the length of this array, whose values mean nothing;
        None for all that there may be.
    """

    token: Int[Array, "m"]
    slot: Int[Array, "m"]
    first: Int[Array, ""]
    parameters: Int[Array, ""] | None = None
    range: Range | None = None
    reads: Array | None = None


def stripped(space: Space, algorithm: str) -> Prompt:
    """The prompt of a mixed space without names: the algorithm, and the kind, scale and size of every parameter.

    Raises:
      UserError: more parameters than there are slots.
    """
    parts = segments(space, METADATA)
    _check(parts.shape[0])
    header = jnp.array([METADATA.algorithm(algorithm), METADATA.word("minimize")])
    slot = jnp.concatenate([jnp.full(2, NOWHERE), jnp.repeat(jnp.arange(parts.shape[0]), parts.shape[1])])
    token = jnp.concatenate([header, parts.reshape(-1)])
    return Prompt(jnp.where(token == METADATA.word("pad"), -1, token), slot, jnp.zeros((), jnp.int32))


def prompt(record: Record, room: int | None = None) -> Prompt:
    """The prompt of a study with names; its trials are not read. Names are cut after `NAME_BYTES` bytes.

    Args:
      record: the study.
      room: length that it is padded to, or cut to, so that different studies are one program; None for its own.

    Raises:
      UserError: more parameters than there are slots.
    """
    _check(len(record.space))
    token = np.array(metadata_tokens(record, METADATA, longest_name=NAME_BYTES))
    begun = np.cumsum(token == METADATA.word("parameter"))
    slot = np.where(begun > 0, begun - 1, NOWHERE)
    if room is not None:
        token, slot = (np.pad(a[:room], (0, max(room - a.size, 0)), constant_values=-1) for a in (token, slot))
        slot = np.where(token < 0, NOWHERE, slot)
    return Prompt(jnp.asarray(token, jnp.int32), jnp.asarray(slot, jnp.int32), jnp.zeros((), jnp.int32))


def _check(parameters: int) -> None:
    if parameters > SLOTS:
        raise UserError(f"optformer: found {parameters} parameters, expected at most {SLOTS}")


def slots(first: Int[Array, ""], place: Int[Array, "n"], parameters: Int[Array, ""]) -> Int[Array, "n"]:
    """The slot of a place within a trial: parameter 0, 1, ..., and then the metric's value."""
    return jnp.where(place < parameters, (first + place) % SLOTS, METRIC)


def reading(
    at: Callable[[Int[Array, "n"]], Int[Array, "n"]], position: Int[Array, "n"], start: Int[Array, ""] | int,
    first: Int[Array, ""], parameters: Int[Array, ""], sizes: Int[Array, "d"], ordered: Bool[Array, "d"],
) -> Tokens:  # fmt: skip
    """Tokens at these positions of the sequence of all trials, as a decoder reads them.

    Args:
      at: what stands at a position; whatever it says of others than those of the trials is not used.
      position: counted from 0; -1 is before all trials.
      start: the token that stands there.
      first: slot of the first parameter.
      parameters: of the study; each trial has one token more.
      sizes: legal tokens of each, and of what is padded.
      ordered: which of them are not categories.
    """
    period = parameters + 1

    def where(position):
        return position // period, position % period

    trial, place = where(position)
    next_trial, next_place = where(position + 1)
    before = position < 0
    slot = jnp.where(before, NOWHERE, slots(first, place, parameters))
    begins = before | (place == 0)
    places = jnp.arange(sizes.size)
    tokens = at(trial[:, None] * period + places[None])
    point = jnp.where(ordered[None], (tokens + 0.5) / sizes[None], tokens)
    within = (~before & (place < parameters))[:, None]
    known = within & (places[None] <= place[:, None]) & (places < parameters)[None]
    return Tokens(
        jnp.where(before, start, at(position)), jnp.where(begins, start, at(position - 1)),
        jnp.where(before, start, at(trial * period + parameters)), slot, jnp.where(before, 0, trial + 1),
        slots(first, next_place, parameters), next_trial + 1, point, known, (first + places) % SLOTS, ordered,
    )  # fmt: skip
