"""What a person runs: configs, the command line, studies and reports."""

import meta as meta
import tasks as tasks
from experiments.study.base import Experiment, Study

__all__ = ["Experiment", "Study"]
