"""What a person runs: configs, the command line, studies and reports."""

import meta as meta
import tasks as tasks
from experiments.run import Experiment
from experiments.study.curves.config import Curves

__all__ = ["Curves", "Experiment"]
