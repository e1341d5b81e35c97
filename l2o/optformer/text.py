"""A study as the text of Chen et al. (2022), section 4.1, which people can read; networks read integers instead.

    <name>:"convnet on cifar10",<metric>:"accuracy",<goal>:<MAXIMIZE>,<algorithm>:"random"
    &<name>:"opt_kw.lr",<type>:<DOUBLE>,<min_value>:1e-06,<max_value>:0.01,<scale_type>:<LOG>
    &<name>:"opt_type",<type>:<CATEGORICAL>,<categories>:["SGD","Adam"]

(here with line breaks, of which there are none), and for each trial `<20><3>*<200>|`: bins or indices of its parameters
and the bin of its value. Whatever is not a keyword or a number is a JSON string.
"""

import json
import math
import re
from typing import Any, NamedTuple

from l2o.errors import UserError
from l2o.record import MARKS, Record, RecordedTrial
from l2o.space.parameter import Parameter
from l2o.space.searchspace import SearchSpace

TYPES = {"float": "DOUBLE", "integer": "INTEGER", "discrete": "DISCRETE", "categorical": "CATEGORICAL"}
FIELDS = {
    "name": "name",
    "kind": "type",
    "low": "min_value",
    "high": "max_value",
    "values": "categories",
    "scale": "scale_type",
}


class Scale(NamedTuple):
    """How the values of a metric become bins.

    Attributes:
      low: the value at 0 in the unit interval.
      high: the value at 1; where it is the same, that value is in the middle.
      bins: equal shares of the unit interval.

    >>> Scale(0.0, 1.0, 10).bin(0.25), Scale(0.0, 1.0, 10).value(2)
    (2, 0.25)
    """

    low: float
    high: float
    bins: int

    @classmethod
    def of(cls, y_range: Any, bins: int) -> "Scale":
        """The scale of a range (low, high).

        Raises:
          UserError: it is not one of finite numbers with low at most high, and a width that is finite.
        """
        try:
            low, high = (float(a) for a in y_range)
        except (TypeError, ValueError):
            low, high = math.nan, math.nan
        if not (low <= high and math.isfinite(high - low)):
            raise UserError(f"the range of a metric is {y_range!r:.80}: expected finite numbers, low and high")
        return cls(low, high, bins)

    def bin(self, value: float | int) -> int:
        """The bin of a value; those outside of the range are in the first or the last."""
        width = self.high - self.low
        unit = (value - self.low) / width if width else 0.5
        return min(math.floor(min(max(unit, 0.0), 1.0) * self.bins), self.bins - 1)

    def value(self, bin: int) -> float:
        """The value in the middle of a bin."""
        return self.low + (bin + 0.5) / self.bins * (self.high - self.low)


class Keyword(str):
    """A value of an enumeration."""


def to_text(record: Record, bins: int, y_range: Any) -> tuple[str, str]:
    """The metadata and the trials of a study.

    Args:
      record: the study.
      bins: of each real parameter and of the value.
      y_range: low and high of the metric; values beyond it are clipped.

    Raises:
      UserError: a trial does not fit the space, or the range is none.
    """
    header = {"name": record.name or None, "metric": record.metric or None, "goal": Keyword(record.goal.upper())}
    parts = [_line(header | {"algorithm": record.algorithm})]
    for p in record.space.parameters:
        fields = p.model_dump() | {"kind": Keyword(TYPES[p.kind])}
        fields["scale"] = Keyword(p.scale.upper()) if p.values is None else None
        parts.append(_line({FIELDS[key]: fields[key] for key in FIELDS}))
    scale, trials = Scale.of(y_range, bins), []
    for trial in record.trials:
        tokens = "".join(f"<{token}>" for token in record.space.to_tokens(trial.parameters, bins))
        value = trial.state.upper() if trial.value is None else scale.bin(trial.value)
        trials.append(f"{tokens}*<{value}>|")
    return "&".join(parts), "".join(trials)


def from_text(metadata: str, trials: str, bins: int, y_range: Any) -> Record:
    """The study of such a text; inverse of `to_text`, but that numbers in trials are known to half a bin, and that
    categories that are tuples become lists.

    Raises:
      UserError: it is not the text of a study.
    """
    header, *parts = _parse(metadata)
    kinds, keys = ({text: ours for ours, text in table.items()} for table in (TYPES, FIELDS))
    parameters = []
    for part in parts:
        fields = {keys.get(field, field): value for field, value in part.items()}
        kind = str(fields.get("kind"))
        scale = str(fields.get("scale", "linear")).lower()
        parameters.append(Parameter(**fields | {"kind": kinds.get(kind, kind), "scale": scale}))
    space = SearchSpace(tuple(parameters))
    found = header | {"goal": str(header.get("goal")).lower()}
    strange = found.keys() - {"name", "metric", "goal", "algorithm"}
    if strange or not all(isinstance(text, str) for text in found.values()):
        raise UserError(f"the text of a study begins with {header!r:.80}: expected name, metric, goal and algorithm")
    rows = re.findall(r"((?:<\d+>)*)\*<(\w+)>\|", trials)
    if "".join(f"{point}*<{value}>|" for point, value in rows) != trials:
        raise UserError(f"the text of trials is {trials!r:.80}: expected <token>...*<value>| for each")
    scale, recorded = Scale.of(y_range, bins), []
    for point, value in rows:
        assignment = space.from_tokens([int(token) for token in re.findall(r"\d+", point)], bins)
        if value.lower() in MARKS:
            recorded.append(RecordedTrial(assignment, None, value.lower()))
        elif value.isdecimal() and int(value) < bins:
            recorded.append(RecordedTrial(assignment, scale.value(int(value))))
        else:
            raise UserError(f"the value of a trial is <{value}>: expected a token below {bins}, or one of {MARKS}")
    return Record(space, trials=recorded, **found)


def _line(fields: dict[str, Any]) -> str:
    def text(value: Any) -> str:
        if isinstance(value, Keyword):
            return f"<{value}>"
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))

    return ",".join(f"<{key}>:{text(value)}" for key, value in fields.items() if value is not None)


def _parse(text: str) -> list[dict[str, Any]]:
    """Lines of fields; a value is a keyword or JSON, which alone knows where it ends."""
    parts, place, decoder = [{}], 0, json.JSONDecoder()
    while True:
        key = re.compile(r"<(\w+)>:(?:<(\w+)>)?").match(text, place)
        if key is None or key[1] in parts[-1]:
            raise UserError(f"the text of a study has {text[place : place + 40]!r}: expected a new field, <key>:value")
        place = key.end()
        value: Any = key[2]
        if value is None:
            try:
                value, place = decoder.raw_decode(text, place)
            except json.JSONDecodeError as error:
                raise UserError(f"the text of a study is damaged: expected JSON after <{key[1]}>: {error}") from None
        parts[-1][key[1]] = value
        if place == len(text):
            return parts
        if text[place] not in ",&":
            raise UserError(f"the text of a study has {text[place : place + 40]!r}: expected a comma or &")
        if text[place] == "&":
            parts.append({})
        place += 1
