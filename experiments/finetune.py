"""What `l2o finetune` does: train an OptFormer further, on the studies of an Optuna storage.

The directory is that of a run (see `experiments.run`), and data/ in it holds the studies.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

import l2o
from experiments import run
from experiments.data import Data
from experiments.directory import claim
from experiments.document import assign
from experiments.progress import say
from experiments.run import Experiment
from l2o.core import Theta
from l2o.errors import UserError
from l2o.files import write_whole
from l2o.loaded import Loaded
from l2o.optformer.optformer import OptFormerConfig
from meta.learner.imitation import ImitationConfig
from meta.recordings.imports import Imported, OptunaStudiesConfig

FEWEST = 5  # trials of a study that is trained on
TOKENS = 6400  # in a meta-step, about


class Outcome(NamedTuple):
    """What came of it.

    Attributes:
      steps: meta-steps made.
      before: mean negative log-likelihoods of held-out studies under the optimizer that it began with, in nats per
        token: `validation`, what is trained for, `validation_x` of parameters and `validation_y` of values; None where
        the training is not finished.
      after: the same under the optimizer that was kept.
    """

    steps: int
    before: dict[str, float] | None
    after: dict[str, float] | None


def finetune(
    url: str, out: Path, *, optimizer: str = "optformer", studies: Sequence[str] = (), steps: int = 300,
    overrides: Sequence[str] = (), quiet: bool = False,
) -> Outcome | None:  # fmt: skip
    """Import studies into `out`/data and train on them.

    Args:
      url: of a storage of Optuna.
      out: an empty directory.
      optimizer: an OptFormer to begin with, by name or directory.
      studies: names; all by default that have a space which `l2o.OptFormerSampler` could continue.
      steps: meta-steps.
      overrides: assignments to fields of the experiment, such as "meta.optimizer.learning_rate=1e-3".
      quiet: print no progress.

    Raises:
      UserError: the storage cannot be read or has too few studies, the directory is in use, or a field makes no sense.
    """
    loaded = l2o.load(optimizer)
    source = OptunaStudiesConfig(url=url, studies=tuple(studies), as_sampler=True, fewest=FEWEST)
    found = list(source.read(0))
    if len(found) < 2:
        raise UserError(
            f"the storage: found {len(found)} of one objective, with parameters that all trials share and at least "
            f"{FEWEST} trials, expected two studies or more, as one is held out"
        )
    chosen = experiment(loaded, optimizer, out / "data", found, steps, overrides)
    claim(out, "choose another --out, or --resume the run in it")
    Data(source=source).record(out / "data", quiet=True)
    if not quiet:
        say(f"{len(found)} studies, {sum(len(study.y) for study in found):,} trials")
    write_whole(out / "config.toml", chosen.toml())
    return resumed(chosen, out, quiet=quiet)


def experiment(
    loaded: Loaded, optimizer: str, data: Path, found: Sequence[Imported], steps: int, overrides: Sequence[str] = ()
) -> Experiment:
    """What is trained: theta of the optimizer, on the studies that will be in a directory.

    Raises:
      UserError: it is no OptFormer, or an override makes no sense.
    """
    if not isinstance(loaded.config, OptFormerConfig):
        raise UserError(f"{optimizer} is of kind {loaded.config.kind!r}, expected an optimizer of kind 'optformer'")
    widest = max(len(study.space) for study in found) + 1
    longest = max(min(len(study.y), loaded.config.max_trials) * (len(study.space) + 1) for study in found)
    longest = max(longest, 2 * widest)
    tasks = min(max(TOKENS // longest, 4), 32)
    document: dict[str, Any] = {
        "description": f"{optimizer}, trained further on {len(found)} studies",
        "optimizer": loaded.config.model_dump(mode="json"),
        "task": {"kind": "trajectories", "paths": [str(data)], "held_out": 0.2, "drop_names": 0.0},
        "meta": {
            "init": optimizer, "steps": steps, "tasks": tasks, "validation_tasks": 6 * tasks,
            "log_every": 10, "validate_every": 50, "checkpoint_every": 50,
            "optimizer": {
                "kind": "imitation", "learning_rate": 3e-4, "warmup": 20, "average": 0.95,
                "buckets": sorted({max(math.ceil(longest * share), 2 * widest) for share in (0.5, 1)}),
            },
        },
    }  # fmt: skip
    for override in overrides:
        assign(document, override)
    chosen = Experiment.parse(document, "l2o finetune with --set" if overrides else "l2o finetune")
    if not isinstance(chosen.meta.optimizer, ImitationConfig):
        raise UserError(f"meta.optimizer: found kind {chosen.meta.optimizer.kind!r}, expected 'imitation'")
    return chosen


def resumed(chosen: Experiment, out: Path, *, quiet: bool = False) -> Outcome | None:
    """Begin or go on with a training whose studies and config.toml are in a directory; None if it was finished.

    Raises:
      UserError: the run in it is another one.
    """
    if chosen.meta.init is None:
        raise UserError(f"{out} holds a run that began with no optimizer: expected one of l2o finetune")
    result = run.train(chosen, out, resume=True, quiet=quiet)
    if result is None:
        return None
    if not result.finished:
        return Outcome(result.step, None, None)
    before = likelihood(chosen, l2o.load(chosen.meta.init).theta)
    after = likelihood(chosen, result.theta)
    loaded = l2o.load(out)
    l2o.save(out, loaded.config, loaded.theta, loaded.provenance | {"finetuned": {"before": before, "after": after}})
    return Outcome(result.step, before, after)


def likelihood(chosen: Experiment, theta: Theta) -> dict[str, float]:
    """Mean negative log-likelihoods of the studies that are never trained on, cut as they are in validation."""
    family, learned = chosen.task.build("train"), chosen.optimizer.build()
    validate = chosen.meta.learner(learned, family).validate
    assert validate is not None
    key = jax.random.split(jax.random.key(chosen.seed), 3)[2]
    scores = jax.jit(validate, static_argnums=3)(theta, family, key, chosen.meta.validation_tasks)
    return {name: float(value) for name, value in scores.items()}
