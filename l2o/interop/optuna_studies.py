"""Studies of Optuna as records: what an OptFormer reads of them."""

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.search_space import intersection_search_space
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from l2o.errors import UserError
from l2o.record import Record, RecordedTrial
from l2o.space.searchspace import SearchSpace

UNNAMED = "no-name-"  # how names begin that Optuna makes up; what follows is random
PROPOSED = "l2o:proposed"  # attributes of a trial in progress: what was proposed for it, before it was asked for
PIECE = 2000  # characters of an attribute, as a database may hold no more


def joint_space(trials: Iterable[FrozenTrial]) -> dict[str, BaseDistribution]:
    """The distributions that all complete trials share, or all pruned ones where there are no others, by name.

    What has one value only is left out, and so is what has no equal in `SearchSpace`.
    """
    known = list(trials)
    complete = any(trial.state == TrialState.COMPLETE for trial in known)
    shared = intersection_search_space(known, include_pruned=not complete)
    return {name: each for name, each in shared.items() if not each.single() and has_equal(name, each)}


def has_equal(name: str, distribution: BaseDistribution) -> bool:
    """Whether a distribution can be a parameter of a `SearchSpace`."""
    try:
        SearchSpace.from_optuna({name: distribution})
    except UserError:
        return False
    return True


def as_record(study: Study, distributions: Mapping[str, BaseDistribution], trials: Iterable[FrozenTrial]) -> Record:
    """A study, of these trials; those that have no place in the space of these distributions are left out.

    A failed trial is infeasible, and so is one with an infinite value. A pruned one has its last intermediate value, as
    for Optuna's TPE. One in progress is pending, with what was proposed for it, and so is one that waits.

    Raises:
      UserError: a distribution has no equal here.
    """
    space = SearchSpace.from_optuna(distributions)
    found = (as_trial(space, trial) for trial in trials)
    told = [trial for trial in found if trial is not None]
    return Record(space, trials=told, **described(study))


def described(study: Study) -> dict[str, Any]:
    """Name, metric and goal of a study with one objective; empty where nobody named it."""
    name = "" if study.study_name.startswith(UNNAMED) else study.study_name
    metric = (getattr(study, "metric_names", None) or [""])[0]  # the part of a study that Hyperband shows has none
    return {"name": name, "metric": metric, "goal": study.direction.name.lower()}


def as_trial(space: SearchSpace, trial: FrozenTrial) -> RecordedTrial | None:
    """A trial; None where it lacks a parameter, or has a value that the space has not."""
    chosen = trial.params if trial.state.is_finished() else proposed(trial) | trial.params
    try:
        parameters = {name: chosen[name] for name in space.names}
        space.to_unit(parameters)
    except (KeyError, UserError):
        return None
    if not trial.state.is_finished():
        return RecordedTrial(parameters, None, "pending")
    value = None
    if trial.state == TrialState.COMPLETE:
        value = trial.value
    elif trial.state == TrialState.PRUNED and trial.last_step is not None:
        value = trial.intermediate_values[trial.last_step]
    if value is None or not math.isfinite(value):
        return RecordedTrial(parameters, None, "infeasible")
    return RecordedTrial(parameters, float(value))


def propose(study: Study, trial: FrozenTrial, parameters: Mapping[str, Any]) -> None:
    """Write down what is proposed for a trial, so that other workers know it before it is asked for."""
    text = json.dumps(parameters)
    for i in range(0, len(text), PIECE):
        study._storage.set_trial_system_attr(trial._trial_id, f"{PROPOSED}:{i // PIECE}", text[i : i + PIECE])


def proposed(trial: FrozenTrial) -> dict[str, Any]:
    """What a trial will have: what was proposed for it, as far as that is known, and what a person fixed."""
    attributes, pieces = trial.system_attrs, []
    while (key := f"{PROPOSED}:{len(pieces)}") in attributes:
        pieces.append(attributes[key])
    try:
        found = json.loads("".join(pieces) or "{}")
    except json.JSONDecodeError:  # another worker is about to write the next piece
        found = {}
    return found | attributes.get("fixed_params", {})
