"""What is optimized: families that sample tasks as pytrees. Importing a file here registers its kinds."""

from tasks import bbob as bbob
from tasks import control as control
from tasks import corpora as corpora
from tasks import datasets as datasets
from tasks import gp as gp
from tasks import hpo as hpo
from tasks import mixture as mixture
from tasks import networks as networks
from tasks import neuroevolution as neuroevolution
from tasks import priors as priors
from tasks import quadratic as quadratic
from tasks import rescaled as rescaled
from tasks import swingup as swingup
from tasks import synthetic as synthetic
from tasks import tables as tables
from tasks.corpora import CorpusConfig
from tasks.datasets import DatasetConfig
from tasks.family import FamilyConfig, TaskFamily
from tasks.priors import PriorConfig

__all__ = ["CorpusConfig", "DatasetConfig", "FamilyConfig", "PriorConfig", "TaskFamily"]
