"""A study of black-box optimizers: regret, evaluation by evaluation."""

from experiments.study.base import Kind
from experiments.study.blackbox import report, results, run
from experiments.study.blackbox.config import BlackBox

KIND = Kind(BlackBox, run.plan, run.run, results.summary, report.report)
