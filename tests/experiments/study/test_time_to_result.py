"""Steps to a target, and profiles over workloads against hand-made times."""

import numpy as np
import pytest

from experiments.study.grid.ways import rivals
from experiments.study.time_to_result import profile, profile_scores, ratios, score, steps_to


def test_steps_to_a_target():
    falling = np.linspace(4.0, 0.0, 41)[None]
    found = steps_to(np.concatenate([falling, falling + 5, np.full((1, 41), np.nan)]), target=2.0)
    means = [falling[0, t - 1 : t + 1].mean() for t in range(1, 41)]  # the running mean over 40 / 20 steps
    np.testing.assert_array_equal(found, [1 + int(np.argmax(np.array(means) <= 2.0)), np.inf, np.inf])


def column(name, learned, steps):
    return {"name": name, "learned": learned, "cells": [{"steps": s, "seconds": s} for s in steps]}


COLUMNS = [
    column("mine", True, [10.0, 20.0, None, None]),
    column("adam (grid)", False, [20.0, 10.0, 30.0, None]),
    column("adam (cell)", False, [5.0, 10.0, 60.0, 7.0]),
]


def test_times_are_divided_by_the_shortest_of_those_with_one_setting():
    expected = [[1, 2, np.inf], [2, 1, 1], [0.5, 1, 2]]  # the fourth workload is finished by no rival
    np.testing.assert_array_equal(ratios(COLUMNS, rivals(COLUMNS), "steps"), expected)


def test_a_profile_counts_workloads_and_its_score_is_the_area_under_it():
    ratio = ratios(COLUMNS, rivals(COLUMNS), "steps")[0]
    np.testing.assert_allclose(profile(ratio, np.array([1.0, 1.9, 2.0, 4.0])), [1 / 3, 1 / 3, 2 / 3, 2 / 3])
    at = np.linspace(1, 4, 30_001)
    assert score(ratio) == pytest.approx(np.trapezoid(profile(ratio, at), at) / 3, abs=1e-4)
    scores = profile_scores(COLUMNS, rivals(COLUMNS))
    assert scores[1] == {"steps": pytest.approx((2 / 3 + 1 + 1) / 3), "seconds": pytest.approx(8 / 9)}


def test_no_workload_is_no_score():
    assert score(np.array([])) == 0
