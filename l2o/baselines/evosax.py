"""Evolution strategies and swarms, as `Optimizer`s through evosax. One class per algorithm.

Those of names that begin with evosax are learned ones that it ships: hand-designed only from where we stand. evosax
unpickles its own weights.
"""

import math
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from pydantic import Field, model_validator

from l2o.core import BaselineConfig, Optimizer
from l2o.lift.evosax import from_evosax
from l2o.registry import register
from l2o.space.domain import X
from l2o.wrappers.sequential import one_at_a_time


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
        return self._lifted()

    def _members(self, dimension: int) -> int:
        return self.population_size or 4 + int(3 * math.log(max(dimension, 1)))

    def _lifted(self, params: Callable[[Any], Any] = lambda params: params) -> Optimizer:
        def make(solution):
            dimension = sum(jnp.size(leaf) for leaf in jax.tree.leaves(solution))
            return self.algorithm(self._members(dimension), solution)

        return from_evosax(make, sigma=self.sigma, params=params)


class PairsConfig(EvosaxConfig):
    """What strategies share that follow an estimated gradient of their mean with Adam, from pairs of opposite points.

    Attributes:
      learning_rate: of Adam, in the units of a point; None to have a study tune it, and 0.05 elsewhere.
    """

    tuned: ClassVar[bool] = True

    learning_rate: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _check(self):
        if self.population_size is not None and self.population_size % 2:
            raise ValueError(f"population_size must be even, as members come in pairs, found {self.population_size}")
        return self

    def build(self, learning_rate: Any = None) -> Optimizer:
        """The optimizer, at the given learning rate (which may be traced), the configured one, or 0.05."""
        given = self.learning_rate if learning_rate is None else learning_rate
        rate = 0.05 if given is None else given
        return self._lifted(lambda params: params.replace(learning_rate=rate))

    def _members(self, dimension):
        members = super()._members(dimension)
        return members + members % 2


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


@register
class SepCMAESConfig(EvosaxConfig):
    """Separable CMA-ES, whose covariance matrix is diagonal (Ros and Hansen 2008)."""

    kind: Literal["sep_cma_es"] = "sep_cma_es"

    def algorithm(self, population_size, solution):
        from l2o.baselines.strategies import SeparableCMAES

        return SeparableCMAES(population_size=population_size, solution=solution)


@register
class OneByOneConfig(EvosaxConfig):
    """An evolution strategy with a small population that asks for one point at a time, as searches of few trials do.

    In a mixed space it is told the points that were evaluated: a whole number or category is at the middle of its share
    of the unit interval.

    Attributes:
      population_size: members that make a generation.
      strategy: the kind of the strategy.
    """

    kind: Literal["evolution_strategy"] = "evolution_strategy"
    population_size: int | None = Field(default=8, ge=4)
    strategy: Literal["sep_cma_es", "cma_es", "snes"] = "sep_cma_es"

    def build(self) -> Optimizer:
        config = {"sep_cma_es": SepCMAESConfig, "cma_es": CMAESConfig, "snes": SNESConfig}[self.strategy]
        return one_at_a_time(config(population_size=self.population_size, sigma=self.sigma).build())


@register
class XNESConfig(EvosaxConfig):
    """Exponential natural evolution strategy (Glasmachers et al. 2010)."""

    kind: Literal["xnes"] = "xnes"

    def algorithm(self, population_size, solution):
        from l2o.baselines.strategies import ExponentialNES

        return ExponentialNES(population_size=population_size, solution=solution)


@register
class OpenESConfig(PairsConfig):
    """OpenAI's evolution strategy, with a fixed standard deviation (Salimans et al. 2017)."""

    kind: Literal["open_es"] = "open_es"

    def algorithm(self, population_size, solution):
        from l2o.baselines.strategies import OpenES

        return OpenES(population_size=population_size, solution=solution)


@register
class PGPEConfig(PairsConfig):
    """Policy gradients with parameter-based exploration (Sehnke et al. 2010)."""

    kind: Literal["pgpe"] = "pgpe"

    def algorithm(self, population_size, solution):
        from l2o.baselines.strategies import AdamPGPE

        return AdamPGPE(population_size=population_size, solution=solution)


@register
class EvosaxLESConfig(EvosaxConfig):
    """The learned evolution strategy that evosax ships (weights LES v2)."""

    kind: Literal["evosax_les"] = "evosax_les"

    def algorithm(self, population_size, solution):
        from evosax.algorithms import LearnedES

        return LearnedES(population_size=population_size, solution=solution)


@register
class EvosaxLGAConfig(EvosaxConfig):
    """The learned genetic algorithm that evosax ships (weights LGA v4 up to 50 dimensions, v7 above)."""

    kind: Literal["evosax_lga"] = "evosax_lga"

    def algorithm(self, population_size, solution):
        from evosax.algorithms import LearnedGA

        return LearnedGA(population_size=population_size, solution=solution)


@register
class EvosaxCMAAnchoredLESConfig(EvosaxConfig):
    """The separable CMA-ES with learned residuals that evosax ships, from its version 0.3.2 on."""

    kind: Literal["evosax_cma_anchored_les"] = "evosax_cma_anchored_les"

    def algorithm(self, population_size, solution):
        from evosax.algorithms import CMAAnchoredLES

        return CMAAnchoredLES(population_size=population_size, solution=solution)
