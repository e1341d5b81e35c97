"""The columns of a study: the optimizers that it compares, learned ones and baselines."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from pydantic import ValidationError

import l2o
from experiments.document import explain
from l2o.core import BaselineConfig
from l2o.errors import UserError
from l2o.registry import kinds

Groups = Mapping[str, Sequence[str]]  # run directories of several meta-training seeds, by a name for them


class Column(NamedTuple):
    """One optimizer of a study.

    Attributes:
      name: its label in the report.
      make: `make(argument) -> Optimizer`.
      argument: theta or a learning rate; None where the rate is tuned.
      tuned: whether the study tunes it.
      learned: whether it was meta-trained.
      sha256: fingerprint of a learned optimizer.
      gradients: whether it reads gradients.
      identity: a short name of a learned optimizer's architecture and theta, or of a baseline that is asked for by
        name; empty for those that the study configures.
    """

    name: str
    make: Callable[..., l2o.Optimizer | l2o.HostOptimizer]
    argument: Any
    tuned: bool
    learned: bool
    sha256: str = ""
    gradients: bool = True
    identity: str = ""

    @property
    def file(self) -> str:
        """A name for files of what it did."""
        return self.identity or self.name


class Compared(Protocol):
    """A study that compares learned optimizers with baselines."""

    @property
    def optimizers(self) -> tuple[str, ...]:
        """Learned optimizers by name or directory, or names of baselines."""
        ...

    @property
    def baselines(self) -> Sequence[BaselineConfig] | Mapping[str, BaselineConfig]:
        """Hand-designed optimizers, with or without names for their columns."""
        ...


def columns(study: Compared, *, groups: Groups | None = None, population_size: int | None = None) -> list[Column]:
    """The optimizers of a study, learned ones first.

    Args:
      study: names them.
      groups: whose members are columns, too.
      population_size: of all that have one.

    Raises:
      UserError: an optimizer that does not exist, two of one name, or none at all.
    """
    found = []
    members = [member for group in (groups or {}).values() for member in group]
    for name in [*study.optimizers, *(m for m in dict.fromkeys(members) if m not in study.optimizers)]:
        if name in kinds(BaselineConfig):
            config = _sized(kinds(BaselineConfig)[name](), population_size, name)
            # files of its own: a study that is resumed may have been asked for the one of this name that it configures
            found.append(_baseline_column(config)._replace(identity=identity(config.model_dump(mode="json"))))
            continue
        loaded = l2o.load(name, also=list(kinds(BaselineConfig)))
        loaded = replace(loaded, config=_sized(loaded.config, population_size, name))
        column = _learned_column(loaded, label(name))
        found.append(column._replace(name=name) if column.name in [c.name for c in found] else column)
    asked = [column.name for column in found]
    baselines = study.baselines
    named = baselines.items() if isinstance(baselines, Mapping) else [(b.label, b) for b in baselines]
    for name, baseline in named:
        if name not in asked:
            found.append(_baseline_column(_sized(baseline, population_size, name))._replace(name=name))
    if not found:
        raise UserError("the study has no optimizers, expected some in optimizers or baselines, or --optimizer")
    need_different_names([column.name for column in found])
    return found


def need_different_names(names: list[str]) -> None:
    """Check the names of the optimizers of a study.

    Raises:
      UserError: two are the same.
    """
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"the study has two optimizers named {twice[0]!r}, expected different names")


def label(name: str) -> str:
    """What a learned optimizer is called in tables: its shipped name, or the last part of its directory."""
    return name if name in l2o.names() else Path(name).resolve().name


def identity(*parts: Any) -> str:
    """Twelve hexadecimal digits that tell these JSON values from others, for names of files."""
    return hashlib.sha256("".join(_canonical(part) for part in parts).encode()).hexdigest()[:12]


def _canonical(part: Any) -> str:
    return part if isinstance(part, str) else json.dumps(part, sort_keys=True)


def checksums(found: Sequence[Column]) -> dict[str, Any]:
    """The entries "learned" and "sha256" of results.json."""
    learned = [column for column in found if column.learned]
    return {
        "learned": [column.name for column in learned],
        "sha256": {column.name: column.sha256 for column in learned},
    }


def _sized(config: Any, population_size: int | None, name: str) -> Any:
    """The config with so many members in a population, if that is given and it has any.

    Raises:
      UserError: it does not take so many.
    """
    if population_size is None or "population_size" not in type(config).model_fields:
        return config
    fields = {field: getattr(config, field) for field in type(config).model_fields}
    fields["population_size"] = population_size
    try:
        return type(config).model_validate(fields)
    except ValidationError as error:
        raise UserError(f"{name}: {explain(error, type(config), fields)}") from None


def _learned_column(loaded: l2o.Loaded, name: str) -> Column:
    return Column(
        name, loaded.learned.bind, loaded.theta, tuned=False, learned=True, sha256=loaded.fingerprint,
        gradients=loaded.learned.native is not None,
        identity=identity(loaded.sha256, loaded.config.model_dump(mode="json")),
    )  # fmt: skip


def _baseline_column(baseline: Any) -> Column:
    reads = baseline.reads_gradients
    if not baseline.tuned:
        return Column(baseline.label, lambda _: baseline.build(), None, tuned=False, learned=False, gradients=reads)
    rate = baseline.learning_rate
    return Column(baseline.label, baseline.build, rate, tuned=rate is None, learned=False, gradients=reads)
