"""Priors over black-box functions, each one file. Importing a file here registers its kind."""

from tasks.priors import bnn as bnn
from tasks.priors import gp as gp
from tasks.priors import hebo as hebo
from tasks.priors import responses as responses
from tasks.priors import trees as trees
from tasks.priors.base import PriorConfig

__all__ = ["PriorConfig"]
