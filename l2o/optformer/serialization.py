"""What is known of a study before its trials as integers, for a network; `l2o.optformer.text` is what people read.

Metadata is a header and a segment for each parameter:

    algorithm, goal, [name, bytes], [metric, bytes]
    parameter, kind, scale, [levels], name, bytes, ...

After its name, a float or an integer has its bounds (minimum, bytes, maximum, bytes), and the others have their values
(category, bytes, category, bytes, ...), as JSON. `levels`, which a float does not have, is the byte min(n, 256) - 1 for
n values. Where nothing but types is known (*stripped*), names, bounds and values are left out. No token is a bin, so
the metadata in the vocabulary of Q bins is that of no bins plus Q, and may be written before a network is chosen.
"""

import json

import jax.numpy as jnp
from jaxtyping import Array, Int

from l2o.optformer.vocabulary import SCALES, Vocabulary
from l2o.record import Record
from l2o.space.domain import Space
from l2o.space.parameter import Parameter

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
