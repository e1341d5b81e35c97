"""The disk fails at any write of a run directory: the run says so, and goes on from there as if it had not."""

import errno
import importlib.util
import json
from pathlib import Path

import pytest

from experiments import run
from experiments.run import Experiment
from l2o import UserError

spec = importlib.util.spec_from_file_location("faults", Path(__file__).parents[1] / "faults.py")
faults = importlib.util.module_from_spec(spec)
spec.loader.exec_module(faults)

ERRORS = errno.ENOSPC, errno.EIO


def left(out):
    """What a finished run leaves, but for times."""
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    timed = {"seconds", "steps_per_second"}
    rows = [{name: value for name, value in row.items() if name not in timed} for row in rows]
    assert (out / "report.html").stat().st_size > 1000 and (out / "curves.png").stat().st_size > 1000
    return rows, (out / "theta.safetensors").read_bytes(), (out / "config.toml").read_bytes()


def injected(tiny, tmp_path, monkeypatch, every):
    """How many writes a run makes, of which each of `every` failed in a run of its own."""
    experiment = Experiment.load(tiny)
    with faults.disk(monkeypatch, tmp_path) as whole:
        run.train(experiment, tmp_path / "whole", quiet=True)
    expected = left(tmp_path / "whole")
    failures = range(0, whole.count, every)
    for k in failures:
        out = tmp_path / str(k)
        with faults.disk(monkeypatch, tmp_path, k, ERRORS[k % 2]) as disk:
            try:
                run.train(experiment, out, quiet=True)
            except UserError as error:
                assert "written" in str(error) and "\n" not in str(error), (k, error)
            else:  # a file system that cannot sync a folder
                assert disk.count > k, k
                assert left(out) == expected, k
                continue
        resume = (out / "config.toml").exists()
        run.train(experiment, out, resume=resume, quiet=True)
        assert left(out) == expected, k
    return whole.count, len(failures)


def test_a_failed_write_of_a_run_loses_nothing(tiny, tmp_path, monkeypatch):
    writes, failed = injected(tiny, tmp_path, monkeypatch, every=31)
    assert writes > 20 and failed >= 3


@pytest.mark.slow
def test_any_failed_write_of_a_run_loses_nothing(tiny, tmp_path, monkeypatch):
    writes, failed = injected(tiny, tmp_path, monkeypatch, every=1)
    assert failed == writes
