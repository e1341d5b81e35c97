"""A study of prediction: how well an OptFormer knows values that it was not told."""

from experiments.study.base import Kind
from experiments.study.prediction import report, results, run
from experiments.study.prediction.config import PredictionStudy

KIND = Kind(PredictionStudy, run.plan, run.run, results.summary, report.report)
