"""Studies: what is common to all kinds of them, and the kinds that come with the project.

A module of one's own adds a kind with `register`, and `l2o study --import` finds it.
"""

from experiments.study import blackbox, curves, grid, imitation, population, prediction, surrogates, tuning, workloads
from experiments.study.base import Kind, Plan, StudyConfig, register
from experiments.study.engine import provenance, results_of, run, text
from experiments.study.pieces import Arrays, Pieces
from experiments.study.report import Figure, Report, Section, Shown, Table

__all__ = [
    "Arrays", "Figure", "Kind", "Pieces", "Plan", "Report", "Section", "Shown", "StudyConfig", "Table", "provenance",
    "register", "results_of", "run", "text",
]  # fmt: skip

for folder in (blackbox, curves, grid, imitation, population, prediction, surrogates, tuning, workloads):
    register(folder.KIND)
