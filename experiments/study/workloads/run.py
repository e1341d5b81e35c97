"""A study over workloads: small training problems of many kinds, and ladders of their scale.

Each tuned column is run at two settings: the one that is best over the suite, and the one that is best on the workload
itself. Settings are chosen on data, starts and minibatches that nothing reported comes from.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.study.columns import Column, columns
from experiments.study.losses import final, log_loss
from experiments.study.pieces import Arrays, Pieces, apart, together
from experiments.study.runner import Runner
from experiments.study.workloads.config import Workloads
from experiments.study.workloads.settings import Setting, at, choose, name_of, settings
from l2o.errors import UserError
from tasks.family import Split, TaskFamily

WAYS = ("suite", "each")  # where the setting of a column is best
Families = dict[str, TaskFamily]


class Plan(NamedTuple):
    """What is going to be run.

    Attributes:
      study: what was asked for.
      columns: the optimizers.
      workloads: names of those whose data are on this machine.
      left_out: sentences on those whose data are not, and on baselines that need a file.
    """

    study: Workloads
    columns: list[Column]
    workloads: list[str]
    left_out: list[str]

    @property
    def opening(self) -> str:
        """How much it is."""
        tried = sum(len(settings(self.study, column)) for column in self.tuned)
        size = f"{len(self.workloads)} workloads, {len(self.columns)} optimizers, {self.study.runs} runs each"
        return "\n".join([*self.left_out, f"{size}, after {tried} settings in {self.study.tune.runs} runs each"])

    @property
    def tuned(self) -> list[Column]:
        """The columns whose settings are chosen."""
        return [column for column in self.columns if column.tuned]

    @property
    def pieces(self) -> int:
        """On each workload one for the runs of a column, and one for tuning it."""
        return len(self.workloads) * (len(self.columns) + len(self.tuned))


class Found(NamedTuple):
    """What was found.

    Attributes:
      workloads: names of those that were run.
      left_out: the plan's sentences, and those on workloads whose data vanished since.
      chosen: of each tuned column, the best setting over the "suite", and "each" by workload.
      rows: for each column and way, "adam (suite)", and each workload: "value" [runs, horizon + 1] and measures [runs],
        the "seconds" per step of one run without measures, and its "setting", empty for one that is not tuned.
    """

    workloads: list[str]
    left_out: list[str]
    chosen: dict[str, dict[str, Any]]
    rows: dict[str, list[dict[str, Any]]]


class NoData(UserError):
    """The data of a workload cannot be read."""


def families(study: Workloads, name: str, splits: Sequence[Split] = ("train", "test")) -> Families:
    """The tasks of a workload, by split.

    Raises:
      NoData: its data are not on this machine.
      UserError: it is a mixture.
    """
    try:
        built: Families = {split: study.workloads[name].task.build(split) for split in splits}
    except UserError as error:
        raise NoData(f"left out {name}: {error}") from None
    if any(len(family.parts) > 1 for family in built.values()):
        raise UserError(f"workloads.{name}: a mixture has several kinds of tasks, expected a workload for each of them")
    return built


def plan(study: Workloads) -> Plan:
    """What a study is going to run.

    Raises:
      UserError: an optimizer does not exist, a reference is none of the baselines, or nothing of the suite is left.
    """
    lacking = {name: baseline.lacks for name, baseline in study.baselines.items() if baseline.lacks}
    left_out = [f"left out {name}: {sentence}" for name, sentence in lacking.items()]
    kept = {name: baseline for name, baseline in study.baselines.items() if name not in lacking}
    found = columns(study.model_copy(update={"baselines": kept}))
    for column in found:
        if not column.gradients:
            raise UserError(f"{column.name} reads no gradients, expected optimizers that do")
    for reference in study.references:
        if reference not in [column.name for column in found if not column.learned]:
            raise UserError(f"references: {reference!r} is none of the baselines of the study")
    names = []
    for name in study.workloads:
        try:
            families(study, name, ["test"])
            names.append(name)
        except NoData as missing:
            left_out.append(str(missing))
    need_suite(study, names, left_out)
    return Plan(study, found, names, left_out)


def need_suite(study: Workloads, names: list[str], left_out: list[str]) -> list[int]:
    """Where in a list of workloads those of the suite are.

    Raises:
      UserError: nowhere.
    """
    suite = [index for index, name in enumerate(names) if study.workloads[name].in_suite]
    if not suite:
        raise UserError(f"no workload of scale 1 can be run: {'; '.join(left_out)}")
    return suite


def run(plan: Plan, pieces: Pieces) -> Found:
    """Tune the columns on every workload, then run them."""
    study, left_out = plan.study, list(plan.left_out)

    def visit(names: list[str], of_column: Callable[..., Any], some: list[Column]) -> dict[str, dict[str, Any]]:
        """What a function finds for columns on each workload; those whose data have vanished are said and left out."""
        found = {}
        for name in names:
            data = functools.cache(functools.partial(families, study, name))
            try:
                found[name] = {column.name: of_column(name, column, data) for column in some}
            except NoData as missing:
                left_out.append(str(missing))
                pieces.say(str(missing))
        return found

    def tune(name: str, column: Column, data: Callable[[], Families]) -> Arrays:
        return pieces(
            f"cells/{name}-{column.file}-tune", f"tuned {column.name} on {name}",
            lambda: _tuned(study, name, column, data()),
        )  # fmt: skip

    tuned = visit(plan.workloads, tune, plan.tuned)
    suite, chosen = need_suite(study, list(tuned), left_out), {}
    for column in plan.tuned:
        tried = settings(study, column)
        best, each = choose(np.stack([found[column.name]["scores"] for found in tuned.values()]), suite)
        chosen[column.name] = {
            "suite": tried[best], "each": {name: tried[i] for name, i in zip(tuned, each, strict=True)},
        }  # fmt: skip

    def runs(name: str, column: Column, data: Callable[[], Families]) -> dict[str, dict[str, Any]]:
        of_column = chosen.get(column.name)
        ways = dict(zip(WAYS, (of_column["suite"], of_column["each"][name]), strict=True)) if of_column else {"": {}}
        asked = {name_of(setting): setting for setting in ways.values()}
        made = pieces(
            "-".join(filter(None, [f"cells/{name}-{column.file}", *asked])), f"ran {column.name} on {name}",
            lambda: together(_runs(study, name, column, asked, data())),
        )  # fmt: skip
        arrays = apart(made)
        more = {"seconds": tuned[name][column.name]["seconds"]} if of_column else {}
        return {way: {**arrays[name_of(setting)], **more, "setting": setting} for way, setting in ways.items()}

    ran = visit(list(tuned), runs, plan.columns)
    need_suite(study, list(ran), left_out)
    rows = {
        label(column.name, way): [of_workload[column.name][way] for of_workload in ran.values()]
        for column in plan.columns for way in (WAYS if column.tuned else ("",))
    }  # fmt: skip
    return Found(list(ran), left_out, chosen, rows)


def label(name: str, way: str) -> str:
    """A column with the way in which its setting was chosen, "adam (suite)"."""
    return f"{name} ({way})" if way else name


class _Runners:
    """Runs at any setting of a column on a workload; settings that differ by numbers alone share a program."""

    def __init__(self, study: Workloads, name: str, column: Column, built: Families) -> None:
        self.study, self.name, self.column, self.built = study, name, column, built
        self.made: dict[Any, Runner] = {}

    def __call__(self, setting: Setting, split: str, runs: int, measure: bool) -> tuple[Arrays, float]:
        column, argument = at(self.study, self.column, setting)
        if column.make not in self.made:
            self.made[column.make] = Runner(
                self.built, column, horizon=self.study.updates(self.name), seed=self.study.seed,
                together=self.study.tune.runs,
            )  # fmt: skip
        return self.made[column.make](argument, split, runs, measure=measure)


def _tuned(study: Workloads, name: str, column: Column, built: Families) -> dict[str, np.ndarray]:
    """Mean log final loss of each setting on the workload's training split, and seconds per step of one run."""
    runners, scores, seconds = _Runners(study, name, column, built), [], []
    for setting in settings(study, column):
        values, took = runners(setting, "train", study.tune.runs, measure=False)
        scores.append(log_loss(final(values["value"]), study.floor).mean())
        seconds.append(took)
    jax.clear_caches()  # hundreds of programs in one process are more than its memory map can hold
    return {"scores": np.array(scores), "seconds": np.median(seconds)}


def _runs(
    study: Workloads, name: str, column: Column, asked: dict[str, Setting], built: Families
) -> dict[str, dict[str, Any]]:
    """Runs on the workload's test split at each setting; of a column that is not tuned also the seconds."""
    runners = _Runners(study, name, column, built)
    found: dict[str, dict[str, Any]] = {
        which: runners(setting, "test", study.runs, measure=True)[0] for which, setting in asked.items()
    }
    if not column.tuned:
        found[""]["seconds"] = np.array(runners({}, "train", study.tune.runs, measure=False)[1])
    jax.clear_caches()
    return found
