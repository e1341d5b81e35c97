"""Estimators of the meta-gradient, all over the one unroll. Importing a file here registers its kinds."""

from meta.estimator import backprop as backprop
from meta.estimator.base import Estimator, EstimatorConfig

__all__ = ["Estimator", "EstimatorConfig"]
