"""l2o: learned optimizers, and the contract they share with every hand-designed one.

>>> import l2o
>>> tx = l2o.load("lstm").optax()  # an ordinary optax transformation
"""

from typing import TYPE_CHECKING, Any

from l2o import baselines as baselines
from l2o import blackbox as blackbox
from l2o import evolution as evolution
from l2o import gradient as gradient
from l2o import interop as interop
from l2o import optformer as optformer
from l2o import surrogate as surrogate
from l2o.artifact import save
from l2o.baselines.hyperball import hyperball
from l2o.baselines.matrices import hidden_matrices
from l2o.baselines.normuon import normuon
from l2o.baselines.polar import polar
from l2o.baselines.shampoo import shampoo
from l2o.baselines.soap import soap
from l2o.core import (
    BaselineConfig,
    Evaluation,
    HostOptimizer,
    LearnedOptimizer,
    Objective,
    Optimizer,
    OptimizerConfig,
    Problem,
    Task,
    Trajectory,
    state_bytes,
)
from l2o.errors import UserError
from l2o.host.loop import Trial
from l2o.host.minimize import minimize
from l2o.host.policy import Policy, Prediction
from l2o.host.search import Result, Search
from l2o.host.study import Study
from l2o.lift.evosax import from_evosax
from l2o.lift.optax import from_optax, gradient_based
from l2o.loaded import Loaded, load, names
from l2o.optformer.prompt import prompt
from l2o.record import Record, RecordedTrial
from l2o.registry import Config, by_kind, kinds, register
from l2o.space.domain import Space
from l2o.space.parameter import Parameter
from l2o.space.searchspace import SearchSpace
from l2o.unroll import query, unroll
from l2o.wrappers.asynchronous import asynchronous
from l2o.wrappers.averaged import average_of, averaged
from l2o.wrappers.cube import in_unit_cube
from l2o.wrappers.sequential import one_at_a_time

if TYPE_CHECKING:
    from l2o.interop.optuna import OptFormerSampler as OptFormerSampler
    from l2o.interop.optuna import Sampler as Sampler
else:

    def __getattr__(name: str) -> Any:
        """The samplers, when they are asked for, as their base class is Optuna's."""
        if name not in ("OptFormerSampler", "Sampler"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from l2o.interop import optuna

        return getattr(optuna, name)


__all__ = [
    "BaselineConfig",
    "Config",
    "Evaluation",
    "HostOptimizer",
    "LearnedOptimizer",
    "Loaded",
    "Objective",
    "Optimizer",
    "OptimizerConfig",
    "Parameter",
    "Policy",
    "Prediction",
    "Problem",
    "Record",
    "RecordedTrial",
    "Result",
    "Search",
    "SearchSpace",
    "Space",
    "Study",
    "Task",
    "Trajectory",
    "Trial",
    "UserError",
    "asynchronous",
    "average_of",
    "averaged",
    "by_kind",
    "from_evosax",
    "from_optax",
    "gradient_based",
    "hidden_matrices",
    "hyperball",
    "in_unit_cube",
    "kinds",
    "load",
    "minimize",
    "names",
    "normuon",
    "one_at_a_time",
    "polar",
    "prompt",
    "query",
    "register",
    "save",
    "shampoo",
    "soap",
    "state_bytes",
    "unroll",
]
__version__ = "0.1.0"
