"""A study of imitation: whether an OptFormer does what its teachers do."""

from experiments.study.base import Kind
from experiments.study.imitation import report, results, run
from experiments.study.imitation.config import Imitation

KIND = Kind(Imitation, run.plan, run.run, results.summary, report.report)
