"""The training loop: chunks of meta-steps under one jit, progress, metrics, validation, checkpoints, resume."""

import json
import math
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from pydantic import Field, SerializeAsAny, model_validator

from l2o.core import LearnedOptimizer, Theta
from l2o.errors import UserError
from l2o.files import write_whole
from l2o.registry import Config, by_kind
from meta.estimator import EstimatorConfig
from meta.estimator.backprop import BackpropConfig
from meta.evaluate import evaluate
from meta.learner import LearnerConfig
from meta.objective import ObjectiveConfig, SumConfig
from tasks.family import TaskFamily

PATIENCE = 100  # consecutive meta-gradients that may fail before a run stops


class MetaConfig(Config):
    """How an optimizer is meta-trained.

    Attributes:
      steps: meta-updates.
      tasks: inner runs advanced side by side in each meta-step.
      horizon: inner updates in a run.
      objective: the meta-loss.
      estimator: how its gradient is estimated.
      optimizer: the rule that changes theta.
      init: a shipped optimizer or a directory to start theta from; fresh meta-parameters when left out.
      log_every: meta-steps in one jitted chunk and one line of metrics.
      validate_every: meta-steps between validations, a multiple of log_every.
      checkpoint_every: meta-steps between checkpoints, a multiple of log_every.
      validation_tasks: held-out starts and minibatches, the same at every validation; the theta with the lowest
        mean meta-loss on them is kept.
    """

    steps: int = Field(ge=1)
    tasks: int = Field(default=4, ge=1)
    horizon: int = Field(default=100, ge=1)
    objective: Annotated[SerializeAsAny[ObjectiveConfig], by_kind(ObjectiveConfig)] = SumConfig()
    estimator: Annotated[SerializeAsAny[EstimatorConfig], by_kind(EstimatorConfig)] = BackpropConfig()
    optimizer: LearnerConfig = LearnerConfig()
    init: str | None = Field(default=None, min_length=1)
    log_every: int = Field(default=50, ge=1)
    validate_every: int = Field(default=500, ge=1)
    checkpoint_every: int = Field(default=500, ge=1)
    validation_tasks: int = Field(default=64, ge=1)

    @model_validator(mode="after")
    def _multiples(self) -> "MetaConfig":
        for name in ("validate_every", "checkpoint_every"):
            if getattr(self, name) % self.log_every:
                raise ValueError(
                    f"{name} must be a multiple of log_every, found {getattr(self, name)} and {self.log_every}"
                )
        return self


@dataclass(frozen=True)
class Result:
    """What a training leaves: the kept theta, its validation score, and what it cost.

    Attributes:
      theta: the averaged meta-parameters with the best validation.
      step: meta-steps made.
      validation: mean meta-loss of theta on the validation tasks.
      validation_step: the step at which it was found.
      skipped: meta-updates skipped because their gradient was not finite.
      seconds: wall-clock time, summed over resumed parts.
      finished: whether all meta-steps were made.
    """

    theta: Theta
    step: int
    validation: float
    validation_step: int
    skipped: int
    seconds: float
    finished: bool


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
    report: Report = lambda row: None,
) -> Result:
    """Meta-train, from the beginning or from the last checkpoint in `out`.

    One seed decides everything: the same seed on the same machine gives the same theta to the bit, also when the
    training was killed and resumed.

    Args:
      out: run directory; checkpoints/ and metrics.jsonl are written there.
      learned: the architecture.
      family: tasks to train on; validation draws other starts and minibatches from it.
      config: see `MetaConfig`.
      seed: randomness of the run.
      identity: the resolved config as JSON, stored with each checkpoint; a checkpoint of another one is refused.
      theta: meta-parameters to start from; fresh ones when None.
      report: called with each row of metrics.

    Raises:
      UserError: the checkpoints belong to another config, or meta-gradients keep failing.
    """
    learner_key, start_key, validation_key = jax.random.split(jax.random.key(seed), 3)
    objective = config.objective.build()
    estimator = config.estimator.build(learned, objective, config.horizon, config.tasks)
    learner = config.optimizer.build(estimator, config.steps)
    if theta is None:
        theta = learned.init(start_key)

    init = jax.jit(lambda theta, family: learner.init(learner_key, family, theta))

    def chunk(state, family, steps):
        state, metrics = jax.lax.scan(lambda s, _: learner.step(s, family), state, None, steps)
        return state, jax.tree.map(jnp.nanmean, metrics)

    chunk = jax.jit(chunk, static_argnums=2, donate_argnums=0)

    with _Checkpoints(out / "checkpoints", identity) as checkpoints, Interrupt() as interrupt:
        restored = checkpoints.restore(jax.eval_shape(init, theta, family), theta)
        if restored is None:
            state, best, best_score, best_step, seconds = init(theta, family), theta, math.inf, 0, 0.0
        else:
            state, best, best_score, best_step, seconds = restored
        step, saved_step = int(state.step), int(state.step) if restored else -1
        metrics = _Metrics(out / "metrics.jsonl", step)
        start = time.perf_counter() - seconds

        while step < config.steps and not interrupt.requested:
            began = time.perf_counter()
            count = min(config.log_every, config.steps - step)
            state, row = chunk(state, family, count)
            step += count
            row = {"step": step, **{name: float(value) for name, value in row.items()}, "skipped": int(state.skipped)}
            row["steps_per_second"] = count / (time.perf_counter() - began)
            if int(state.failing) >= PATIENCE:
                kept = f"the checkpoint at step {saved_step} is kept" if saved_step >= 0 else "nothing was saved yet"
                raise UserError(
                    f"{out}: stopped at step {step} after {int(state.failing)} meta-gradients in a row were not finite;"
                    f" {kept}; try a smaller learning rate or clip"
                )
            if step % config.validate_every == 0 or step == config.steps:
                measured = evaluate(
                    learned.bind, state.average, family, jax.random.clone(validation_key),
                    tasks=config.validation_tasks, horizon=config.horizon, batch=32, objective=objective, measure=False,
                )  # fmt: skip
                score = float(measured["objective"].mean())
                row["validation"] = score
                row["validation_final"] = float(measured["value"][:, -1].mean())
                if score < best_score or (math.isinf(best_score) and step == config.steps):
                    best, best_score, best_step = jax.tree.map(jnp.copy, state.average), score, step
            row["seconds"] = seconds = time.perf_counter() - start
            metrics.append(row)
            report(row)
            if step % config.checkpoint_every == 0 or step == config.steps or interrupt.requested:
                checkpoints.save(step, state, best, best_score, best_step, seconds)
                saved_step = step
        if saved_step < step:
            checkpoints.save(step, state, best, best_score, best_step, seconds)

    kept = best if best_step else state.average
    return Result(kept, step, best_score, best_step, int(state.skipped), seconds, step >= config.steps)


class _Metrics:
    """metrics.jsonl: one row per chunk; rows past the checkpoint that is resumed are dropped."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        kept = [json.dumps(row) + "\n" for row in read_metrics(path) if row["step"] <= step]
        write_whole(path, "".join(kept))

    def append(self, row: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            finite = {name: value if math.isfinite(value) else None for name, value in row.items()}
            file.write(json.dumps(finite) + "\n")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics file; a last line cut short by a kill is left out."""
    rows = []
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
    return rows


class _Checkpoints:
    """Orbax checkpoints of the learner's state, the best theta so far, and the config they belong to."""

    def __init__(self, directory: Path, identity: dict[str, Any]) -> None:
        import orbax.checkpoint as ocp

        self._args, self._identity = ocp.args, identity
        options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
        self._manager = ocp.CheckpointManager(
            directory.absolute(), options=options, item_names=("state", "best", "record")
        )

    def __enter__(self) -> "_Checkpoints":
        return self

    def __exit__(self, *exc: object) -> None:
        self._manager.close()

    def save(self, step: int, state: Any, best: Theta, score: float, best_step: int, seconds: float) -> None:
        record = {
            "identity": self._identity,
            "best_score": score if math.isfinite(score) else None,
            "best_step": best_step,
            "seconds": seconds,
        }
        args = self._args.Composite(
            state=self._args.StandardSave(state),
            best=self._args.StandardSave(best),
            record=self._args.JsonSave(record),
        )
        self._manager.save(step, args=args, force=True)

    def restore(self, state: Any, best: Theta) -> tuple[Any, Theta, float, int, float] | None:
        step = self._manager.latest_step()
        if step is None:
            return None
        record = self._manager.restore(step, args=self._args.Composite(record=self._args.JsonRestore()))["record"]
        changed = difference(record["identity"], self._identity)
        if changed:
            raise UserError(f"cannot resume: {changed} since the checkpoint at step {step}")
        best = jax.eval_shape(lambda: best)
        args = self._args.Composite(state=self._args.StandardRestore(state), best=self._args.StandardRestore(best))
        restored = self._manager.restore(step, args=args)
        score = math.inf if record["best_score"] is None else record["best_score"]
        return restored["state"], restored["best"], score, record["best_step"], record["seconds"]


def difference(old: Any, new: Any, where: str = "") -> str:
    """The first difference of two JSON documents in words, or the empty string.

    >>> difference({"meta": {"steps": 5}}, {"meta": {"steps": 6}})
    'meta.steps changed from 5 to 6'
    """
    if isinstance(old, dict) and isinstance(new, dict):
        for name in [*old, *(name for name in new if name not in old)]:
            found = difference(old.get(name), new.get(name), f"{where}.{name}" if where else name)
            if found:
                return found
        return ""
    return "" if old == new else f"{where} changed from {old!r} to {new!r}"
