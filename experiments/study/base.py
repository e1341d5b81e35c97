"""What a kind of study is: its configuration, and the functions that the engine calls one after the other."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, Self

from pydantic import Field

from experiments.document import HERE, Document
from experiments.study.pieces import Pieces
from experiments.study.report import Report
from l2o.errors import UserError
from l2o.registry import Config, kinds, nearest
from l2o.registry import register as register_config


class StudyConfig(Document, Config):
    """What `l2o study` runs; the room of all kinds of study. A file without a kind is of kind "curves".

    Attributes:
      kind: which study it is.
      seed: decides everything random, the same for every optimizer.
      optimizers: learned optimizers by name or directory.
      shipped: the fields that a shipped optimizer tells of the study which measured it.
      shipped_results: entries of results.json that it tells as they are, beside the tables.
    """

    kind: str = "curves"
    seed: int = Field(default=0, ge=0, lt=2**31)
    optimizers: tuple[str, ...] = Field(default=(), strict=False)

    shipped: ClassVar[tuple[str, ...]] = ("description", "seed")
    shipped_results: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def folder(cls) -> Path:
        return HERE / "studies"

    @classmethod
    def parse(cls, data: dict[str, Any], source: str) -> Self:
        """Check a document that was read from `source`; this class itself gives one of the kind that is named.

        Raises:
          UserError: there is no such kind, or a field makes no sense.
        """
        if cls is not StudyConfig:
            return super().parse(data, source)
        known, kind = kinds(StudyConfig), data.get("kind", cls.model_fields["kind"].default)
        if kind not in list(known):
            names = ", ".join(known)
            raise UserError(f"{source}: unknown kind {kind!r}{nearest(kind, list(known))}, expected one of {names}")
        return known[kind].parse(data, source)


class Plan(Protocol):
    """What a study is going to do. Each kind has a tuple of its own with these fields and whatever else it needs."""

    @property
    def study(self) -> StudyConfig:
        """What was asked for."""
        ...

    @property
    def opening(self) -> str:
        """What a person reads before it begins."""
        ...

    @property
    def pieces(self) -> int:
        """How many pieces are to come."""
        ...


class Kind(NamedTuple):
    """A kind of study.

    Attributes:
      config: its configuration, with a field `kind: Literal["name"] = "name"`.
      plan: `(study) -> Plan`. Refuses with a UserError what cannot be run, and writes nothing.
      run: `(plan, pieces) -> found`. Asks `pieces` for all that takes time.
      summary: `(plan, found) -> dict`, the contents of results.json but for "study" and "seconds". It has "learned",
        names of learned optimizers, and "sha256", their fingerprints by name.
      report: `(results) -> Report`, from the contents of results.json alone, so that a report can be made again.
    """

    config: type[StudyConfig]
    plan: Callable[[Any], Plan]
    run: Callable[[Any, Pieces], Any]
    summary: Callable[[Any, Any], dict[str, Any]]
    report: Callable[[dict[str, Any]], Report]


_KINDS: dict[type[StudyConfig], Kind] = {}


def register(kind: Kind) -> Kind:
    """Make a kind of study available to `l2o study` and to files that name it.

    Raises:
      TypeError: its configuration has no default kind.
      ValueError: the name of the kind is taken.
    """
    register_config(kind.config)
    _KINDS[kind.config] = kind
    return kind


def kind_of(config: type[StudyConfig]) -> Kind:
    """The kind of study that a configuration class belongs to.

    Raises:
      UserError: none was registered with it.
    """
    if config not in _KINDS:
        raise UserError(f"{config.__name__} belongs to no kind of study, expected one of experiments.study.register")
    return _KINDS[config]


def kind_of_results(results: dict[str, Any]) -> Kind:
    """The kind of study whose results.json this is.

    Raises:
      UserError: there is no such kind; a module of one's own may have to be imported first.
    """
    name, known = results["study"].get("kind", StudyConfig.model_fields["kind"].default), kinds(StudyConfig)
    if name not in known:
        raise UserError(
            f"results.json is of kind {name!r}{nearest(name, list(known))}, expected one of {', '.join(known)}"
        )
    return kind_of(known[name])
