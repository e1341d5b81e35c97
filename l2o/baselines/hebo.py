"""HEBO on the host: Gaussian processes with warped inputs and values, and several acquisition functions at once."""

import contextlib
import io
import warnings
from collections.abc import Iterator
from importlib import import_module
from typing import Any, Literal

import numpy as np

from l2o.core import BaselineConfig, HostOptimizer
from l2o.errors import UserError
from l2o.lift.coordinates import Coordinate, from_tuner, not_installed, whole
from l2o.registry import register


@register
class HEBOConfig(BaselineConfig):
    """HEBO (Cowen-Rivers et al. 2022) as it is by default. Needs the package `HEBO`, and what that needs.

    HEBO 0.3.6 asks for numpy below 1.25, which this project does not take, but runs with numpy 2 and pymoo 0.6.0 where
    they are installed with `pip install --no-deps`. Older ones, which pip prefers then, fail with later ones of pymoo.
    """

    kind: Literal["hebo"] = "hebo"

    @property
    def lacks(self) -> str:
        missing = not_installed(self.kind, {"hebo": "HEBO"})
        if not missing:
            try:
                with quiet():
                    import_module("hebo.optimizers.hebo")
            except ImportError as error:  # of versions that do not fit each other
                return f"{self.kind} is installed, but cannot be imported: {error}"
        return missing

    def build(self) -> HostOptimizer:
        def make(coordinates: list[Coordinate], seed: int, horizon: int) -> "Heteroscedastic":
            del horizon
            if self.lacks:
                raise UserError(self.lacks)
            return Heteroscedastic(coordinates, seed)

        return from_tuner(make, self.kind)


class Heteroscedastic:
    """A run of HEBO; its draws are its own, though it makes them with the generators of the process."""

    def __init__(self, coordinates: list[Coordinate], seed: int) -> None:
        with quiet():
            spaces, optimizers = import_module("hebo.design_space.design_space"), import_module("hebo.optimizers.hebo")
        space = spaces.DesignSpace().parse([_declared(i, each) for i, each in enumerate(coordinates)])
        self._coordinates, self._seed, self._asked = coordinates, seed, 0
        self._run = optimizers.HEBO(space, scramble_seed=seed)

    def suggest(self) -> np.ndarray:
        self._asked += 1
        with quiet(), own_draws((self._seed + self._asked) % 2**31):
            found = self._run.suggest(n_suggestions=1)
        return np.array([found[f"x{i}"].iloc[0] for i in range(len(self._coordinates))], float)

    def observe(self, setting: np.ndarray, value: float) -> None:
        row = {f"x{i}": [whole(n, each)] for i, (n, each) in enumerate(zip(setting, self._coordinates, strict=True))}
        with quiet():
            self._run.observe(import_module("pandas").DataFrame(row), np.array([[value]]))


def _declared(i: int, coordinate: Coordinate) -> dict[str, Any]:
    low, high = whole(coordinate.low, coordinate), whole(coordinate.high, coordinate)
    if coordinate.kind == "category":
        return {"name": f"x{i}", "type": "cat", "categories": list(range(int(high) + 1))}
    kind = {("float", False): "num", ("float", True): "pow", ("integer", False): "int", ("integer", True): "pow_int"}
    return {"name": f"x{i}", "type": kind[coordinate.kind, coordinate.log], "lb": low, "ub": high}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Context without warnings and lines of text, of which its libraries have many."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def own_draws(seed: int) -> Iterator[None]:
    """Context in which numpy's and torch's global generators begin at a seed; afterwards they go on where they were."""
    torch = import_module("torch")
    before, of_torch = np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002
        torch.set_rng_state(of_torch)
