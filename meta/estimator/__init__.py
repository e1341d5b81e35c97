"""Estimators of the meta-gradient, all over the one unroll. Importing a file here registers its kinds."""

from meta.estimator import backprop as backprop
from meta.estimator import es as es
from meta.estimator import imitate as imitate
from meta.estimator import mix as mix
from meta.estimator import nres as nres
from meta.estimator import pes as pes
from meta.estimator.base import Estimator, EstimatorConfig

__all__ = ["Estimator", "EstimatorConfig"]
