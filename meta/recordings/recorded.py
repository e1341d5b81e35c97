"""Recorded studies as a task family: what imitation learns from, drawn, cut and augmented inside one program."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray
from pydantic import Field, model_validator

from l2o.core import Evaluation, Problem, Task, Trajectory
from l2o.errors import UserError
from l2o.optformer.model import NOWHERE, SLOTS
from l2o.optformer.prompt import METADATA, NAME_BYTES, Prompt, Range
from l2o.optformer.serialization import metadata_tokens, segments
from l2o.record import Record
from l2o.registry import register
from l2o.space.domain import Space
from l2o.space.searchspace import SearchSpace
from meta.recordings.trajectories import Studies, concatenate, load, read_manifest
from tasks.family import FamilyConfig, Split, TaskFamily

PARTS = 20  # probabilities of hiding names are multiples of a part
SEGMENT = 4  # tokens that say what a parameter is, beside its names
LATE = 8  # trials, the last ones, of which some are told as in progress


class Records(NamedTuple):
    """Recorded studies, each padded to t trials and d parameters.

    Attributes:
      space: with leading axis n; padded parameters are the unit interval.
      x: points in the space's coordinates.
      y: minimised values; NaN for failed evaluations.
      length: trials of each.
      dimension: parameters of each.
      algorithm: that made them, an index into `l2o.record.ALGORITHMS`.
      header: goal, name and metric as tokens of `METADATA`, -1 where padded.
      names: of the parameters, with their bounds or values, likewise.
    """

    space: Space
    x: Float[Array, "n t d"]
    y: Float[Array, "n t"]
    length: Int[Array, "n"]
    dimension: Int[Array, "n"]
    algorithm: Int[Array, "n"]
    header: Int[Array, "n h"]
    names: Int[Array, "n d s"]


@register
class TrajectoriesConfig(FamilyConfig):
    """Recorded studies, for imitation: what `l2o data` writes.

    Attributes:
      paths: directories of sets of studies.
      held_out: fraction of the studies that is never trained on, at least one; validation draws from it.
      permute: put the parameters in a random order.
      rescale: scale the values of a cut study by the range of its first trials, a random number of them, instead of
        all. Later values may then lie beyond that range, as the next one may when the model is used.
      drop_names: probability that a study is told without its names, to a twentieth.
      drop_algorithm: probability that the algorithm is told as unknown.
      pending: probability that some of the last trials of a cut study are told as in progress.
      weights: how many times the studies of each path count; by default once.
    """

    kind: Literal["trajectories"] = "trajectories"
    paths: tuple[str, ...] = Field(min_length=1, strict=False)
    held_out: float = Field(default=0.02, gt=0, lt=1)
    permute: bool = True
    rescale: bool = True
    drop_names: float = Field(default=0.3, ge=0, le=1)
    drop_algorithm: float = Field(default=0.05, ge=0, le=1)
    pending: float = Field(default=0.2, ge=0, le=1)
    weights: tuple[Annotated[int, Field(ge=1, le=1000)], ...] | None = Field(default=None, strict=False)

    @model_validator(mode="after")
    def _check(self):
        if self.weights is not None and len(self.weights) != len(self.paths):
            raise ValueError(f"weights: found {len(self.weights)}, expected one for each of {len(self.paths)} paths")
        return self

    def build(self, split: Split = "train") -> TaskFamily:
        del split  # both parts are in the family, so that validation can tell them apart
        studies, counts = load_studies([Path(path) for path in self.paths])
        order = np.random.default_rng(0).permutation(sum(counts))
        kept = max(round(self.held_out * order.size), 1)
        times = np.repeat(self.weights or (1,) * len(counts), counts)
        total = np.asarray(studies.length) * (np.asarray(studies.dimension) + 1)
        names = np.sum(np.asarray(studies.names) >= 0, (1, 2)) + np.sum(np.asarray(studies.header) >= 0, 1)
        named = names > 1  # a goal is always there
        hidden = np.where(named, round(PARTS * self.drop_names), PARTS)  # how often each is told without names

        def pool(index, times):
            index = np.repeat(index, times[index])
            index = index[np.argsort(total[index], kind="stable")]
            return StudyPool(jnp.asarray(index, jnp.int32), jnp.asarray(total[index], jnp.int32))

        def pools(index, hidden):
            return pool(index, times * hidden), pool(index, times * (PARTS - hidden))

        lengths = (2 + SEGMENT * studies.x.shape[2], int(np.max(names + SEGMENT * np.asarray(studies.dimension))) + 1)
        train, test = pools(order[kept:], hidden), pools(order[:kept], np.where(named, 0, PARTS))
        return Recorded(self, studies, train, test, lengths, *(_named_share(some) for some in (train, test)))

    def provenance(self):
        """The manifest of each path, which says what tasks and teachers the studies are of, without the shards."""
        return {path: read_manifest(Path(path)).model_dump(mode="json", exclude={"shards"}) for path in self.paths}


class StudyPool(NamedTuple):
    """Studies to draw from, sorted by their number of tokens.

    Attributes:
      row: of studies; one may be there several times.
      total: tokens of each, `length (dimension + 1)`.
    """

    row: Int[Array, "n"]
    total: Int[Array, "n"]


def _named_share(pools: tuple[StudyPool, StudyPool]) -> float:
    """The share of the second pool, of studies with names, in both."""
    plain, named = (pool.row.size for pool in pools)
    return named / (plain + named)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Recorded(TaskFamily):
    """The family of `TrajectoriesConfig`; studies are told without names or, with far longer metadata, with names.

    Attributes:
      train, test: what to draw from, without names and with names.
      lengths: of metadata in tokens, without names and with names.
      train_named, test_named: share of the studies that are told with names.
    """

    config: TrajectoriesConfig = field(metadata={"static": True})
    studies: Any
    train: Any
    test: Any
    lengths: tuple[int, int] = field(metadata={"static": True})
    train_named: float = field(metadata={"static": True})
    test_named: float = field(metadata={"static": True})

    def sample(self, key):
        """A random study for training, of leading axis 1 less."""
        row = jax.random.choice(key, jnp.concatenate([pool.row for pool in self.train]))
        return jax.tree.map(lambda a: a[row], self.studies)

    def task(self, params):
        """The study again: the value of a point is that of the trial that was nearest to it in the unit cube."""
        space, t = params.space, params.y.shape[0]
        seen = jax.vmap(space.to_unit)(params.x)
        counted = jnp.arange(t) < params.length

        def value(x):
            near = jnp.sum((seen - space.to_unit(x)[None]) ** 2, -1)
            return params.y[jnp.argmin(jnp.where(counted, near, jnp.inf))]

        problem = Problem(space, space.from_unit(jnp.full(space.low.shape, 0.5)), 0.3)
        return Task(problem, lambda key, x: Evaluation(jax.vmap(value)(x)))

    def draw(
        self, key: PRNGKeyArray, above: int, most: int, *, names: bool = False, held_out: bool = False
    ) -> tuple[Problem, Trajectory]:
        """A study, cut at a random trial so that it has more than `above` and at most `most` tokens, and augmented.

        Values are scaled by the range of what is left of it, or of its first trials, so that nothing is seen of the
        future.

        Args:
          key: decides all.
          above: static.
          most: static; there must be studies with more tokens than `above`.
          names: static; whether the study is told with names, which some study must have.
          held_out: static; draw from the studies that are never trained on, and hide nothing of them.
        """
        config = self.config
        index, total = (self.test if held_out else self.train)[names]
        keys = jax.random.split(key, 8)
        which, cut, scale_key, order_key, first_key, algorithm_key, some_key, open_key = keys
        start = jnp.minimum(jnp.searchsorted(total, above, side="right"), total.size - 1)
        row = index[jax.random.randint(which, (), start, total.size)]
        study: Records = jax.tree.map(lambda a: a[row], self.studies)
        d, tokens = study.x.shape[1], study.dimension + 1
        rows = min(most // 2, study.y.shape[0])
        highest = jnp.minimum(jnp.minimum(study.length, most // tokens), rows)
        lowest = jnp.minimum(above // tokens + 1, highest)
        length = jax.random.randint(cut, (), lowest, highest + 1)
        mask = jnp.arange(rows) < length
        some = (not held_out) & (jax.random.uniform(some_key) < config.pending)
        late = jnp.arange(rows) >= length - LATE
        y = jnp.where(some & late & mask & jax.random.bernoulli(open_key, shape=(rows,)), -jnp.inf, study.y[:rows])
        begun = jnp.arange(rows) < jax.random.randint(scale_key, (), 2, jnp.maximum(length, 2) + 1)
        known, whole = Range.of(y, mask & begun), Range.of(y, mask)
        scaling = jax.tree.map(lambda a, b: jnp.where(config.rescale & (known.span > 0), a, b), known, whole)
        order = jnp.argsort(
            jnp.where(jnp.arange(d) < study.dimension, jax.random.uniform(order_key, (d,)) * config.permute, 2.0)
        )
        space = jax.tree.map(lambda a: a[order], study.space)
        hide_algorithm = (not held_out) & (jax.random.uniform(algorithm_key) < config.drop_algorithm)
        algorithm = jnp.where(hide_algorithm, 0, study.algorithm)
        first = jax.random.randint(first_key, (), 0, SLOTS)
        header, segments = study.header, study.names[order]
        if not names:
            header, segments = header[:1], segments[:, :0]
        token, slot = described(space, algorithm, header, segments, study.dimension, first)
        token, slot = token[: self.lengths[names]], slot[: self.lengths[names]]
        prompt = Prompt(token, slot, first, study.dimension, scaling, jnp.zeros(most, jnp.int8))
        problem = Problem(space, space.from_unit(jnp.full(d, 0.5)), 0.3, length, prompt)
        return problem, Trajectory(study.x[:rows, order][:, None], Evaluation(y[:, None]), mask)


def described(
    space: Space, algorithm: Int[Array, ""], header: Int[Array, "h"], names: Int[Array, "d s"],
    dimension: Int[Array, ""], first: Int[Array, ""],
) -> tuple[Int[Array, "m"], Int[Array, "m"]]:  # fmt: skip
    """Metadata as tokens and slots of a prompt, what is padded at the end."""
    d = names.shape[0]
    kinds = segments(space, METADATA)
    parts = jnp.concatenate([jnp.where(kinds == METADATA.word("pad"), -1, kinds), names], 1)
    parts = jnp.where((jnp.arange(d) < dimension)[:, None], parts, -1)
    head = (METADATA.algorithm("unknown") + algorithm)[None]
    token = jnp.concatenate([head, header, parts.reshape(-1)]).astype(jnp.int32)
    own = jnp.repeat((first + jnp.arange(d)) % SLOTS, parts.shape[1])
    slot = jnp.concatenate([jnp.full(1 + header.size, NOWHERE), own])
    packed = jnp.argsort(token < 0, stable=True)
    return token[packed], slot[packed]


def load_studies(paths: Sequence[Path]) -> tuple[Records, list[int]]:
    """All studies of several sets, and how many each of these has.

    Raises:
      UserError: a set is missing, unfinished or damaged.
    """
    sets = [load(path) for path in paths]
    trials, d = max(s.manifest.trials for s in sets), max(s.manifest.dimension for s in sets)
    if d > SLOTS:
        raise UserError(f"task.paths: found studies of {d} parameters, expected at most {SLOTS}")
    found = concatenate([s.studies for s in sets], trials, d)
    space = Space(*(jnp.asarray(a) for a in (found.low, found.high, found.levels, found.scale, found.ordered)))
    x, y, length, dimension, algorithm = (
        jnp.asarray(a) for a in (found.x, found.y, found.length, found.dimension, found.algorithm)
    )
    records = Records(space, x, y, length, dimension, algorithm, *_names(found))
    return records, [s.studies.length.size for s in sets]


def _names(studies: Studies) -> tuple[Int[Array, "n h"], Int[Array, "n d s"]]:
    """What `Records` says of names."""
    n, d = studies.low.shape
    headers: list[list[int]] = [[METADATA.word("minimize")]] * n
    names: list[list[list[int]]] = [[]] * n
    for i in range(n):
        about = studies.about(i)
        if about:
            space = SearchSpace.from_dict(about["space"])
            record = Record(space, about["name"], about["metric"], about["goal"])
            parts = _split(metadata_tokens(record, METADATA, longest_name=NAME_BYTES), METADATA.word("parameter"))
            headers[i] = parts[0][1:]  # without the algorithm
            levels = [2 + bool(parameter.levels) for parameter in space.parameters]
            names[i] = [part[count:] for part, count in zip(parts[1:], levels, strict=True)]
    header = np.full((n, max(map(len, headers))), -1, np.int32)
    table = np.full((n, d, max((len(name) for row in names for name in row), default=0)), -1, np.int32)
    for i in range(n):
        header[i, : len(headers[i])] = headers[i]
        for j, name in enumerate(names[i]):
            table[i, j, : len(name)] = name
    return jnp.asarray(header), jnp.asarray(table)


def _split(tokens: list[int], mark: int) -> list[list[int]]:
    parts: list[list[int]] = [[]]
    for token in tokens:
        if token == mark:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts
