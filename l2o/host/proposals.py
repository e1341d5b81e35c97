"""Any black-box optimizer behind a Python loop: which one is meant, and its proposals in a space, one by one."""

import copy
import functools
import math
import sys
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from l2o.acquisition import Pending, Seen
from l2o.core import (
    BaselineConfig,
    Evaluation,
    HostOptimizer,
    Optimizer,
    OptimizerConfig,
    Problem,
    Theta,
    population_size,
)
from l2o.errors import UserError
from l2o.files import exists
from l2o.loaded import Loaded, load, names
from l2o.registry import kinds, nearest
from l2o.space.domain import Space

SCALE = 0.3  # initial step size, in units of the cube
LARGEST = 1e18  # magnitude of a value that an optimizer is told; its square is still a float32
FEWEST, GROWTH = 16, 4  # room for observations at first, and how many times as much comes next
NEAR = 100.0  # a zero is near to values of this magnitude, in units of their differences

Named = str | Path | Loaded | BaselineConfig | Optimizer | HostOptimizer


class Source(NamedTuple):
    """A black-box optimizer that somebody named.

    Attributes:
      name: for people.
      identity: what a log compares; None for an object that has no name.
      optimizer: the optimizer, or the architecture that becomes one with theta.
      theta: meta-parameters, () where there are none.
      loaded: the artifact that both are of, None where there is none.
    """

    name: str
    identity: dict[str, Any] | None
    optimizer: OptimizerConfig | Optimizer | HostOptimizer
    theta: Theta = ()
    loaded: Loaded | None = None


def source(optimizer: Named) -> Source:
    """Find the optimizer that is meant.

    Raises:
      UserError: no optimizer has that name, or it needs gradients.
    """
    if isinstance(optimizer, Optimizer | HostOptimizer):
        return Source(f"a {type(optimizer).__name__} of one's own", None, optimizer)
    if isinstance(optimizer, BaselineConfig):
        if optimizer.reads_gradients:
            raise _has_no_gradients(optimizer.kind)
        return Source(optimizer.kind, optimizer.model_dump(mode="json"), _built(optimizer))
    if isinstance(optimizer, Loaded):
        return _learned(optimizer.config.kind, optimizer)
    if not isinstance(optimizer, str | Path):
        raise UserError(f"optimizer is {optimizer!r}: expected a name, a directory or an optimizer")
    baselines = kinds(BaselineConfig)
    if str(optimizer) in baselines and str(optimizer) not in names():
        return source(baselines[str(optimizer)]())
    if str(optimizer) not in names() and not exists(Path(optimizer)):
        known = black_box()
        raise UserError(
            f"no optimizer named {str(optimizer)!r}{nearest(optimizer, known)}: expected a directory or one of "
            f"{', '.join(known)}"
        )
    return _learned(str(optimizer), load(optimizer))


def black_box() -> list[str]:
    """Names of the optimizers that need no gradients."""
    baselines = [kind for kind, config in kinds(BaselineConfig).items() if not config.reads_gradients]
    return [*(name for name in names() if not load(name).config.reads_gradients), *baselines]


def _learned(name: str, loaded: Loaded) -> Source:
    if loaded.config.reads_gradients:
        raise _has_no_gradients(name)
    identity = {"theta_sha256": loaded.sha256, **loaded.config.model_dump(mode="json")}
    return Source(name, identity, loaded.config, loaded.theta, loaded)


def _has_no_gradients(name: str) -> UserError:
    return UserError(f"{name!r} reads gradients, and a Python function has none: take one of {', '.join(black_box())}")


def _cached(function: Callable) -> Callable:
    """A cache for what can be hashed; a second run with the same optimizer compiles nothing."""
    cached = functools.lru_cache(maxsize=32)(function)

    @functools.wraps(function)
    def call(key):
        try:
            hash(key)
        except TypeError:  # a configuration that holds a list
            return function(key)
        return cached(key)

    return call


@_cached
def _built(config: BaselineConfig) -> Optimizer | HostOptimizer:
    return config.build()


class _Programs(NamedTuple):
    population: Callable
    init: Callable
    ask: Callable
    tell: Callable
    expect: Callable
    resize: Callable


@_cached
def _programs(optimizer: OptimizerConfig | Optimizer | HostOptimizer) -> _Programs:
    """Its functions of (theta, root key, ...), jitted unless it runs on the host."""
    bind = optimizer.build().bind if isinstance(optimizer, OptimizerConfig) else lambda theta: optimizer

    # The keys are those of l2o.unroll: round t asks with fold 0 of it, and tells with fold 2.
    def key(root, t, which):
        return jax.random.fold_in(jax.random.fold_in(jax.random.wrap_key_data(root), t), which)

    def init(theta, init_key, problem):
        return problem.space, bind(theta).init(jax.random.wrap_key_data(init_key), problem), np.int32(0)

    def ask(theta, root, carry):
        space, state, t = carry
        x, state = bind(theta).ask(key(root, t, 0), state)
        return (jax.vmap(space.project)(jnp.asarray(x, jnp.float32)), t), (space, state, t + np.int32(1))

    def tell(theta, root, carry, asked, value):
        space, state, now = carry
        x, t = asked
        return space, bind(theta).tell(key(root, t, 2), state, x, Evaluation(value)), now

    def expect(carry, points):
        """These points [m, d] are in progress, and no others; the next round is one that only m of them have."""
        space, state, t = carry
        units = jax.vmap(space.to_unit)(points)
        state = jax.tree.map(lambda a: a.of(units) if _is_pending(a) else a, state, is_leaf=_is_pending)
        return space, state, t + np.int32(len(points))

    def resize(carry, rows):
        """With room for so many observations."""
        space, state, t = carry
        return space, jax.tree.map(lambda a: a.with_room(rows) if _is_seen(a) else a, state, is_leaf=_is_seen), t

    def population(theta, init_key, problem):
        """Points in one ask."""
        return ask(theta, init_key, init(theta, init_key, problem))[0][0]

    if isinstance(optimizer, HostOptimizer):
        return _Programs(lambda *a: population_size(population(*a)), init, ask, tell, expect, resize)
    return _Programs(
        lambda *a: population_size(jax.eval_shape(population, *a)),
        jax.jit(init),
        # half of the seconds of compilation, and as fast afterwards
        jax.jit(ask, compiler_options={"xla_llvm_disable_expensive_passes": True}),
        jax.jit(tell),
        jax.jit(expect),
        jax.jit(resize, static_argnums=1),
    )


def _is_pending(leaf: Any) -> bool:
    return isinstance(leaf, Pending)


def _is_seen(leaf: Any) -> bool:
    return isinstance(leaf, Seen)


class Batch:
    """Points that were asked together, and their values as they come, in double precision."""

    def __init__(self, asked: tuple, n: int):
        self.asked = asked  # the points as they lie on the device, and their round
        self.value = np.full(n, np.nan)
        self.missing = n


class Ticket(NamedTuple):
    """One point of a batch: what to give back with its value."""

    batch: Batch
    row: int
    x: np.ndarray


class Units(NamedTuple):
    """How a person's values become numbers in single precision: `(value - zero) / unit`.

    Both are fixed by the first values of a run that differ, so a run is the same whatever constant is added to all
    values, and whatever positive one they are multiplied by, but for rounding.

    Attributes:
      zero: the lowest of those; 0 where that is not far away, so that values near zero keep all their digits.
      unit: the highest less the lowest of those.
    """

    zero: float
    unit: float

    @classmethod
    def of(cls, values: np.ndarray) -> "Units | None":
        """The units of the finite values, None where no two of them differ."""
        finite = values[np.isfinite(values)]
        low, high = (float(f(finite)) for f in (np.min, np.max)) if finite.size else (0.0, 0.0)
        if low == high:
            return None
        unit = min(high - low, sys.float_info.max)
        return cls(0.0 if max(-low, high) <= NEAR * unit else low, unit)

    def narrow(self, values: np.ndarray) -> np.ndarray:
        """Values in single precision; NaN for what is not finite."""
        with np.errstate(over="ignore"):
            told = np.clip((values - self.zero) / self.unit, -LARGEST, LARGEST)
        return np.where(np.isfinite(values), told, np.nan).astype(np.float32)


class Proposer:
    """Proposals in a space, one by one, from an optimizer that asks for n points at a time.

    A batch is told when all its values are there; until then the optimizer is asked again without it. The state stays
    on the device, and a tell waits for the next ask. What is computed depends on the
    order of `propose`, `place` and `tell` alone: the same calls give the same points, to the bit.

    An optimizer is told values in `Units`, and one that runs on the host the doubles as they are. Before two values
    differ it is told zeros; then it begins again, and is told what they were. One that has a `Pending` in its state is
    told what is in progress in place of what it asked for. One that has a `Seen` in its state begins with little room
    in it, and gets more where it needs more: each is a program of its own, and what is not needed is not compiled.

    Args:
      source: the optimizer.
      space: a box or a mixed one, whose points are [d].
      budget: evaluations that the run will have; the optimizer is told how many batches these are.
      seed: of all randomness.

    Attributes:
      n: points in one ask.
      on_host: whether the optimizer runs on the host.
      expects: whether it takes into account what is in progress.
    """

    def __init__(self, source: Source, space: Space, budget: int, seed: int):
        self._programs = _programs(source.optimizer)
        self.on_host = isinstance(source.optimizer, HostOptimizer)
        init_key, run_key = jax.random.split(jax.random.key(seed))
        self._common = source.theta, jax.random.key_data(run_key)
        centre = space.from_unit(jnp.full_like(space.low, 0.5))
        self._size = centre.size
        problem = Problem(space, centre, jnp.asarray(SCALE, jnp.float32), jnp.asarray(budget, jnp.int32))
        arguments = (source.theta, jax.random.key_data(init_key))
        self.n = self._programs.population(*arguments, problem)
        rounds = jnp.asarray(-(-budget // self.n), jnp.int32)
        self._carry: Any = self._programs.init(*arguments, problem._replace(horizon=rounds))
        seen = self._seen()
        self._most = 0 if seen is None else len(seen.y)
        if self._most > FEWEST:
            self._carry = self._programs.resize(self._carry, FEWEST)
        self.expects = any(map(_is_pending, jax.tree.leaves(self._carry[1], is_leaf=_is_pending)))
        self._open: dict[tuple[Any, int], np.ndarray] = {}  # points in progress, by batch and row
        self._amiss = False  # whether the optimizer believes other points to be in progress
        self._units: Units | None = None
        self._start = self._carry
        self._past: list[list[Batch]] = []  # what was told before each ask, until the units are known
        self._full: list[Batch] = []  # batches to tell
        self._ready: deque[Ticket] = deque()
        self._placed = 0

    def propose(self) -> Ticket:
        """The next point.

        Raises:
          RuntimeError: the optimizer proposed something that is not finite.
        """
        if not self._ready:
            told, self._full = self._full, []
            if self._units is None and not self.on_host:
                self._learn_units(told)
            asked = self._ask(told)
            points = np.asarray(asked[0])
            if not np.isfinite(points).all():
                raise RuntimeError("the optimizer proposed a point that is not finite")
            batch = Batch(asked, len(points))
            self._ready.extend(Ticket(batch, row, x) for row, x in enumerate(points))
        ticket = self._ready.popleft()
        self._open[ticket.batch, ticket.row] = ticket.x
        return ticket

    def branch(self, pending: Sequence[np.ndarray]) -> "Proposer":
        """A copy that is to be asked only, whose optimizer takes these points to be in progress and no others."""
        found = copy.copy(self)
        found._past, found._full, found._ready = list(self._past), list(self._full), deque(self._ready)
        found._open = {(None, i): x for i, x in enumerate(pending)}
        found._amiss = True
        return found

    def place(self, x: np.ndarray) -> Ticket:
        """A point of one's own, in the place of a member of a population; to one that asks point by point, beside its
        proposals."""
        if self.n > 1:
            ticket = self.propose()
            self.replace(ticket, x)
            return ticket
        self._placed += 1
        last = np.int32(2**31 - self._placed)  # a round that no run reaches, for a key of its own
        ticket = Ticket(Batch((jnp.asarray(x)[None], last), 1), 0, x)
        self._open[ticket.batch, 0], self._amiss = x, True
        return ticket

    def _learn_units(self, told: list[Batch]) -> None:
        known = [batch.value for each in [*self._past, told] for batch in each]
        self._units = Units.of(np.concatenate([np.zeros(0), *known]))
        if self._units is None:
            self._past.append(told)
            return
        if any(self._past):
            self._carry, self._amiss = self._start, False
            for each in self._past:
                self._ask(each)
            self._amiss = True
        self._start, self._past = None, []

    def _ask(self, told: list[Batch]) -> tuple:
        amiss = self.expects and self._amiss
        for batch in told:
            self._tell(batch)
        if amiss:
            points = np.array(list(self._open.values()), np.float32).reshape(-1, self._size)
            self._carry, self._amiss = self._programs.expect(self._carry, points), False
        found, self._carry = self._programs.ask(*self._common, self._carry)
        return found

    def _seen(self) -> Seen | None:
        return next(filter(_is_seen, jax.tree.leaves(self._carry[1], is_leaf=_is_seen)), None)

    def _tell(self, batch: Batch) -> None:
        seen = self._seen()
        if seen is not None and (room := len(seen.y)) < self._most:
            while room < min(int(seen.told) + len(batch.value), self._most):
                room = min(GROWTH * room, self._most)
            self._carry = self._programs.resize(self._carry, room)
        self._carry = self._programs.tell(*self._common, self._carry, batch.asked, self._narrow(batch.value))

    def _narrow(self, values: np.ndarray) -> np.ndarray:
        if self.on_host:
            return values
        if self._units is None:
            return np.where(np.isfinite(values), 0.0, np.nan).astype(np.float32)
        return self._units.narrow(values)

    def tell(self, ticket: Ticket, value: float) -> None:
        """The value of a point, once; anything that is not finite marks a failure."""
        batch = ticket.batch
        self._open.pop((batch, ticket.row), None)
        batch.value[ticket.row] = value if math.isfinite(value) else math.nan
        batch.missing -= 1
        if batch.missing == 0:
            self._full.append(batch)

    def replace(self, ticket: Ticket, x: np.ndarray) -> None:
        """Another point was evaluated in place of the proposed one."""
        points, t = ticket.batch.asked
        ticket.batch.asked = (jnp.asarray(points).at[ticket.row].set(x), t)
        self._open[ticket.batch, ticket.row], self._amiss = x, True
