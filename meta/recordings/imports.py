"""Studies recorded elsewhere: Optuna's storages, and the evaluations of HPO-B."""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Float64
from pydantic import Field, PrivateAttr, field_validator

import l2o
from l2o.errors import UserError
from l2o.files import exists
from l2o.host.proposals import Units
from l2o.host.view import NamedView
from l2o.lift.optuna import silent
from l2o.optformer.model import SLOTS
from l2o.record import ALGORITHMS
from l2o.registry import register
from l2o.space.searchspace import SearchSpace
from meta.credentials import VARIABLE, complete, masked, split, without
from meta.recordings.rollouts import SourceConfig
from meta.recordings.trajectories import ARRAYS, Manifest, Studies, Writer, concatenate, documents
from tasks.hpo import hpob


class Imported(NamedTuple):
    """One study.

    Attributes:
      name, metric, goal: in words; the goal is "minimize" or "maximize".
      space: of t points.
      x: points in the coordinates of `l2o.host.view.NamedView`.
      y: the metric as it was measured; NaN where the evaluation failed.
      origin: where it is from.
    """

    name: str
    metric: str
    goal: Literal["minimize", "maximize"]
    space: SearchSpace
    x: Float32[np.ndarray, "t d"]
    y: Float64[np.ndarray, "t"]
    origin: str


class ImportConfig(SourceConfig):
    """What all imports share.

    Attributes:
      algorithm: who chose the points, where that is known.
      licence: of the studies, where that is known.
      shard: most studies of a file.
    """

    algorithm: Literal[ALGORITHMS] = "unknown"  # pyright: ignore[reportInvalidTypeForm]
    licence: str | None = None
    shard: int = Field(default=4096, ge=1)

    def read(self, seed: int) -> Iterable[Imported]:
        """The studies, in an order that does not change.

        Raises:
          UserError: they cannot be read, or are of a sort that has no equal here.
        """
        raise TypeError(f"{type(self).__name__} does not define read()")

    def record(self, directory, seed, document, report):
        found = list(self.read(seed))
        if not found:
            raise UserError(f"source: kind {self.kind!r} found no study with a trial that has ended")
        parts = [found[first : first + self.shard] for first in range(0, len(found), self.shard)]
        origins = tuple(dict.fromkeys(study.origin for study in found))
        manifest = Manifest(
            made_with=l2o.__version__, seed=seed, config=masked(document), origins=origins, licence=self.licence,
            trials=max(len(study.y) for study in found), dimension=max(len(study.space) for study in found),
            planned=len(parts),
        )  # fmt: skip
        writer = Writer(directory, manifest)
        for number in writer.missing:
            writer.add(number, packed(parts[number], origins, self.algorithm))
        return writer.manifest


def packed(found: list[Imported], origins: tuple[str, ...], algorithm: str) -> Studies:
    """Arrays of several studies; values of a goal to maximize are negated, and those far from zero are relative to the
    lowest one."""
    rows = []
    for study in found:
        space, d = NamedView(study.space).space, len(study.space)
        about = {"name": study.name, "metric": study.metric, "goal": study.goal, "space": study.space.to_dict()}
        numbers = {
            "length": len(study.y), "dimension": d, "algorithm": ALGORITHMS.index(algorithm),
            "origin": origins.index(study.origin), "seed": 0,
        }  # fmt: skip
        y = study.y if study.goal == "minimize" else -study.y
        units = Units.of(y)
        y = single_precision(y if units is None else y - units.zero)
        arrays = {"x": study.x, "y": y, **{name: np.asarray(a) for name, a in space._asdict().items()}, **numbers}
        shaped = {name: np.asarray(arrays[name], dtype)[None] for name, (_, dtype) in ARRAYS.items()}
        rows.append(Studies(**shaped, **documents([about])))
    return concatenate(rows, max(len(study.y) for study in found), max(len(study.space) for study in found))


def single_precision(y: Float64[np.ndarray, "t"]) -> Float[np.ndarray, "t"]:
    """NaN for what is infinite, or beyond single precision."""
    with np.errstate(over="ignore"):
        y = y.astype(np.float32)
    return np.where(np.isfinite(y), y, np.float32(np.nan))


@register
class OptunaStudiesConfig(ImportConfig):
    """Studies in a storage of Optuna.

    Trials that failed or were pruned are failed evaluations; those in progress are left out, and so are those that
    failed before all their parameters were chosen. A range is that of the study; conditional parameters and several
    objectives are refused.

    Attributes:
      url: of the storage, such as sqlite:///optuna.db. A password in it is masked at once and kept nowhere; where there
        is none, or it is masked, see `meta.credentials.complete`.
      studies: names; all by default.
      as_sampler: read them as `l2o.OptFormerSampler` does instead: the parameters that all trials share, pruned trials
        with their last intermediate value; studies that it could not continue are left out.
      fewest: trials of a study; those that have fewer are left out.
    """

    kind: Literal["optuna"] = "optuna"
    url: str = "sqlite:///optuna.db"
    studies: tuple[str, ...] = Field(default=(), strict=False)
    as_sampler: bool = False
    fewest: int = Field(default=1, ge=1)
    _passwords: tuple[str, ...] = PrivateAttr(default=())

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: str) -> str:
        split(url)
        return url

    def model_post_init(self, context: Any) -> None:
        """Take the passwords out of the field, so that no dump, text or message of the config has them."""
        kept, self._passwords = split(self.url)
        object.__setattr__(self, "url", kept)  # frozen

    def read(self, seed):
        del seed
        try:
            import optuna
        except ModuleNotFoundError:
            raise UserError("Optuna is not installed, expected it to read its storages: pip install optuna") from None
        with silent(logging.WARNING):
            storage = _storage(complete(self.url, self._passwords))
            known = sorted(optuna.get_all_study_names(storage))
            missing = [name for name in self.studies if name not in known]
            if missing:
                raise UserError(f"source.studies: {self.url} has no study {missing[0]!r}, only {', '.join(known)}")
            studies = [optuna.load_study(study_name=name, storage=storage) for name in self.studies or known]
            found = map(_as_sampler if self.as_sampler else _optuna_study, studies)
            return [study for study in found if study is not None and len(study.y) >= self.fewest]


def _storage(url: str) -> Any:
    from optuna.storages import RDBStorage

    file = url.removeprefix("sqlite:///")
    if file != url and not exists(Path(file)):  # Optuna would create it
        raise UserError(f"source.url: there is no file {file}, expected a database that Optuna wrote")
    try:
        return RDBStorage(url, skip_table_creation=True)
    except Exception as error:  # of any database driver
        reason = str(error).splitlines()[0]
        shown, passwords = split(url)
        hint = "" if passwords or "@" not in url else f" (a password may be in {VARIABLE})"
        raise UserError(f"source.url: {shown} cannot be read: {without(reason, passwords)}{hint}") from None


def _optuna_study(study: Any) -> Imported | None:
    where = f"study {study.study_name!r}"
    if len(study.directions) > 1:
        raise UserError(f"{where} has {len(study.directions)} objectives, expected one: leave it out of source.studies")
    ended = [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
    complete = [trial for trial in ended if trial.state.name == "COMPLETE"]
    distributions = max((trial.distributions for trial in complete or ended), key=len, default={})
    ended = [trial for trial in ended if trial.state.name == "COMPLETE" or len(trial.params) == len(distributions)]
    if not distributions or not ended:
        return None
    for trial in ended:
        if trial.distributions != distributions:
            raise UserError(
                f"{where}: trial {trial.number} has other parameters or ranges than others, and conditional spaces "
                "are not supported yet: leave it out of source.studies"
            )
    try:
        space = SearchSpace.from_optuna(distributions)
        view = NamedView(space)
        x = np.stack([view.point(trial.params) for trial in ended])
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    y = np.array([trial.value if trial.state.name == "COMPLETE" else np.nan for trial in ended], np.float64)
    metric = (study.metric_names or ["value"])[0]
    return Imported(study.study_name, metric, study.direction.name.lower(), space, x, y, study.study_name)


def _as_sampler(study: Any) -> Imported | None:
    from l2o.interop.optuna_studies import as_record, joint_space

    ended = [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
    distributions = joint_space(ended) if len(study.directions) == 1 else {}
    if not 0 < len(distributions) <= SLOTS:
        return None
    record: Any = as_record(study, distributions, ended)
    view = NamedView(record.space)
    x = np.array([view.point(trial.parameters) for trial in record.trials], np.float32)
    y = np.array([np.nan if trial.value is None else trial.value for trial in record.trials], np.float64)
    x = x.reshape(-1, len(record.space))
    return Imported(record.name, record.metric, record.goal, record.space, x, y, study.study_name)


@register
class HPOBImportConfig(ImportConfig):
    """Evaluations of HPO-B, see `tasks.hpo.hpob`.

    The rows of a table are put in a random order, and every so many of them are a study.

    Attributes:
      path: of the file.
      spaces: identifiers of search spaces; all by default.
      trials: of a study.
      most: studies of a table, at most.
    """

    kind: Literal["hpob"] = "hpob"
    path: str = "meta-train-dataset.json"
    spaces: tuple[str, ...] = Field(default=(), strict=False)
    trials: int = Field(default=100, ge=1)
    most: int = Field(default=100, ge=1)

    def read(self, seed):
        for name, dataset, x, y in hpob.read(Path(self.path), self.spaces):
            order = np.random.default_rng(seed).permutation(len(y))[: self.most * self.trials]
            for first in range(0, len(order), self.trials):
                rows = order[first : first + self.trials]
                yield Imported(
                    name, "accuracy", "maximize", hpob.unit_cube(x.shape[1]), x[rows].astype(np.float32), y[rows],
                    f"{name}/{dataset}",
                )  # fmt: skip
