"""Between the parameters of a search space and Optuna's distributions."""

from decimal import Decimal
from typing import Any

from l2o.errors import UserError
from l2o.parameter import Parameter

Number = int | float
MOST_STEPS = 2**17  # of a range with a step: all its values are listed


def from_distribution(name: str, distribution: Any) -> Parameter:
    """A parameter. A range with a step becomes its list of values, and one that is a single value a list of one.

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
    if distribution.single():
        return Parameter(name=name, kind="discrete", values=[low])
    if step is not None and not (whole and step == 1):
        return Parameter(name=name, kind="discrete", values=_steps(name, low, high, step))
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
    step = number(_decimal(values[1]) - _decimal(low))
    even = (len(values) - 1) * _decimal(step) == _decimal(high) - _decimal(low) and len(values) <= MOST_STEPS
    if not even or _steps(parameter.name, low, high, step) != values:
        return kinds.CategoricalDistribution(parameter.values)
    return make(low, high, step=step)


def _steps(name: str, low: Number, high: Number, step: Number) -> list[Number]:
    """All values, as decimal numbers: 0.1 and three steps of 0.1 are 0.4."""
    count = int((_decimal(high) - _decimal(low)) // _decimal(step)) + 1
    if count > MOST_STEPS:
        raise UserError(f"parameter {name!r} has {count} steps from {low} to {high}: expected at most {MOST_STEPS}")
    return [type(low)(_decimal(low) + k * _decimal(step)) for k in range(count)]


def _decimal(number: Number) -> Decimal:
    return Decimal(str(number))


def _distributions() -> Any:
    try:
        from optuna import distributions
    except ModuleNotFoundError:
        raise UserError("Optuna is not installed, expected it for its distributions: pip install optuna") from None
    return distributions
