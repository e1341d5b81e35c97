"""Studies recorded by letting teachers, hand-designed optimizers, loose on the tasks of a family."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key, UInt32
from pydantic import Field, SerializeAsAny, model_validator

import l2o
from l2o.core import BaselineConfig, HostOptimizer, Optimizer, population_size
from l2o.errors import UserError
from l2o.record import ALGORITHMS
from l2o.registry import Config, by_kind, nearest, register
from l2o.unroll import queries_and_values, unroll
from meta.recordings.dispatch import Clock, Part, Queue
from meta.recordings.trajectories import Manifest, Studies, Writer, concatenate, documents
from tasks.family import FamilyConfig, Params, TaskFamily

LICENCE = "Apache-2.0"
Report = Callable[[dict[str, Any]], None]
Device = Any


class SourceConfig(Config):
    """Room of where studies come from."""

    kind: str

    def record(self, directory: Path, seed: int, document: dict[str, Any], report: Report) -> Manifest:
        """Write the studies into a directory, keeping the shards that are there.

        Args:
          directory: see `meta.recordings.trajectories`.
          seed: decides everything random.
          document: the config, for the manifest.
          report: called with a row of progress after every shard.
        """
        raise TypeError(f"{type(self).__name__} does not define record()")


class Teacher(Config):
    """An optimizer whose runs are recorded.

    Attributes:
      optimizer: a baseline that runs under jit.
      studies: how many runs of it, divided evenly among functions and dimensions.
      algorithm: what the studies are said to come from; by default the optimizer's kind.
    """

    optimizer: Annotated[SerializeAsAny[BaselineConfig], by_kind(BaselineConfig)]
    studies: int = Field(ge=1)
    algorithm: str | None = None

    @property
    def name(self) -> str:
        """One of `ALGORITHMS`."""
        return self.algorithm or self.optimizer.kind

    @model_validator(mode="after")
    def _check(self):
        if self.name not in ALGORITHMS:
            hint = nearest(self.name, list(ALGORITHMS))
            raise ValueError(f"algorithm: found {self.name!r}{hint}, expected one of {', '.join(ALGORITHMS)}")
        return self


@register
class RolloutsConfig(SourceConfig):
    """Runs of teachers on the tasks of a family.

    Attributes:
      task: a family with bounds, whose points are arrays.
      teachers: who is recorded.
      trials: evaluations of each study.
      batch: studies computed side by side on each device.
      shard: most studies of a file.
    """

    kind: Literal["rollouts"] = "rollouts"
    task: Annotated[SerializeAsAny[FamilyConfig], by_kind(FamilyConfig)]
    teachers: tuple[Teacher, ...] = Field(min_length=1, strict=False)
    trials: int = Field(default=40, ge=1, le=10_000)
    batch: int = Field(default=64, ge=1)
    shard: int = Field(default=4096, ge=1)

    def record(self, directory, seed, document, report):
        return generate(self, directory, seed, document=document, report=report)


def plan(config: RolloutsConfig, families: dict[int, list[TaskFamily]]) -> list[Part]:
    """The shards. Those of one dimension follow each other; every teacher's studies are divided evenly."""
    parts, begun = [], 0
    every = sum(map(len, families.values()))
    for dimension, members in families.items():
        for index, teacher in enumerate(config.teachers):
            cells = range(begun, begun + len(members))
            counts = [teacher.studies // every + (cell < teacher.studies % every) for cell in cells]
            width = min(max(1, config.shard // len(members)), max(counts))
            calls = -(-width // config.batch) if width else 0
            for first in range(0, max(counts), max(width, 1)):
                here = tuple(min(max(count - first, 0), width) for count in counts)
                parts.append(Part(len(parts), index, dimension, here, -(-width // calls)))
        begun += len(members)
    return parts


def by_dimension(config: FamilyConfig) -> dict[int, list[TaskFamily]]:
    """The parts of a family by the length of their points; those that differ in data alone are one program.

    Raises:
      UserError: their points are not arrays in a space with bounds.
    """
    indexed = getattr(config, "indexed", None)
    parts = [part for parts in indexed().values() for part in parts] if indexed else config.build().parts
    found: dict[int, list[TaskFamily]] = {}
    for part in parts:
        problem = jax.eval_shape(lambda key, part=part: part.task(part.sample(key)).problem, jax.random.key(0))
        if problem.space.is_free or not isinstance(problem.start, jax.ShapeDtypeStruct) or problem.start.ndim != 1:
            raise UserError(f"source.task: kind {config.kind!r} has no space of real vectors with bounds to record")
        found.setdefault(problem.start.size, []).append(part)
    return found


def study_keys(seed: UInt32[Array, ""]) -> Key[Array, "3"]:
    """Keys of the task, of the start of its optimizer, and of the run."""
    return jax.random.split(jax.random.key(seed), 3)


@jax.jit
def sample(family: TaskFamily, seeds: UInt32[Array, "n"]) -> Params:
    """The parameters of the tasks; a program of its own, which all teachers share, because it is slow to compile."""
    return jax.vmap(lambda seed: family.sample(study_keys(seed)[0]))(seeds)


def rollout(optimizer: Optimizer, trials: int) -> Callable[[TaskFamily, UInt32[Array, "n"]], dict[str, Array]]:
    """`(family, seeds [n]) -> arrays of n studies`. A seed decides the task and the run."""

    def study(family: TaskFamily, params: Params, seed: Array) -> dict[str, Any]:
        _, init_key, run_key = study_keys(seed)
        task = family.task(params)

        def first(key):
            return optimizer.ask(key, optimizer.init(key, task.problem))[0]

        together = population_size(jax.eval_shape(first, jax.random.key(0)))
        rounds = -(-trials // together)
        task = task.with_horizon(rounds)
        state = optimizer.init(init_key, task.problem)
        _, run = unroll(optimizer, task, state, run_key, rounds, record=queries_and_values)
        y, space = run.evaluation.value.reshape(-1)[:trials], task.problem.space
        d = space.low.size
        if not space.is_mixed:
            integers, ordered = jnp.zeros(d, jnp.int32), jnp.ones(d, bool)
            space = space._replace(levels=integers, scale=integers, ordered=ordered)
        y = jnp.where(jnp.isfinite(y), y, jnp.nan)
        return {"x": run.x.reshape(-1, d)[:trials], "y": y, **space._asdict()}

    run = jax.jit(jax.vmap(study, (None, 0, 0)))
    return lambda family, seeds: run(family, sample(family, seeds), seeds)


class Recorder:
    """Computes shards: one call of a program for each family and batch.

    A family may have, on the host, an `origin` (what its tasks are called in the set) and an `about` (the names of a
    study, see `Studies.about`).
    """

    def __init__(self, config: RolloutsConfig, seed: int):
        self.config, self.seed = config, seed
        self._lapack = threading.Lock()
        self.serial: dict[tuple[int, int], bool] = {}  # by teacher and dimension: whether its program calls LAPACK
        self.families = by_dimension(config.task)
        self.plan = plan(config, self.families)
        names = [getattr(f, "origin", config.task.kind) for members in self.families.values() for f in members]
        self.origins = tuple(dict.fromkeys(names))
        self.programs = []
        for i, teacher in enumerate(config.teachers):
            optimizer = teacher.optimizer.build()
            if isinstance(optimizer, HostOptimizer):
                raise UserError(
                    f"source.teachers.{i}: kind {teacher.optimizer.kind!r} runs on the host, expected one under jit"
                )
            self.programs.append(rollout(optimizer, config.trials))

    def seeds(self, part: Part) -> list[np.ndarray]:
        """Seeds of all studies of a shard, by family."""
        sequence = np.random.SeedSequence(self.seed, spawn_key=(part.number,))
        return np.split(sequence.generate_state(sum(part.counts)), np.cumsum(part.counts)[:-1])

    def _alone(self, part: Part, program: Any, arguments: Any) -> AbstractContextManager[Any]:
        """What a program must hold while it runs.

        On a CPU, two programs that call LAPACK at the same time can wait for each other's threads for ever.
        """
        key = part.teacher, part.dimension
        if key not in self.serial:
            self.serial[key] = "lapack" in jax.jit(program).lower(*arguments).as_text()
        return self._lapack if self.serial[key] else nullcontext()

    def compute(self, part: Part, device: Device, go_on: Callable[[], bool]) -> Studies | None:
        """All studies of a shard; None where it was stopped."""
        found: list[dict[str, np.ndarray]] = []
        about: list[dict[str, Any] | None] = []
        for family, seeds in zip(self.families[part.dimension], self.seeds(part), strict=True):
            origin = self.origins.index(getattr(family, "origin", self.config.task.kind))
            for begin in range(0, len(seeds), part.batch):
                if not go_on():
                    return None
                here = seeds[begin : begin + part.batch]
                padded = np.resize(here, part.batch)
                program, arguments = self.programs[part.teacher], jax.device_put((family, padded), device)
                with self._alone(part, program, arguments):
                    arrays = {name: np.asarray(a)[: len(here)] for name, a in program(*arguments).items()}
                found.append({**arrays, "seed": here, "origin": np.full(len(here), origin)})
                about += [getattr(family, "about", None)] * len(here)
        whole = {name: np.concatenate([arrays[name] for arrays in found]) for name in found[0]}
        n = len(whole["y"])
        algorithm = ALGORITHMS.index(self.config.teachers[part.teacher].name)
        rest = {"length": self.config.trials, "dimension": part.dimension, "algorithm": algorithm}
        studies = Studies(**whole, **{name: np.full(n, value) for name, value in rest.items()})
        if any(about):
            studies = studies._replace(**documents(about))
        return concatenate([studies], self.config.trials, max(self.families))


def generate(
    config: RolloutsConfig, directory: Path, seed: int, *, document: dict[str, Any] | None = None,
    report: Report = lambda row: None, devices: Sequence[Device] | None = None,
) -> Manifest:  # fmt: skip
    """Record studies; a shard depends on the config, the seed and its number alone.

    Every device works on shards of its own, with programs of its own, so nothing depends on how many there are.

    Args:
      config: what to record.
      directory: shards that are there already are verified and kept.
      seed: decides everything random.
      document: what the manifest calls the config; by default `config` itself.
      report: called after every shard with `studies` (so far), `total`, `shard`, `per_second` and `seconds_left`.
      devices: by default all of this process.

    Returns:
      The manifest of the finished set.

    Raises:
      UserError: the config cannot be recorded, or the directory holds something else.
    """
    recorder = Recorder(config, seed)
    directory.mkdir(parents=True, exist_ok=True)
    manifest = Manifest(
        made_with=l2o.__version__, seed=seed, config=document or config.model_dump(mode="json"),
        origins=recorder.origins, licence=LICENCE, trials=config.trials, dimension=max(recorder.families),
        planned=len(recorder.plan),
    )  # fmt: skip
    writer = Writer(directory, manifest)
    missing = set(writer.missing)
    queue = Queue([part for part in recorder.plan if part.number in missing])
    clock = Clock([teacher.name for teacher in config.teachers], queue)
    total = sum(teacher.studies for teacher in config.teachers)
    stop, talking = threading.Event(), threading.Lock()

    def work(device: Device) -> None:
        part = None
        while not stop.is_set() and (part := queue.take(part)) is not None:
            begun = time.monotonic()
            studies = recorder.compute(part, device, lambda: not stop.is_set())
            if studies is None:
                return
            writer.add(part.number, studies)
            with talking:
                report({
                    "studies": writer.manifest.studies, "total": total, **clock.row(part, time.monotonic() - begun)
                })  # fmt: skip

    devices = jax.local_devices() if devices is None else devices
    with ThreadPoolExecutor(len(devices)) as pool:
        try:
            for done in as_completed([pool.submit(work, device) for device in devices]):
                done.result()
        finally:
            stop.set()
    return writer.manifest
