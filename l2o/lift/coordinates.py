"""Between this project's contract and tuners on the host that take one setting at a time, a number a parameter."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Float64

from l2o.core import HostOptimizer, need_bounds
from l2o.space.domain import LOG, Space, X


class Coordinate(NamedTuple):
    """A parameter, as tuners of other libraries know them.

    Attributes:
      kind: a real or a whole number, or a category, which is known by its index.
      low, high: the least and the greatest value.
      log: whether equal ratios are equal lengths; a reversed logarithmic scale, which others have not, is a linear one.
    """

    kind: Literal["float", "integer", "category"]
    low: float
    high: float
    log: bool


class Tuner(Protocol):
    """What `from_tuner` lifts."""

    def suggest(self) -> Float64[np.ndarray, "d"]:
        """The next setting, a number for each coordinate."""
        ...

    def observe(self, setting: Float64[np.ndarray, "d"], value: float) -> None:
        """The value of a setting, minimised; one that is not finite is a failure."""
        ...


def coordinates(space: Space) -> list[Coordinate]:
    """The coordinates of a space with bounds; listed numbers are whole ones, their indices."""
    low, high = (flatten(bound).astype(float).tolist() for bound in (space.low, space.high))
    if space.levels is None or space.scale is None or space.ordered is None:
        return [Coordinate("float", *ends, log=False) for ends in zip(low, high, strict=True)]
    found = []
    listed = (np.asarray(a).tolist() for a in (space.levels, space.scale == LOG, space.ordered))
    for first, last, levels, log, ordered in zip(low, high, *listed, strict=True):
        kind = "category" if not ordered else "integer" if levels else "float"
        found.append(Coordinate(kind, first, last, log))
    return found


def from_tuner(make: Callable[[list[Coordinate], int, int], Tuner], name: str) -> HostOptimizer:
    """Lift a tuner to an optimizer for host loops; the tuner in the state changes in place.

    Args:
      make: `(coordinates, seed, horizon) -> tuner`; the seed, below 2^31, is drawn from the key of `init`, and the
        other keys are not used.
      name: for messages.
    """

    def init(key, problem):
        need_bounds(name, problem)
        seed = int(jax.random.randint(key, (), 0, 2**31 - 1))
        return make(coordinates(problem.space), seed, int(problem.horizon)), problem.space

    def ask(key, state):
        del key
        tuner, space = state
        like, unravel = ravel_pytree(space.low)
        x = space.project(unravel(jnp.asarray(tuner.suggest(), like.dtype)))
        return jax.tree.map(lambda a: a[None], x), state

    def tell(key, state, x, evaluation):
        del key
        for i, value in enumerate(np.asarray(evaluation.value, float)):
            state[0].observe(flatten(jax.tree.map(lambda a, i=i: a[i], x)).astype(float), float(value))
        return state

    return HostOptimizer(init, ask, tell)


def not_installed(kind: str, packages: dict[str, str]) -> str:
    """A sentence on the packages that an optimizer needs and that are missing; empty where there is none.

    Args:
      kind: of the optimizer.
      packages: what pip calls them, by module.
    """
    missing = [package for module, package in packages.items() if find_spec(module) is None]
    if not missing:
        return ""
    verb = "is" if len(missing) == 1 else "are"
    return f"{kind} needs {' and '.join(missing)}, which {verb} not installed: pip install {' '.join(missing)}"


def flatten(x: X) -> np.ndarray:
    """A point as a vector on the host."""
    return np.asarray(ravel_pytree(x)[0])


def whole(setting: Any, coordinate: Coordinate) -> int | float:
    """A number of a setting as the kind of its coordinate has it, within the bounds."""
    value = min(max(float(setting), coordinate.low), coordinate.high)
    return value if coordinate.kind == "float" else round(value)
