"""Learned evolution strategies: a population is asked and told at a time. Importing a file here registers its kind."""

from l2o.evolution import les as les
from l2o.evolution import lga as lga
from l2o.evolution import rma as rma
