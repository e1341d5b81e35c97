"""The training loop: chunks of meta-steps under one jit, progress, validation, resume."""

import math
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from pydantic import Field, PlainValidator, SerializeAsAny, model_validator

from l2o.core import LearnedOptimizer, Theta
from l2o.errors import UserError
from l2o.registry import Config, by_kind, kinds, parse
from l2o.wrappers.asynchronous import asynchronous
from meta import parallel
from meta.checkpoints import Checkpoints, Metrics, Progress
from meta.curriculum import FixedConfig, HorizonConfig, parse_horizon
from meta.estimator import EstimatorConfig
from meta.estimator.backprop import BackpropConfig
from meta.evaluate import evaluate
from meta.learner.base import Learner, LearnerConfig
from meta.learner.gradient import AdamLearnerConfig
from meta.objective import ObjectiveConfig, SumConfig
from tasks.family import TaskFamily

PATIENCE = 100  # consecutive meta-gradients that may fail before a run stops


def _estimator(value: Any) -> EstimatorConfig | None:
    return None if value is None else parse(EstimatorConfig, value)


class MetaConfig(Config):
    """How an optimizer is meta-trained.

    Attributes:
      steps: meta-updates.
      tasks: inner runs advanced side by side in each meta-step.
      horizon: inner updates in a run: a number, or a table with a kind of schedule.
      objective: the meta-loss.
      estimator: how its gradient is estimated; backprop when left out, none for an optimizer that needs none.
      optimizer: the rule that changes theta.
      devices: how many to divide the runs of a meta-step among, or "all": as many as can share them evenly.
      workers: evaluations in progress at a time; with more than one, the optimizer is told of them out of order, see
        `l2o.asynchronous`.
      init: a shipped optimizer or a directory to start theta from; fresh meta-parameters when left out.
      log_every: meta-steps in one jitted chunk and one line of metrics.
      validate_every: meta-steps between validations, a multiple of log_every.
      checkpoint_every: meta-steps between checkpoints, a multiple of log_every.
      validation_tasks: held-out starts and minibatches, the same at every validation; the theta with the lowest
        mean meta-loss on them is kept.
    """

    steps: int = Field(ge=1)
    tasks: int = Field(default=4, ge=1)
    horizon: Annotated[SerializeAsAny[HorizonConfig], PlainValidator(parse_horizon)] = FixedConfig(length=100)
    objective: Annotated[SerializeAsAny[ObjectiveConfig], by_kind(ObjectiveConfig)] = SumConfig()
    estimator: Annotated[SerializeAsAny[EstimatorConfig] | None, PlainValidator(_estimator)] = None
    optimizer: Annotated[SerializeAsAny[LearnerConfig], by_kind(LearnerConfig)] = AdamLearnerConfig()
    devices: Annotated[int, Field(ge=1)] | Literal["all"] = "all"
    workers: int = Field(default=1, ge=1, le=1000)
    init: str | None = Field(default=None, min_length=1)
    log_every: int = Field(default=50, ge=1)
    validate_every: int = Field(default=500, ge=1)
    checkpoint_every: int = Field(default=500, ge=1)
    validation_tasks: int = Field(default=64, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _default_estimator(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("estimator") is not None:
            return data
        optimizer = data.get("optimizer", AdamLearnerConfig())
        kind = optimizer.get("kind", "adam") if isinstance(optimizer, dict) else getattr(optimizer, "kind", None)
        known = kinds(LearnerConfig).get(kind) if isinstance(kind, str) else None
        return data if known is None or not known.estimates else {**data, "estimator": BackpropConfig()}

    @model_validator(mode="after")
    def _check(self) -> "MetaConfig":
        if self.estimator is not None and not self.optimizer.estimates:
            raise ValueError(
                f"estimator: found {self.estimator.kind!r}, expected none, because the optimizer"
                f" {self.optimizer.kind!r} takes no gradient"
            )
        for name in ("validate_every", "checkpoint_every"):
            if getattr(self, name) % self.log_every:
                raise ValueError(
                    f"{name} must be a multiple of log_every, found {getattr(self, name)} and {self.log_every}"
                )
        return self

    def employ(self, learned: LearnedOptimizer) -> LearnedOptimizer:
        """The architecture as it is run in training: with the configured number of workers.

        Raises:
          UserError: a gradient-based optimizer with several workers.
        """
        if self.workers == 1:
            return learned
        if learned.native is not None:
            raise UserError(f"meta.workers: found {self.workers}, expected 1 for an optimizer that reads gradients")
        return learned._replace(bind=lambda theta: asynchronous(learned.bind(theta), self.workers))

    def learner(self, learned: LearnedOptimizer, family: TaskFamily) -> Learner:
        """The rule that changes theta.

        Raises:
          UserError: devices, tasks and families do not fit, or evosax refuses the algorithm.
        """
        return self.optimizer.build(
            self.employ(learned), self.objective.build(), self.estimator, self.horizon.longest, self.tasks, self.steps,
            self.devices, len(family.parts),
        )  # fmt: skip


@dataclass(frozen=True)
class TrainingResult:
    """What a training leaves: the kept theta, its validation score, and what it cost.

    Attributes:
      theta: the averaged meta-parameters with the best validation.
      step: meta-steps made.
      validation: mean meta-loss of theta on the validation tasks.
      validation_step: the step at which it was found.
      skipped: meta-updates skipped because their gradient was not finite.
      seconds: wall-clock time, summed over resumed parts.
      finished: whether all meta-steps were made.
      devices: how many the last part of the training ran on.
    """

    theta: Theta
    step: int
    validation: float
    validation_step: int
    skipped: int
    seconds: float
    finished: bool
    devices: int = 1


Report = Callable[[dict[str, Any]], None]


class Interrupt:
    """Context that turns the first Ctrl-C (or SIGTERM) into a flag; the second one acts as usual."""

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def _handle(self, number: int, frame: Any) -> None:
        self.requested = True
        self._restore()
        print("\nsaving after the present chunk; interrupt again to stop at once", file=sys.stderr, flush=True)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def __exit__(self, *exc: object) -> None:
        self._restore()


def train(
    out: Path,
    learned: LearnedOptimizer,
    family: TaskFamily,
    config: MetaConfig,
    *,
    seed: int,
    identity: dict[str, Any],
    theta: Theta | None = None,
    validation: TaskFamily | None = None,
    report: Report = lambda row: None,
) -> TrainingResult:
    """Meta-train, from the beginning or from the last checkpoint in `out`.

    One seed decides everything: the same seed on the same machine gives the same theta to the bit, also when the
    training was killed and resumed.

    Args:
      out: run directory; checkpoints/ and metrics.jsonl are written there.
      learned: the architecture.
      family: tasks to train on.
      config: see `MetaConfig`.
      seed: randomness of the run.
      identity: the resolved config as JSON, stored with each checkpoint; a checkpoint of another one is refused.
      theta: meta-parameters to start from; fresh ones when None.
      validation: tasks on which theta is judged; other starts and minibatches of `family` when None.
      report: called with each row of metrics.

    Raises:
      UserError: the checkpoints belong to another config, or meta-gradients keep failing.
    """
    learner_key, start_key, validation_key = jax.random.split(jax.random.key(seed), 3)
    bind = config.employ(learned).bind
    learner, objective = config.learner(learned, family), config.objective.build()
    mesh = learner.mesh
    shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), learner.specs)
    whole = NamedSharding(mesh, parallel.WHOLE)
    if theta is None:
        theta = learned.init(start_key)
    best = jax.tree.map(np.asarray, theta)
    theta, family = parallel.place(theta, mesh), parallel.place(family, mesh)
    judge = family if validation is None else parallel.place(validation, mesh)
    stages = [parallel.place(config.horizon.family(family, i), mesh) for i in range(len(config.horizon.stages))]

    def init(theta, family):
        state = learner.init(learner_key, family, theta)
        return jax.tree.map(lambda a: jax.lax.convert_element_type(a, a.dtype), state)  # weak types compile twice

    init = jax.jit(init, out_shardings=shardings)

    def chunk(state, family, steps):
        state, metrics = jax.lax.scan(lambda s, _: learner.step(s, family), state, None, steps)
        return state, jax.tree.map(jnp.nanmean, metrics)

    chunk = jax.jit(chunk, static_argnums=2, donate_argnums=0, out_shardings=(shardings, whole))
    scores_of = None if learner.validate is None else jax.jit(learner.validate, static_argnums=3)

    def validate(theta, horizon):
        key = jax.random.clone(validation_key)
        if scores_of is not None:
            scores = scores_of(theta, judge, key, config.validation_tasks)
            return {name: float(value) for name, value in scores.items()}
        measured = evaluate(
            bind, theta, judge, key, tasks=config.validation_tasks, horizon=horizon, batch=32, objective=objective,
            measure=False, mesh=mesh,
        )  # fmt: skip
        return {
            "validation": float(measured["objective"].mean()),
            "validation_final": float(measured["value"][:, -1].mean()),
        }

    with Checkpoints(out / "checkpoints", identity) as checkpoints, Interrupt() as interrupt:
        abstract = jax.eval_shape(init, theta, stages[0])
        restored = checkpoints.restore(abstract, best)
        if restored is None:
            state, record = init(theta, stages[0]), Progress()
        else:
            state, best, record = parallel.place(restored[0], mesh, learner.specs), restored[1], restored[2]
        step, saved_step = int(state.step), int(state.step) if restored else -1
        metrics = Metrics(out / "metrics.jsonl", step)
        start = time.perf_counter() - record.seconds
        stopping = parallel.anyone(interrupt.requested)

        while step < config.steps and not stopping:
            began = time.perf_counter()
            count = min(config.log_every, config.steps - step)
            state, measured = chunk(state, stages[record.stage], count)
            step += count
            row = {"step": step, **{name: float(value) for name, value in measured.items()}}
            row["skipped"] = int(state.skipped)
            row["steps_per_second"] = count / (time.perf_counter() - began)
            if "tokens" in row:
                row["tokens_per_second"] = row["tokens"] * row["steps_per_second"]
            if len(stages) > 1:
                row["horizon"] = config.horizon.stages[record.stage][1]
            _refuse_failure(out, config, step, saved_step, int(state.failing), row)
            if step % config.validate_every == 0 or step == config.steps:
                row |= validate(state.average, config.horizon.validated(record.stage))
                score = row["validation"]
                if score < record.best_score or (math.isinf(record.best_score) and step == config.steps):
                    best = parallel.collect(state.average)
                    record = replace(record, best_score=score, best_step=step, stale=0)
                else:
                    record = replace(record, stale=record.stale + 1)
                grown = record.stage + 1 == len(stages) or step == config.steps
                if record.stale >= config.horizon.patience and not grown:
                    # scores at another horizon cannot be compared: the next stage keeps its own best
                    record = replace(record, stage=record.stage + 1, stale=0, best_score=math.inf)
            record = replace(record, seconds=time.perf_counter() - start)
            row["seconds"] = record.seconds
            metrics.append(row)
            report(row)
            stopping = parallel.anyone(interrupt.requested)
            if step % config.checkpoint_every == 0 or step == config.steps or stopping:
                checkpoints.save(step, state, best, record)
                saved_step = step
        if saved_step < step:
            checkpoints.save(step, state, best, record)

    kept = best if record.best_step else parallel.collect(state.average)
    return TrainingResult(
        kept, step, record.best_score, record.best_step, int(state.skipped), record.seconds,
        finished=step >= config.steps, devices=mesh.size,
    )  # fmt: skip


def _refuse_failure(
    out: Path, config: MetaConfig, step: int, saved_step: int, failing: int, row: dict[str, Any]
) -> None:
    kept = f"the checkpoint at step {saved_step} is kept" if saved_step >= 0 else "nothing was saved yet"
    if failing >= PATIENCE:
        raise UserError(
            f"{out}: stopped at step {step} after {failing} meta-gradients in a row were not finite;"
            f" {kept}; try a smaller learning rate or clip"
        )
    if row.get("gradient_norm") == 0 and config.estimator is not None:
        hint = ": es, pes and nres need no derivative" if config.estimator.kind == "backprop" else ""
        raise UserError(
            f"{out}: stopped at step {step}, because the meta-gradient was exactly zero in {config.log_every} steps;"
            f" {kept}; meta.estimator {config.estimator.kind!r} sees no effect of theta on this task{hint}"
        )
