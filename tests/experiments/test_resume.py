"""Killed with SIGKILL at any moment and resumed: theta and metrics as if nothing had happened."""

import json
import os
import shutil
import signal
import time

import jax
import pytest

from experiments.run import Experiment

# Seventy-five rows and fifteen checkpoints: training goes on for seconds after the first row, so that kills land in it.
LONG = """\
seed = 5

[optimizer]
kind = "lstm"
layers = 1
hidden = 2

[task]
kind = "quadratic"
dimension = 2

[meta]
steps = 1500
tasks = 2
horizon = 4
log_every = 20
validate_every = 300
checkpoint_every = 100
validation_tasks = 4
devices = 1

[meta.estimator]
kind = "backprop"
unroll_length = 2
"""
ROWS = 75
TIMING = ("seconds", "steps_per_second")


def rows_of(run):
    path = run / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def stop(process, ready, number):
    """Signal a training as soon as it is `ready`; it must not have ended by itself before."""
    deadline = time.monotonic() + 120
    while not ready():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(process.pid, number)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def metrics_of(run):
    """Rows without what the clock decides."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in TIMING} for row in rows]


def same_as(run, other):
    assert (run / "theta.safetensors").read_bytes() == (other / "theta.safetensors").read_bytes()
    assert [row["step"] for row in metrics_of(run)] == list(range(20, 1501, 20)), "each step once"
    assert metrics_of(run) == metrics_of(other)
    ours, theirs = (json.loads((path / "optimizer.json").read_text()) for path in (run, other))
    for document in (ours, theirs):
        for name in ("seconds", "command", "date"):
            del document["provenance"][name]
    assert ours == theirs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("resume")
    (path / "long.toml").write_text(LONG)
    return path


@pytest.fixture(scope="module")
def whole(folder):
    """The uninterrupted run, in this process, which has other devices, of which only one is used."""
    with jax.numpy_rank_promotion("raise"):
        Experiment.load(folder / "long.toml").train(folder / "whole", quiet=True)
    return folder / "whole"


@pytest.fixture(scope="module")
def killed(folder, spawn, shell):
    """One run, killed before its first checkpoint, then in the middle, then left to finish."""
    run = folder / "killed"
    process = spawn("train", "long.toml", "--out", run, cwd=folder)
    code, _, _ = stop(process, (run / "config.toml").exists, signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert not list(run.glob("checkpoints/[0-9]*")), "before the first checkpoint"
    seen = [0]
    for rows in (8,):
        process = spawn("train", run, "--resume", cwd=folder)
        code, _, err = stop(process, lambda rows=rows: rows_of(run) >= rows, signal.SIGKILL)
        assert code == -signal.SIGKILL, err
        assert not (run / "report.html").exists()
        seen.append(rows_of(run))
        assert seen[-2] <= seen[-1] < ROWS, seen
    found = shell("train", run, "--resume", cwd=folder)
    assert found.code == 0, found
    assert "finished" in found.out and found.progress
    return run


@pytest.mark.slow
def test_a_killed_run_ends_as_the_whole_one(killed, whole):
    same_as(killed, whole)


@pytest.mark.slow
def test_a_killed_run_keeps_its_config(killed, whole):
    assert (killed / "config.toml").read_text() == (whole / "config.toml").read_text()


@pytest.mark.slow
def test_no_half_written_file_is_left(killed):
    assert not list(killed.rglob("*.part"))


@pytest.mark.slow
def test_time_is_summed_over_the_parts(killed):
    seconds = [json.loads(line)["seconds"] for line in (killed / "metrics.jsonl").read_text().splitlines()]
    assert seconds == sorted(seconds)


def test_ctrl_c_leaves_a_run_that_can_be_resumed(folder, whole, spawn, cli, strict_json):
    run = folder / "interrupted"
    process = spawn("train", "long.toml", "--out", run, cwd=folder)
    code, out, err = stop(process, lambda: rows_of(run) >= 2, signal.SIGINT)
    assert code == 130, err
    assert "Traceback" not in err
    last = metrics_of(run)[-1]["step"]
    assert last < 1500
    assert f"stopped at step {last} of 1500; go on with: l2o train {run} --resume" in out
    assert (run / "checkpoints" / str(last)).is_dir()
    document = strict_json((run / "optimizer.json").read_text())
    assert document["provenance"]["finished"] is False and document["provenance"]["meta_steps"] == last
    found = cli("train", run, "--resume")
    assert found.code == 0, found
    same_as(run, whole)


def test_resuming_a_finished_run_changes_no_byte(whole, cli, snapshot):
    before = snapshot(whole)
    found = cli("train", whole, "--resume")
    assert found.code == 0 and found.err == ""
    assert "nothing to do" in found.out
    assert snapshot(whole) == before


def test_a_run_killed_while_reporting_is_completed(tmp_path, whole, cli):
    """After the last checkpoint nothing is trained again."""
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    for name in ("report.html", "curves.png", "optimizer.json", "theta.safetensors"):
        (run / name).unlink()
    found = cli("train", run, "--resume")
    assert found.code == 0
    assert (run / "theta.safetensors").read_bytes() == (whole / "theta.safetensors").read_bytes()
    assert (run / "report.html").is_file() and (run / "curves.png").is_file()
    assert metrics_of(run) == metrics_of(whole)


def test_a_row_cut_short_is_dropped(tmp_path, trained, cli):
    """A kill in the middle of a line of metrics."""
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    (run / "report.html").unlink()
    shutil.rmtree(run / "checkpoints" / "6")
    text = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(text[:-20])
    assert cli("train", run, "--resume").code == 0
    assert metrics_of(run) == metrics_of(trained)
    assert (run / "theta.safetensors").read_bytes() == (trained / "theta.safetensors").read_bytes()


def test_a_half_written_checkpoint_is_dropped(tmp_path, trained, cli):
    """A kill while Orbax writes: it renames the directory when everything is in it."""
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    (run / "report.html").unlink()
    (run / "checkpoints" / "6").rename(run / "checkpoints" / "6.orbax-checkpoint-tmp")
    shutil.rmtree(run / "checkpoints" / "6.orbax-checkpoint-tmp" / "best")
    assert cli("train", run, "--resume").code == 0
    assert metrics_of(run) == metrics_of(trained)
    assert (run / "theta.safetensors").read_bytes() == (trained / "theta.safetensors").read_bytes()
    assert sorted(path.name for path in run.glob("checkpoints/*")) == ["4", "6"]
