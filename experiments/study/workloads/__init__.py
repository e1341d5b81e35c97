"""A study over workloads: small training problems of many kinds, and ladders of their scale."""

from experiments.study.base import Kind
from experiments.study.workloads import report, results, run
from experiments.study.workloads.config import Workloads

KIND = Kind(Workloads, run.plan, run.run, results.summary, report.report)
