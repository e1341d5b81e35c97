"""Any black-box optimizer as a sampler of Optuna."""

import math
import secrets
import threading
import zlib
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from l2o.errors import UserError

try:
    import optuna
except ModuleNotFoundError:
    raise UserError("samplers are for Optuna, which is not installed: pip install 'l2o[optuna]'") from None

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from l2o.host.arguments import whole_number
from l2o.host.policy import Policy
from l2o.host.proposals import Named, source
from l2o.host.retelling import Retelling
from l2o.interop.optuna_studies import as_record, joint_space, propose
from l2o.loaded import Loaded, load
from l2o.optformer.model import SLOTS
from l2o.optformer.optformer import OptFormerConfig
from l2o.record import Record

LOGGER = optuna.logging.get_logger(f"optuna.{__name__}")  # below Optuna's own, so that its verbosity counts


class Sampler(BaseSampler):
    """A sampler for `optuna.create_study` that is any optimizer of `l2o.Study`.

    The parameters that all trials share are proposed together. The first trial, before anything is known of the space,
    and parameters that appear in some trials only or change their ranges are left to an independent sampler. Threads,
    processes and machines may share a study. What they have in progress is taken into account by an optformer, and by
    an optimizer with a model ("gp_ei", "gp_ucb", a surrogate), which expects of it what the model says. Others are told
    nothing of it. Failed trials count as failed, and pruned ones with their last intermediate value.

    Args:
      optimizer: a shipped name, the kind of a baseline such as "gp_ei", "tpe" or "random", a run directory, or what
        `l2o.load` returns. It must not need gradients.
      seed: decides all randomness, 0 to 2^32 - 1; None for the system's entropy. What is proposed for a trial depends
        on the seed, the trial's number and what the study holds: workers may have the same seed, and a study that was
        interrupted goes on as it would have.
      budget: trials that are planned, 1 to 2^31 - 1, for optimizers that plan; there may be more.
      warm_start: for an optformer, names of other studies in the same storage, or True for all of them. Those over the
        same parameters and ranges are read before this one, as they are when they are first needed.
      independent_sampler: for what is not proposed together; random by default.
      warn_independent_sampling: warn, once for each parameter, of what it is used for after the first trials.

    Raises:
      UserError: bad input; at the first trial, a study with several objectives, or the name of none; at the second, a
        space that the optimizer does not take.
    """

    def __init__(
        self,
        optimizer: Named,
        seed: int | None = None,
        *,
        budget: int = 100,
        warm_start: bool | str | Sequence[str] = False,
        independent_sampler: BaseSampler | None = None,
        warn_independent_sampling: bool = True,
    ):
        self._entropy = _entropy() if seed is None else whole_number("seed", seed, 0, 2**32 - 1)
        self._budget = whole_number("budget", budget, 1, 2**31 - 1)
        self._source = source(optimizer)
        self._named = self._source.loaded or optimizer
        names = (warm_start,) if isinstance(warm_start, str) else () if isinstance(warm_start, bool) else warm_start
        if not isinstance(names, Collection) or not all(isinstance(name, str) for name in names):
            raise UserError(f"warm_start is {warm_start!r}: expected True, or names of studies of the same storage")
        if not isinstance(independent_sampler, BaseSampler | None):
            raise UserError(f"independent_sampler is {independent_sampler!r}: expected a sampler of Optuna")
        self._all, self._names = warm_start is True, tuple(names)
        if (self._all or self._names) and not self._reads_studies:
            raise UserError(f"warm_start: {self._source.name} reads no other studies, an optformer does")
        self._independent = independent_sampler
        self._warn = warn_independent_sampling
        self._said: set[str] = set()
        self._begin()

    def _begin(self) -> None:
        """What every copy makes for itself."""
        self._lock = threading.Lock()
        self._policy: Policy | None = None
        self._retelling: Retelling | None = None
        self._earlier: tuple[Any, str, dict[str, BaseDistribution], list[Record]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        own: dict[str, Any] = {"_lock": None, "_policy": None, "_retelling": None, "_earlier": None, "_source": None}
        if isinstance(self._named, Loaded):
            own["_named"] = replace(self._named)  # without the functions that it has built
        return vars(self) | own

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._source = source(self._named)
        self._begin()

    @property
    def _reads_studies(self) -> bool:
        """Whether the optimizer reads a whole study, with its names."""
        return isinstance(self._source.optimizer, OptFormerConfig) and self._source.loaded is not None

    @property
    def _most(self) -> float:
        """Parameters that the optimizer reads."""
        return SLOTS if self._reads_studies else math.inf

    def reseed_rng(self) -> None:
        """Take a new seed from the system's entropy, as Optuna demands of threads.

        An optimizer that was told trials already goes on with them and with the seed that it began with.
        """
        self._entropy = _entropy()
        if self._independent is not None:
            self._independent.reseed_rng()

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Hand on to the independent sampler."""
        if self._independent is not None:
            self._independent.before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Hand on to the independent sampler."""
        if self._independent is not None:
            self._independent.after_trial(study, trial, state, values)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """What is proposed together: the parameters that all trials share, unless these are more than it reads."""
        del trial
        self._refuse_several_objectives(study)
        space = joint_space(study.get_trials(deepcopy=False))
        return space if len(space) <= self._most else {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Propose values for these parameters."""
        self._refuse_several_objectives(study)
        if not search_space:
            return {}
        with self._lock:  # what one thread proposes is in progress for the next
            trials = [other for other in study.get_trials(deepcopy=False) if other.number != trial.number]
            suggested = self._read if self._reads_studies else self._retell
            found = suggested(study, trial, search_space, trials)
            propose(study, trial, found)
        return found

    def _read(
        self, study: Study, trial: FrozenTrial, space: dict[str, BaseDistribution], trials: list[FrozenTrial]
    ) -> dict[str, Any]:
        """What an optformer suggests."""
        if self._policy is None:
            assert self._source.loaded is not None
            self._policy = Policy(self._source.loaded)
        record, earlier = as_record(study, space, trials), self._read_before(study, space)
        return self._policy.suggest(record, 1, seed=self._seed(trial.number), earlier=earlier)[0]

    def _retell(
        self, study: Study, trial: FrozenTrial, space: dict[str, BaseDistribution], trials: list[FrozenTrial]
    ) -> dict[str, Any]:
        """What any other optimizer suggests."""
        if self._retelling is None:
            self._retelling = Retelling(self._source, self._budget, self._seed())
        record = as_record(study, space, sorted(trials, key=_end))
        before = sum(not other.state.is_finished() and other.number < trial.number for other in trials)
        return self._retelling.suggest(record, trial.number, before)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A value for one parameter, by the independent sampler."""
        self._refuse_several_objectives(study)
        chosen = self._independent or RandomSampler(self._seed(trial.number, zlib.crc32(param_name.encode())))
        if self._warn and any(
            param_name in other.params for other in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        ):
            many = f"the model has no such range, or there are more than {SLOTS} parameters"
            self._say_once(
                f"{param_name!r} is sampled by {type(chosen).__name__}: its range changes, some trials lack it, "
                f"{many if self._reads_studies else 'or l2o has no such range'} "
                "(warn_independent_sampling=False silences this)"
            )
        return chosen.sample_independent(study, trial, param_name, param_distribution)

    def _seed(self, number: int = 0, parameter: int = 0) -> int:
        """A seed below 2^31, for one trial and, if it is sampled alone, one parameter."""
        return int(np.random.SeedSequence([self._entropy, number, parameter]).generate_state(1)[0]) >> 1

    def _say_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            LOGGER.warning(text)

    def _read_before(self, study: Study, space: dict[str, BaseDistribution]) -> list[Record]:
        """Finished trials of the studies to start from, those of this space."""
        if not self._all and not self._names:
            return []
        kept = self._earlier
        if kept is None or kept[0] is not study._storage or kept[1:3] != (study.study_name, space):
            kept = self._earlier = (study._storage, study.study_name, space, self._read_others(study, space))
        return kept[3]

    def _read_others(self, study: Study, space: dict[str, BaseDistribution]) -> list[Record]:
        known = optuna.get_all_study_names(study._storage)
        found = []
        for name in known if self._all else self._names:
            if name not in known:
                raise UserError(f"warm_start: the storage has no study {name!r}, only {', '.join(known)}")
            if name == study.study_name:
                continue
            other = optuna.load_study(study_name=name, storage=study._storage)
            trials = [trial for trial in other.get_trials(deepcopy=False) if trial.state.is_finished()]
            if len(other.directions) == 1 and joint_space(trials) == space:
                found.append(as_record(other, space, trials))
            elif not self._all:
                self._say_once(f"warm_start: study {name!r} has another search space and is not read")
        return found

    def _refuse_several_objectives(self, study: Study) -> None:
        if len(study.directions) > 1:
            raise UserError(
                f"{type(self).__name__} optimizes one objective, and study {study.study_name!r} has "
                f"{len(study.directions)}"
            )


class OptFormerSampler(Sampler):
    """A `Sampler` that reads the study as a sequence, its names included (Chen et al. 2022).

    Args:
      seed: see `Sampler`.
      optimizer: a shipped OptFormer by name, a directory, or a loaded one, such as
        `l2o.load("optformer").configured(acquisition="thompson_sampling")`.
      warm_start: see `Sampler`.
      independent_sampler: see `Sampler`.
      warn_independent_sampling: see `Sampler`.

    Raises:
      UserError: see `Sampler`; or the optimizer is of another kind.
    """

    def __init__(
        self,
        seed: int | None = None,
        *,
        optimizer: str | Path | Loaded = "optformer",
        warm_start: bool | str | Sequence[str] = False,
        independent_sampler: BaseSampler | None = None,
        warn_independent_sampling: bool = True,
    ):
        loaded = optimizer if isinstance(optimizer, Loaded) else load(optimizer)
        kind = loaded.config.kind
        if kind != "optformer":
            raise UserError(f"OptFormerSampler takes an optimizer of kind 'optformer', found one of kind {kind!r}")
        super().__init__(
            loaded,
            seed,
            warm_start=warm_start,
            independent_sampler=independent_sampler,
            warn_independent_sampling=warn_independent_sampling,
        )


def _entropy() -> int:
    return secrets.randbits(64)


def _end(trial: FrozenTrial) -> tuple[datetime, int]:
    """What trials are sorted by, in the order in which they ended; those in progress come last."""
    return trial.datetime_complete or datetime.max, trial.number
