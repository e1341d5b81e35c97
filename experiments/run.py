"""An experiment, and its run directory: train into it, resume it, report it.

config.toml          the fully resolved experiment
metrics.jsonl        one row per chunk of meta-steps
checkpoints/         Orbax
optimizer.json, theta.safetensors   the artifact
curves.png, report.html
"""

import math
import os
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from pydantic import Field, SerializeAsAny

import l2o
from experiments import training_report
from experiments.directory import claim, fresh_directory
from experiments.document import HERE, Document, Task
from experiments.progress import progress
from experiments.tensorboard import also_to_tensorboard, require_tensorboard
from l2o.core import OptimizerConfig
from l2o.errors import UserError
from l2o.files import difference, is_text, write_whole
from l2o.registry import by_kind
from meta import parallel
from meta.credentials import without_password
from meta.trainer import MetaConfig, TrainingResult
from meta.trainer import train as meta_train
from tasks.family import TaskFamily

LICENCE = "Apache-2.0"


class Experiment(Document):
    """What `l2o train` runs: meta-train one optimizer on one task family.

    Attributes:
      seed: decides everything random, 0 to 2^31 - 1.
      optimizer: a learned optimizer's architecture.
      task: the family it is trained on.
      validation: the family on which the theta that is kept is chosen, such as one of other kinds; other starts and
        minibatches of `task` when left out.
      meta: how.

    >>> from experiments import Experiment
    >>> Experiment.load("lstm_digits").optimizer.kind
    'lstm'
    """

    seed: int = Field(default=0, ge=0, lt=2**31)
    optimizer: Annotated[SerializeAsAny[OptimizerConfig], by_kind(OptimizerConfig)]
    task: Task
    validation: Task | None = None
    meta: MetaConfig

    @classmethod
    def folder(cls) -> Path:
        return HERE / "configs"

    def train(self, out: str | Path | None = None, *, resume: bool = False, quiet: bool = False) -> l2o.Loaded:
        """Meta-train; returns the trained optimizer. The run directory is `out`, by default a fresh runs/<kind>-<n>.

        Raises:
          UserError: `out` is not empty and `resume` is not set, or the data or a starting optimizer is missing.
        """
        path = Path(out) if out is not None else fresh_directory(f"{self.optimizer.kind}_{self.task.kind}")
        train(self, path, resume=resume, quiet=quiet)
        return l2o.load(path)


def resumed_experiment(out: Path, overrides: Sequence[str] = ()) -> Experiment:
    """The experiment whose run is in a directory.

    Raises:
      UserError: there is none.
    """
    if not (out / "config.toml").is_file():
        raise UserError(f"{out} holds no run to resume: config.toml is missing")
    return Experiment.load(out / "config.toml", overrides)


def train(
    experiment: Experiment, out: Path, *, resume: bool = False, quiet: bool = False, tensorboard: bool = False
) -> TrainingResult | None:
    """Train an experiment into a directory, or resume it there.

    Returns:
      What came of it; None when a finished run was asked to resume, which changes nothing.

    Raises:
      UserError: the directory is in use, belongs to another config, or data is missing.
    """
    if tensorboard:
        require_tensorboard()
    if not is_text(str(out.absolute())):  # Orbax takes no other
        raise UserError(f"{str(out.absolute())!r} cannot be a run directory: its name is not UTF-8 text")
    if resume and parallel.agree(lambda: _finished(experiment, out)):
        return None
    family, learned, theta = experiment.task.build("train"), experiment.optimizer.build(), _starting_theta(experiment)
    judge = None if experiment.validation is None else experiment.validation.build("train")
    for name, built in (("task", family), ("validation", judge)):
        if built is not None:
            _refuse_without_gradients(experiment, learned, name, built)
    experiment.meta.learner(learned, family)  # refuses devices that do not exist, before anything is written
    if not resume:
        parallel.agree(lambda: claim(out, "choose another --out, or --resume the run in it"))
        if parallel.writes():
            write_whole(out / "config.toml", experiment.toml())
    with progress(experiment.meta.steps, quiet=quiet or not parallel.writes()) as show:
        if tensorboard and parallel.writes():
            show = also_to_tensorboard(show, out / "tensorboard")
        result = meta_train(
            out, learned, family, experiment.meta,
            seed=experiment.seed, identity=_identity(experiment), theta=theta, validation=judge, report=show,
        )  # fmt: skip
    if parallel.writes():
        l2o.save(out, experiment.optimizer, result.theta, provenance(experiment, result))
        if result.finished:
            training_report.write(out, experiment, result)
    return result


def _identity(experiment: Experiment) -> dict[str, Any]:
    """What a run must not change when it is resumed: everything but the number of devices."""
    known = experiment.model_dump(mode="json", exclude={"meta": {"devices"}})
    if experiment.validation is None:
        known.pop("validation")  # which runs from before it existed do not know
    return known


def _finished(experiment: Experiment, out: Path) -> bool:
    began = resumed_experiment(out)
    finished = (out / "report.html").is_file()
    if finished:
        began = Experiment.parse(l2o.load(out).provenance["experiment"], f"{out}: optimizer.json")
    changed = difference(_identity(began), _identity(experiment))
    if changed:
        raise UserError(f"cannot resume {out}: {changed} since the run began")
    return finished


def _refuse_without_gradients(
    experiment: Experiment, learned: l2o.LearnedOptimizer, name: str, family: TaskFamily
) -> None:
    def gradient(key, part):
        task = part.task(part.sample(key))
        return task.evaluate(key, jax.tree.map(lambda a: jnp.asarray(a)[None], task.problem.start)).gradient

    found = [jax.eval_shape(gradient, jax.random.key(0), part) for part in family.parts]
    if learned.native is not None and None in found:
        kind = getattr(experiment, name).kind
        raise UserError(
            f"{name}.kind {kind!r} gives no gradients, and optimizer.kind {experiment.optimizer.kind!r} "
            "needs them: expected a differentiable task or a black-box optimizer"
        )


def _starting_theta(experiment: Experiment) -> Any:
    if experiment.meta.init is None:
        return None
    loaded = l2o.load(experiment.meta.init)
    if loaded.config != experiment.optimizer:
        raise UserError(
            f"meta.init: {experiment.meta.init!r} is a {loaded.config!r}, expected the architecture of this config, "
            f"{experiment.optimizer!r}"
        )
    return loaded.theta


def _command() -> str:
    program = Path(sys.argv[0])
    ours = program.name == "l2o" or program.parts[-2:] == ("l2o", "__main__.py")
    return shlex.join(["l2o", *map(without_password, sys.argv[1:])]) if ours else "Experiment.train, from Python"


def provenance(experiment: Experiment, result: TrainingResult) -> dict[str, Any]:
    """How an artifact was made, as JSON."""
    device = jax.devices()[0]
    return {
        "experiment": experiment.model_dump(mode="json"),
        "command": _command(),
        "data": experiment.task.provenance(),
        "seed": experiment.seed,
        "meta_steps": result.step,
        "finished": result.finished,
        "validation_meta_loss": result.validation if math.isfinite(result.validation) else None,
        "validation_step": result.validation_step,
        "skipped_meta_steps": result.skipped,
        "seconds": round(result.seconds, 1),
        "device": f"{device.platform}, {os.cpu_count()} cores" if device.platform == "cpu" else device.device_kind,
        "devices": result.devices,
        "processes": jax.process_count(),
        "dtype": getattr(experiment.optimizer, "dtype", "float32"),
        "versions": {"l2o": l2o.__version__, "jax": jax.__version__, "python": platform.python_version()},
        "date": time.strftime("%Y-%m-%d"),
        "licence": LICENCE,
    }
