"""A study of losses: tuned baselines and learned optimizers on tasks that meta-training never saw."""

from experiments.study.base import Kind
from experiments.study.curves import report, results, run
from experiments.study.curves.config import Curves

KIND = Kind(Curves, run.plan, run.run, results.summary, report.report)
