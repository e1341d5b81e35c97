"""A study of evolution strategies: best values, generation by generation."""

from experiments.study.base import Kind
from experiments.study.population import report, results, run
from experiments.study.population.config import Population

KIND = Kind(Population, run.plan, run.run, results.summary, report.report)
