"""Hyperparameters of real models: tables made here, and those of HPO-B. Importing a file here registers its kinds."""

from tasks.hpo import hpo as hpo
from tasks.hpo import hpob as hpob
