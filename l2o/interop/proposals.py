"""Any black-box optimizer behind a Python loop: which one is meant, and its proposals in a space, one by one."""

import functools
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from l2o.artifact import Loaded, load, names
from l2o.baselines.optax import TunedConfig
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
from l2o.registry import kinds, nearest
from l2o.space import Space

SCALE = 0.3  # initial step size, in units of the cube
LARGEST = 1e18  # magnitude of a value that an optimizer is told; its square is still a float32

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
        if isinstance(optimizer, TunedConfig):
            raise _reads_gradients(optimizer.kind)
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
    baselines = [kind for kind, config in kinds(BaselineConfig).items() if not issubclass(config, TunedConfig)]
    return [*(name for name in names() if load(name).learned.native is None), *baselines]


def _learned(name: str, loaded: Loaded) -> Source:
    if loaded.learned.native is not None:
        raise _reads_gradients(name)
    identity = {"theta_sha256": loaded.sha256, **loaded.config.model_dump(mode="json")}
    return Source(name, identity, loaded.config, loaded.theta, loaded)


def _reads_gradients(name: str) -> UserError:
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
    tell_and_ask: Callable


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

    def tell_and_ask(theta, root, carry, asked, value):
        return ask(theta, root, tell(theta, root, carry, asked, value))

    def population(theta, init_key, problem):
        """Points in one ask."""
        return ask(theta, init_key, init(theta, init_key, problem))[0][0]

    if isinstance(optimizer, HostOptimizer):
        return _Programs(lambda *a: population_size(population(*a)), init, ask, tell, tell_and_ask)
    return _Programs(
        lambda *a: population_size(jax.eval_shape(population, *a)),
        *(jax.jit(function) for function in (init, ask, tell, tell_and_ask)),
    )


class Batch:
    """Points that were asked together, and their values as they come."""

    def __init__(self, asked: tuple, n: int):
        self.asked = asked  # the points as they lie on the device, and their round
        self.value = np.full(n, np.nan, np.float32)
        self.missing = n


class Ticket(NamedTuple):
    """One point of a batch: what to give back with its value."""

    batch: Batch
    row: int
    x: np.ndarray


def unit_cube(dimensions: int) -> Space:
    """The box from 0 to 1."""
    return Space.box(jnp.zeros(dimensions, jnp.float32), jnp.ones(dimensions, jnp.float32))


class Proposer:
    """Proposals in a space, one by one, from an optimizer that asks for n points at a time.

    A batch is told when all its values are there; until then the optimizer is asked again without it. The state stays
    on the device, and a tell waits for the next ask, so that both are one dispatch. What is computed depends on the
    order of `propose` and `tell` alone: the same calls give the same points, to the bit.

    Args:
      source: the optimizer.
      space: a box or a mixed one, whose points are [d].
      budget: evaluations that the run will have; the optimizer is told how many batches these are.
      seed: of all randomness.
    """

    def __init__(self, source: Source, space: Space, budget: int, seed: int):
        self._programs = _programs(source.optimizer)
        self._theta = source.theta
        init_key, run_key = jax.random.split(jax.random.key(seed))
        self._root = jax.random.key_data(run_key)
        centre = space.from_unit(jnp.full_like(space.low, 0.5))
        problem = Problem(space, centre, jnp.asarray(SCALE, jnp.float32), jnp.asarray(budget, jnp.int32))
        arguments = (self._theta, jax.random.key_data(init_key))
        self.n = self._programs.population(*arguments, problem)
        rounds = jnp.asarray(-(-budget // self.n), jnp.int32)
        self._carry = self._programs.init(*arguments, problem._replace(horizon=rounds))
        self._full: list[Batch] = []  # batches to tell
        self._ready: deque[Ticket] = deque()

    def propose(self) -> Ticket:
        """The next point.

        Raises:
          RuntimeError: the optimizer proposed something that is not finite.
        """
        if not self._ready:
            asked = self._ask()
            points = np.asarray(asked[0])
            if not np.isfinite(points).all():
                raise RuntimeError("the optimizer proposed a point that is not finite")
            batch = Batch(asked, len(points))
            self._ready.extend(Ticket(batch, row, x) for row, x in enumerate(points))
        return self._ready.popleft()

    def _ask(self) -> tuple:
        common = (self._theta, self._root)
        if not self._full:
            asked, self._carry = self._programs.ask(*common, self._carry)
            return asked
        *before, last = self._full
        for batch in before:
            self._carry = self._programs.tell(*common, self._carry, batch.asked, batch.value)
        asked, self._carry = self._programs.tell_and_ask(*common, self._carry, last.asked, last.value)
        self._full = []
        return asked

    def tell(self, ticket: Ticket, value: float) -> None:
        """The value of a point, once; anything that is not finite marks a failure."""
        batch = ticket.batch
        if abs(value) < float("inf"):  # neither infinite nor NaN
            batch.value[ticket.row] = min(max(value, -LARGEST), LARGEST)
        batch.missing -= 1
        if batch.missing == 0:
            self._full.append(batch)

    def replace(self, ticket: Ticket, x: np.ndarray) -> None:
        """Another point was evaluated in place of the proposed one."""
        points, t = ticket.batch.asked
        ticket.batch.asked = (jnp.asarray(points).at[ticket.row].set(x), t)
