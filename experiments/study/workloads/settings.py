"""The settings of an optimizer that a study over workloads tries: learning rates, and other fields beside them."""

import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np

from experiments.study.columns import Column
from experiments.study.rates import name_of_rate, rates_of
from experiments.study.workloads.config import Workloads, changed

RATE = "learning_rate"
Setting = dict[str, Any]


def settings(study: Workloads, column: Column) -> list[Setting]:
    """What is tried of a tuned column: all combinations of learning rates, which vary last, and other fields."""
    more = {} if column.identity else study.also.get(column.name, {})
    values = [
        dict.fromkeys(
            getattr(changed(column.name, study.baselines[column.name], {field: value}), field) for value in of
        )
        for field, of in more.items()
    ]
    rates = [float(rate) for rate in rates_of(study.tune)]
    return [dict(zip([*more, RATE], combination, strict=True)) for combination in itertools.product(*values, rates)]


def name_of(setting: Setting) -> str:
    """A setting as part of a file's name; empty for the only one of a column that is not tuned."""
    more = [f"{field}={value:.6g}" if isinstance(value, float) else f"{field}={value}"
            for field, value in setting.items() if field != RATE]  # fmt: skip
    return "-".join([*([name_of_rate(setting[RATE])] if setting else []), *more])


def at(study: Workloads, column: Column, setting: Setting) -> tuple[Column, Any]:
    """The column at a setting, and the argument that makes it so.

    Numbers are part of the argument, which may be traced, so that the columns of settings that differ by them alone
    are equal, and need one compilation.
    """
    if not setting:
        return column, column.argument
    if set(setting) == {RATE}:
        return column, setting[RATE]
    fixed = tuple((field, value) for field, value in setting.items() if not isinstance(value, float))
    return column._replace(make=Maker(study.baselines[column.name], fixed)), {
        field: value for field, value in setting.items() if isinstance(value, float)
    }


class Maker:
    """Makes the optimizer of a baseline from its numbers; equal to others that make the same."""

    def __init__(self, baseline: Any, fixed: tuple[tuple[str, Any], ...]) -> None:
        self.baseline, self.fixed = baseline, fixed

    def __call__(self, argument: dict[str, Any]) -> Any:
        more = {field: value for field, value in argument.items() if field != RATE}
        return self.baseline.model_copy(update={**dict(self.fixed), **more}).build(argument[RATE])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Maker) and (self.baseline, self.fixed) == (other.baseline, other.fixed)

    def __hash__(self) -> int:
        return hash(repr((self.baseline, self.fixed)))


def ends(tried: Iterable[Setting], best: Setting) -> dict[str, str]:
    """The fields of the best setting that are the smallest or the largest of three or more numbers that were tried."""
    found, tried = {}, list(tried)
    for field, value in best.items():
        values = {setting[field] for setting in tried}
        if len(values) >= 3 and isinstance(value, int | float) and not isinstance(value, bool):
            end = {min(values): "smallest", max(values): "largest"}.get(value)
            found |= {field: end} if end else {}
    return found


def choose(scores: np.ndarray, suite: list[int]) -> tuple[int, list[int]]:
    """The setting that is best over the suite, and that of each workload, from scores [workload, setting]."""
    return int(np.argmin(scores[suite].mean(0))), [int(best) for best in np.argmin(scores, axis=1)]
