"""What a training leaves on disk while it runs: rows of metrics, and checkpoints to resume from."""

import contextlib
import json
import logging
import math
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from l2o.core import Theta
from l2o.errors import UserError
from l2o.files import difference, write_whole, writing
from meta import parallel


@dataclass(frozen=True)
class Progress:
    """What training remembers beside the learner's state: the best validation, the stage of the horizon, the time."""

    best_score: float = math.inf
    best_step: int = 0
    stage: int = 0
    stale: int = 0
    seconds: float = 0.0


class Metrics:
    """metrics.jsonl: one row per chunk; rows past the checkpoint that is resumed are dropped."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        if not parallel.writes():
            return
        kept = [json.dumps(row) + "\n" for row in read_metrics(path) if row["step"] <= step]
        write_whole(path, "".join(kept))

    def append(self, row: dict[str, Any]) -> None:
        if not parallel.writes():
            return
        finite = {name: value if math.isfinite(value) else None for name, value in row.items()}
        with writing(self.path), self.path.open("a", encoding="utf-8") as file:
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


class Checkpoints:
    """Orbax checkpoints of the learner's state, the best theta so far, and the config they belong to.

    Process 0 alone writes and reads whole arrays, so a training can go on with any number of devices and processes.
    """

    def __init__(self, directory: Path, identity: dict[str, Any]) -> None:
        import orbax.checkpoint as ocp

        self._args, self._identity, self._directory, self._manager = ocp.args, identity, directory, None
        if not parallel.writes():
            return
        with writing(directory):
            directory.mkdir(parents=True, exist_ok=True)
        alone = {0} if jax.process_count() > 1 else None
        options = ocp.CheckpointManagerOptions(
            max_to_keep=2, enable_async_checkpointing=False, create=False,
            multiprocessing_options=ocp.options.MultiprocessingOptions(primary_host=0, active_processes=alone),
        )  # fmt: skip
        self._manager = ocp.CheckpointManager(
            directory.absolute(), options=options, item_names=("state", "best", "record")
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exc: object) -> None:
        if self._manager is not None:
            self._manager.close()

    def save(self, step: int, state: Any, best: Theta, record: Progress) -> None:
        state = parallel.collect(state)
        if self._manager is None:
            return
        score = record.best_score if math.isfinite(record.best_score) else None
        args = self._args.Composite(
            state=self._args.StandardSave(_filled(state)),
            best=self._args.StandardSave(_filled(best)),
            record=self._args.JsonSave({"identity": self._identity, **asdict(record), "best_score": score}),
        )
        with _quiet():
            try:
                self._manager.save(step, args=args, force=True)
            except (OSError, ValueError) as error:  # the latter is tensorstore's word for what the system says
                code = re.search(r"os_error_code='(\d+)'", str(error))
                reason = os.strerror(int(code[1])) if code else getattr(error, "strerror", None) or str(error)
                raise UserError(f"{self._directory}: no checkpoint could be written at step {step}: {reason}") from None

    def restore(self, state: Any, best: Theta) -> tuple[Any, Theta, Progress] | None:
        record = parallel.agree(self._record)
        if record is None:
            return None
        record["best_score"] = math.inf if record["best_score"] is None else record["best_score"]
        zeros = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), (state, jax.eval_shape(lambda: best)))
        restored = parallel.broadcast(self._arrays(*zeros))
        return *restored, Progress(**record)

    def _record(self) -> dict[str, Any] | None:
        assert self._manager is not None
        step = self._manager.latest_step()
        if step is None:
            return None
        record = self._manager.restore(step, args=self._args.Composite(record=self._args.JsonRestore()))["record"]
        changed = difference(record.pop("identity"), self._identity)
        if changed:
            raise UserError(f"cannot resume: {changed} since the checkpoint at step {step}")
        return record

    def _arrays(self, state: Any, best: Theta) -> tuple[Any, Theta]:
        if self._manager is None:
            return state, best
        args = {"state": self._args.StandardRestore(_filled(state)), "best": self._args.StandardRestore(_filled(best))}
        restored = self._manager.restore(self._manager.latest_step(), args=self._args.Composite(**args))
        found = jax.tree.map(np.asarray, (restored["state"], restored["best"]))
        return jax.tree.map(lambda like, a: a if like.size else like, (state, best), found)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """A context without Orbax's own words on what it raises."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _filled(tree: Any) -> Any:
    """The tree with something in the place of empty arrays, which Orbax refuses."""
    return jax.tree.map(lambda a: a if np.size(a) else np.zeros(1, a.dtype), tree)
