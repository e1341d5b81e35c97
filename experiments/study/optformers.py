"""Trained OptFormers in a study, and the teachers whose names they are prompted with."""

from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple, Protocol, Self

from pydantic import SerializeAsAny, model_validator

import l2o
from experiments.study.columns import identity, label, need_different_names
from l2o.core import BaselineConfig, HostOptimizer, LearnedOptimizer, Optimizer
from l2o.errors import UserError
from l2o.optformer.optformer import OptFormerConfig
from l2o.optformer.vocabulary import ALGORITHMS
from l2o.registry import Config, by_kind, kinds, nearest


class Imitated(Config):
    """A teacher, as in the configs of `l2o data`.

    Attributes:
      optimizer: a baseline that runs under jit.
      algorithm: its name in the prompt; by default the optimizer's kind.
    """

    optimizer: Annotated[SerializeAsAny[BaselineConfig], by_kind(BaselineConfig)]
    algorithm: str | None = None

    @property
    def name(self) -> str:
        """One of `ALGORITHMS`."""
        return self.algorithm or self.optimizer.kind

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.name not in ALGORITHMS:
            hint = nearest(self.name, list(ALGORITHMS))
            raise ValueError(f"algorithm: found {self.name!r}{hint}, expected one of {', '.join(ALGORITHMS)}")
        if self.optimizer.reads_gradients:
            raise ValueError(f"optimizer: {self.optimizer.kind} reads gradients, and these tasks give none")
        return self


class Model(NamedTuple):
    """An OptFormer of a study.

    Attributes:
      name: its label in the report.
      config: of its architecture.
      learned: the architecture.
      theta: what was trained.
      sha256: fingerprint of the optimizer.
      identity: a short name of architecture and theta, for files.
    """

    name: str
    config: OptFormerConfig
    learned: LearnedOptimizer
    theta: Any
    sha256: str
    identity: str


class Prompted(Protocol):
    """A study that prompts OptFormers with the names of teachers."""

    @property
    def kind(self) -> str:
        """Which study it is."""
        ...

    @property
    def optimizers(self) -> tuple[str, ...]:
        """The OptFormers by name or directory."""
        ...

    @property
    def trials(self) -> int:
        """Length of a run."""
        ...

    @property
    def teachers(self) -> Sequence[Imitated]:
        """Whose names the prompts have."""
        ...


def models(study: Prompted) -> list[Model]:
    """The OptFormers of a study.

    Raises:
      UserError: there is none, one does not exist, is of another kind, or cannot read as much as the study asks for.
    """
    if not study.optimizers:
        raise UserError("the study has no optimizers, expected a trained OptFormer as --optimizer")
    found = []
    for name in study.optimizers:
        if name in kinds(BaselineConfig):
            raise UserError(f"{name} is a baseline, and a study of {study.kind} prompts optimizers of kind 'optformer'")
        loaded = l2o.load(name)
        config = loaded.config
        if not isinstance(config, OptFormerConfig):
            raise UserError(
                f"{name} is of kind {config.kind!r}, and a study of {study.kind} prompts optimizers of kind 'optformer'"
            )
        loaded = loaded.configured(acquisition="none", lookahead=0)  # what is compared is the policy
        config = loaded.config
        assert isinstance(config, OptFormerConfig)
        if config.max_trials < study.trials:
            raise UserError(f"{name} reads up to {config.max_trials} trials, and the study has {study.trials}")
        short = identity(loaded.sha256, config.model_dump(mode="json"))
        found.append(Model(label(name), config, loaded.learned, loaded.theta, loaded.fingerprint, short))
    need_different_names([model.name for model in found])
    return found


def teachers(study: Prompted) -> dict[str, Optimizer]:
    """The teachers by name.

    Raises:
      UserError: one that cannot be compiled.
    """
    found = {}
    for i, teacher in enumerate(study.teachers):
        optimizer = teacher.optimizer.build()
        if isinstance(optimizer, HostOptimizer):
            raise UserError(f"teachers.{i}: kind {teacher.optimizer.kind!r} runs on the host, expected one under jit")
        found[teacher.name] = optimizer
    return found


def checksums(found: Sequence[Model]) -> dict[str, Any]:
    """The entries "learned" and "sha256" of results.json."""
    return {"learned": [model.name for model in found], "sha256": {model.name: model.sha256 for model in found}}
