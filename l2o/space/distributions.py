"""Between the parameters of a search space and Optuna's distributions."""

from typing import Any

from l2o.errors import UserError
from l2o.space.parameter import MOST_STEPS, Parameter, decimal, steps


def from_distribution(name: str, distribution: Any) -> Parameter:
    """A parameter. A range with a step becomes its list of values.

    Raises:
      UserError: Optuna is not installed, this is no distribution of it, or it has more than `MOST_STEPS` steps.
    """
    kinds = _distributions()
    if isinstance(distribution, kinds.CategoricalDistribution):
        return Parameter(name=name, kind="categorical", values=distribution.choices)
    whole = isinstance(distribution, kinds.IntDistribution)
    if not whole and not isinstance(distribution, kinds.FloatDistribution):
        raise UserError(
            f"parameter {name!r} is {distribution!r:.80}: expected a FloatDistribution, an IntDistribution or a "
            "CategoricalDistribution of Optuna"
        )
    low, high, step = distribution.low, distribution.high, distribution.step
    if step is not None and not (whole and step == 1):
        return Parameter(name=name, kind="discrete", values=steps(name, low, high, step))
    kind, scale = "integer" if whole else "float", "log" if distribution.log else "linear"
    return Parameter(name=name, kind=kind, low=low, high=high, scale=scale)


def to_distribution(parameter: Parameter) -> Any:
    """The distribution of a parameter; inverse of `from_distribution`.

    Listed numbers without one step between all of them become categories: Optuna then knows their values, not their
    order.

    Raises:
      UserError: Optuna is not installed, or the scale is "reverse_log", which it does not have.
    """
    kinds = _distributions()
    if parameter.scale == "reverse_log":
        raise UserError(f"parameter {parameter.name!r} has the scale 'reverse_log', which Optuna does not have")
    if parameter.kind == "categorical":
        return kinds.CategoricalDistribution(parameter.values)
    if parameter.kind != "discrete":
        make = kinds.IntDistribution if parameter.kind == "integer" else kinds.FloatDistribution
        return make(parameter.low, parameter.high, log=parameter.scale == "log")
    whole = all(isinstance(v, int) for v in parameter.values or ())
    number, make = (int, kinds.IntDistribution) if whole else (float, kinds.FloatDistribution)
    values = [number(v) for v in parameter.values or ()]
    if len(values) == 1:
        return make(values[0], values[0])
    low, high = values[0], values[-1]
    step = number(decimal(values[1]) - decimal(low))
    even = (len(values) - 1) * decimal(step) == decimal(high) - decimal(low) and len(values) <= MOST_STEPS
    if not even or steps(parameter.name, low, high, step) != values:
        return kinds.CategoricalDistribution(parameter.values)
    return make(low, high, step=step)


def _distributions() -> Any:
    try:
        from optuna import distributions
    except ModuleNotFoundError:
        raise UserError("Optuna is not installed, expected it for its distributions: pip install optuna") from None
    return distributions
