"""A study of surrogates: how well they know values that they were not told, and how sure they are of it."""

from experiments.study.base import Kind
from experiments.study.surrogates import report, results, run
from experiments.study.surrogates.config import SurrogateStudy

KIND = Kind(SurrogateStudy, run.plan, run.run, results.summary, report.report)
