"""Studies of surrogates: scores of forecasters that are known, and a small study from file to report."""

import jax
import numpy as np
import pytest

import l2o
from experiments.study import report as reports
from experiments.study.engine import run
from experiments.study.surrogates import KIND
from experiments.study.surrogates.config import SurrogateStudy
from experiments.study.surrogates.results import calibration_error
from l2o.errors import UserError
from l2o.surrogate.pfn import PFNConfig

TINY = {
    "kind": "surrogates",
    "description": "tiny",
    "priors": {"gp_2d": {"kind": "gp", "dimension": 2, "features": 16, "noise": 0.1, "length_scales": [0.3, 0.3]}},
    "told": [2, 6],
    "queries": 4,
    "functions": 6,
    "processes": {"exact": {"hyperparameters": "given"}, "fitted": {"fit_steps": 5}},
    "batch": 3,
}


def made(**fields):
    return SurrogateStudy.parse({**TINY, **fields}, "test")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("surrogates")
    config = PFNConfig(width=8, heads=2, feedforward=8, layers=1, parameter_width=8, buckets=8, processes=2)
    (folder / "fresh").mkdir()
    l2o.save(folder / "fresh", config, config.build().init(jax.random.key(0)), {})
    out = folder / "out"
    return run(made(optimizers=(str(folder / "fresh"),)), out, say=lambda line: None), out


def test_the_exact_process_is_at_no_distance_from_itself_and_others_are(results):
    rows = results[0]["rows"]["gp_2d"]
    np.testing.assert_allclose([row[0] for row in rows["exact"]["divergence"]], 0, atol=1e-5)
    for name in ("fitted", "fresh"):
        assert all(row[0] > 1e-3 for row in rows[name]["divergence"]), name
        assert all(np.isfinite(row[0]) for row in rows[name]["density"]), name
    assert rows["exact"]["density"][1][0] > rows["exact"]["density"][0][0], "more is known after more points"


def test_a_report_has_all_of_it(results):
    found, out = results
    text = reports.as_text(KIND.report(found))
    assert "Divergence from the exact posterior" in text and "Calibration" in text and "after 6" in text
    for name in ("density.png", "divergence.png", "report.html"):
        assert (out / name).stat().st_size > 1000


def test_evaluations_that_fail_are_not_scored(tmp_path):
    prior = {"kind": "response_prior", "dimension": 2, "failing": 1.0}
    study = made(priors={"failing": prior}, told=[4], processes={"fitted": {"fit_steps": 2}})
    row = run(study, tmp_path / "out", say=lambda line: None)["rows"]["failing"]["fitted"]
    assert np.isfinite(row["density"][0]).all() and 0 <= row["error"][0] <= 50


def test_calibration_by_hand():
    assert calibration_error(np.linspace(0, 1, 2001)) < 0.1
    assert calibration_error(np.full(100, 0.5)) == pytest.approx(25.0)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"optimizers": ("lstm",)}, "lstm is of kind 'lstm', which does not predict"),
        ({"priors": {"q": {"kind": "quadratic", "dimension": 2}}}, "priors.q: the tasks tell no prior"),
        ({"told": [5, 2]}, "told must increase, found 5, 2"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked(fields, said):
    with pytest.raises(UserError, match=said):
        KIND.plan(made(**fields))
