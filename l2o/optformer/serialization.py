"""A study as integers, for a network (the text that people read is in `l2o.optformer.text`).

Metadata is a header and a segment for each parameter:

    algorithm, goal, [name, bytes], [metric, bytes]
    parameter, kind, scale, [levels], name, bytes, ...

After its name, a float or an integer has its bounds (minimum, bytes, maximum, bytes), and the others have their values
(category, bytes, category, bytes, ...), as JSON. `levels`, which a float does not have, is the byte min(n, 256) - 1 for
n values. Where nothing but types is known (*stripped*), names, bounds and values are left out. No token is a bin, so
the metadata in the vocabulary of Q bins is that of no bins plus Q, and may be written before a network is chosen.

A trial is the D tokens of its parameters and that of its value. Values are minimised inside: 0 is the best bin.
"""

import json
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Int

from l2o.errors import UserError
from l2o.optformer.text import Scale, from_text, to_text
from l2o.optformer.vocabulary import KINDS, SCALES, WORDS, Vocabulary
from l2o.record import ALGORITHMS, GOALS, MARKS, Record, RecordedTrial
from l2o.space.domain import Space
from l2o.space.parameter import Parameter
from l2o.space.searchspace import SearchSpace

__all__ = [
    "Record", "RecordedTrial", "Scale", "from_text", "metadata_tokens", "parse_metadata", "parse_trials", "segments",
    "to_text", "trial_tokens",
]  # fmt: skip
MOST_LEVELS = 256  # numbers of values that are told apart


def metadata_tokens(
    record: Record, vocabulary: Vocabulary, longest_name: int | None = None, stripped: bool = False
) -> list[int]:
    """The metadata of a study; a float that is a constant is a discrete parameter of one value there.

    Args:
      record: its trials are not read.
      vocabulary: its bins may be 0.
      longest_name: names, and categories as JSON, are cut after so many bytes of UTF-8, between characters.
      stripped: leave out names, bounds and values.
    """

    def entry(word: str, text: str, cut: bool = True) -> list[int]:
        raw = text.encode()
        if cut and longest_name is not None:
            raw = raw[:longest_name].decode(errors="ignore").encode()
        return [vocabulary.word(word), *map(vocabulary.byte, raw)]

    def segment(p: Parameter) -> list[int]:
        if p.kind == "float" and p.listed is not None:  # a constant, which a space knows as one listed number
            p = Parameter(name=p.name, kind="discrete", values=p.listed)
        tokens = [vocabulary.word("parameter"), vocabulary.word(p.kind), vocabulary.word(p.scale)]
        if p.levels:
            tokens.append(vocabulary.byte(min(p.levels, MOST_LEVELS) - 1))
        if stripped:
            return tokens
        tokens += entry("name", p.name)
        if p.values is None:
            return tokens + entry("minimum", repr(p.low), cut=False) + entry("maximum", repr(p.high), cut=False)
        texts = (json.dumps(value, ensure_ascii=False) for value in p.values)
        return tokens + [token for text in texts for token in entry("category", text, cut=p.kind == "categorical")]

    header = [vocabulary.algorithm(record.algorithm), vocabulary.word(record.goal)]
    for word, text in (("name", record.name), ("metric", record.metric)):
        if text and not stripped:
            header += entry(word, text)
    return header + [token for p in record.space.parameters for token in segment(p)]


def parse_metadata(tokens: Sequence[int], vocabulary: Vocabulary) -> Record:
    """The study, without trials; inverse of `metadata_tokens` with whole names, but that tuples become lists.

    Raises:
      UserError: this is not the metadata of a study, or it was stripped or cut.
    """
    algorithms = {vocabulary.algorithm(name): name for name in ALGORITHMS}
    words = {vocabulary.word(name): name for name in WORDS}
    starts = [i for i, token in enumerate(tokens) if words.get(token) == "parameter"]
    if len(tokens) < 2 or tokens[0] not in algorithms or words.get(tokens[1]) not in GOALS or not starts:
        raise UserError("the tokens are not metadata: expected an algorithm, a goal, and then parameters")

    def entries(part: Sequence[int]) -> list[tuple[str, str]]:
        found: list[tuple[str, bytearray]] = []
        for token in part:
            if token in words:
                found.append((words[token], bytearray()))
            elif found and vocabulary.byte(0) <= token < vocabulary.byte(256):
                found[-1][1].append(token - vocabulary.byte(0))
            else:
                raise UserError(f"the tokens are not metadata: expected a word or a byte, found token {token}")
        try:
            return [(word, raw.decode()) for word, raw in found]
        except UnicodeDecodeError:
            raise UserError("the tokens are not metadata: expected UTF-8, found other bytes") from None

    def parameter(part: Sequence[int]) -> Parameter:
        kind, scale = (words.get(token, "nothing") for token in (*part[1:3], -1, -1)[:2])
        if kind not in KINDS or scale not in SCALES:
            raise UserError(f"the tokens are not metadata: expected a kind and a scale, found {kind} and {scale}")
        found = entries(part[3 if kind == "float" else 4 :])
        only: dict[str, Any] = dict(found)
        if "name" not in only:
            raise UserError("the tokens are stripped metadata, which tell a parameter's kind alone: expected its name")
        try:
            values = [json.loads(text) for word, text in found if word == "category"] or None
            low, high = (json.loads(only[word]) if word in only else None for word in ("minimum", "maximum"))
        except json.JSONDecodeError as error:
            raise UserError(f"the tokens are not metadata: expected JSON for bounds and values: {error}") from None
        return Parameter(name=only["name"], kind=kind, low=low, high=high, values=values, scale=scale)

    ends = [*starts[1:], len(tokens)]
    parameters = [parameter(tokens[start:end]) for start, end in zip(starts, ends, strict=True)]
    header = dict(entries(tokens[2 : starts[0]]))
    return Record(
        SearchSpace(tuple(parameters)),
        header.get("name", ""),
        header.get("metric", ""),
        words[tokens[1]],
        algorithms[tokens[0]],
    )


def segments(space: Space, vocabulary: Vocabulary) -> Int[Array, "d 4"]:
    """Stripped metadata of a mixed space, in JAX: parameter, kind, scale and levels of each; `pad` for none of these.

    A space does not know whether a coordinate with values is an integer or one of listed numbers. It is read as an
    integer where the values begin elsewhere than at 0, and as listed numbers, which are counted from 0, otherwise.
    """
    assert space.levels is not None and space.scale is not None and space.ordered is not None
    word, whole = vocabulary.word, space.levels > 0
    counted = jnp.where(space.low == 0, word("discrete"), word("integer"))
    kind = jnp.where(whole, jnp.where(space.ordered, counted, word("categorical")), word("float"))
    scale = jnp.array([word(name) for name in SCALES])[space.scale]
    levels = jnp.where(whole, vocabulary.byte(0) + jnp.minimum(space.levels, MOST_LEVELS) - 1, word("pad"))
    return jnp.stack([jnp.full_like(kind, word("parameter")), kind, scale, levels], -1).astype(jnp.int32)


def trial_tokens(record: Record, vocabulary: Vocabulary, y_range: Any) -> list[list[int]]:
    """The trials of a study, D + 1 tokens each.

    Args:
      record: the study.
      vocabulary: of Q bins, at least one.
      y_range: low and high of the metric, in the metric's own direction; values beyond it are clipped.

    Raises:
      UserError: a trial does not fit the space, or the range is none.
    """
    bins = vocabulary.bins
    scale = Scale.of(y_range, bins, flip=record.goal == "maximize")

    def value(trial: RecordedTrial) -> int:
        if trial.value is None:
            return bins + MARKS.index(trial.state)
        return scale.bin(trial.value)

    return [[*record.space.to_tokens(trial.parameters, bins), value(trial)] for trial in record.trials]


def parse_trials(
    tokens: Sequence[Sequence[int]], record: Record, vocabulary: Vocabulary, y_range: Any
) -> list[RecordedTrial]:
    """Trials from their tokens: floats, values, and what has more values than there are bins, to within half a bin.

    Args:
      tokens: D + 1 for each trial.
      record: the study; its own trials are not read.
      vocabulary: as in `trial_tokens`.
      y_range: likewise.

    Raises:
      UserError: there is no such token, or the number of them is wrong.
    """
    bins = vocabulary.bins
    scale = Scale.of(y_range, bins, flip=record.goal == "maximize")

    def trial(row: Sequence[int]) -> RecordedTrial:
        *point, y = row
        if not 0 <= y < vocabulary.outputs:
            raise UserError(f"the token of a metric's value is {y}: expected one from 0 to {vocabulary.outputs - 1}")
        parameters = record.space.from_tokens(point, bins)
        return (
            RecordedTrial(parameters, scale.value(y)) if y < bins else RecordedTrial(parameters, None, MARKS[y - bins])
        )

    return [trial(row) for row in tokens]
