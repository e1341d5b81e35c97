"""A study over activations, architectures, horizons and datasets."""

from experiments.study.base import Kind
from experiments.study.grid import report, results, run
from experiments.study.grid.config import Grid

KIND = Kind(Grid, run.plan, run.run, results.summary, report.report)
