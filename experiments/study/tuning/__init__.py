"""A study of tuning: the best of few trials, on tables, models and functions."""

from experiments.study.base import Kind
from experiments.study.tuning import report, results, run
from experiments.study.tuning.config import Tuning

KIND = Kind(Tuning, run.plan, run.run, results.summary, report.report)
