"""Classical evolution strategies and swarms, as `Optimizer`s through evosax. One class per algorithm."""

import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
from pydantic import Field

from l2o.core import BaselineConfig, Optimizer
from l2o.interop.evosax import from_evosax
from l2o.registry import register
from l2o.space import X


class EvosaxConfig(BaselineConfig):
    """What all of them share.

    Attributes:
      population_size: members; None for 4 + floor(3 ln d) in d dimensions (Hansen 2016, equation 48).
      sigma: initial standard deviation in widths of the box; on a free space `problem.scale` takes its place.
    """

    population_size: int | None = Field(default=None, ge=4)
    sigma: float = Field(default=0.3, gt=0)

    def algorithm(self, population_size: int, solution: X) -> Any:
        """The evosax algorithm."""
        raise TypeError(f"{type(self).__name__} does not define algorithm()")

    def build(self) -> Optimizer:
        def make(solution):
            dimension = sum(jnp.size(leaf) for leaf in jax.tree.leaves(solution))
            return self.algorithm(self.population_size or 4 + int(3 * math.log(max(dimension, 1))), solution)

        return from_evosax(make, sigma=self.sigma)


@register
class CMAESConfig(EvosaxConfig):
    """CMA-ES (Hansen and Ostermeier 2001; as in Hansen 2016)."""

    kind: Literal["cma_es"] = "cma_es"

    def algorithm(self, population_size, solution):
        from evosax.algorithms import CMA_ES

        return CMA_ES(population_size=population_size, solution=solution)


@register
class SNESConfig(EvosaxConfig):
    """Separable natural evolution strategy (Wierstra et al. 2014)."""

    kind: Literal["snes"] = "snes"

    def algorithm(self, population_size, solution):
        from evosax.algorithms import SNES

        return SNES(population_size=population_size, solution=solution)


@register
class DifferentialEvolutionConfig(EvosaxConfig):
    """Differential evolution, best/1/bin (Storn and Price 1997)."""

    kind: Literal["differential_evolution"] = "differential_evolution"

    def algorithm(self, population_size, solution):
        from evosax.algorithms import DifferentialEvolution

        return DifferentialEvolution(population_size=population_size, solution=solution)


@register
class PSOConfig(EvosaxConfig):
    """Particle swarm optimization (Kennedy and Eberhart 1995)."""

    kind: Literal["pso"] = "pso"

    def algorithm(self, population_size, solution):
        from evosax.algorithms import PSO

        return PSO(population_size=population_size, solution=solution)
