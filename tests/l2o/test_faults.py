"""The disk fails at any write of any log: nothing that was acknowledged is lost, and the run goes on as without it."""

import errno
import importlib.util
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import l2o
from l2o import Optimizer, UserError
from l2o.files import write_whole

spec = importlib.util.spec_from_file_location("faults", Path(__file__).parents[1] / "faults.py")
faults = importlib.util.module_from_spec(spec)
spec.loader.exec_module(faults)

ERRORS = errno.ENOSPC, errno.EIO


def three():
    """A population around the best point so far."""

    def init(key, problem):
        return problem.space, problem.start, jnp.asarray(jnp.inf)

    def ask(key, state):
        space, best, _ = state
        u = space.to_unit(best)[None] + 0.3 * jax.random.normal(key, (3, *best.shape))
        return jax.vmap(space.from_unit)(jnp.clip(u, 0, 1)), state

    def tell(key, state, x, evaluation):
        space, best, value = state
        i = jnp.nanargmin(evaluation.value)
        better = evaluation.value[i] < value
        return space, jnp.where(better, x[i], best), jnp.where(better, evaluation.value[i], value)

    return Optimizer(init, ask, tell)


THREE = three()
GUESS, KNOWN = [0.25, 0.5], [([0.75, 0.5], 3.0), ([0.5, 0.5], float("nan"))]
NAMED = {"a": (0.0, 1.0), "b": ["u", "v"]}


def search(optimizer, **more):
    def make(path):
        return l2o.Search([(0, 1)] * 2, optimizer, budget=9, seed=1, log=path, **more)

    return make, "ask", lambda trial: float(trial.x.sum())


def study(optimizer, **more):
    def make(path):
        return l2o.Study(NAMED, optimizer, budget=9, seed=1, path=path, **more)

    return make, "suggest", lambda trial: trial.parameters["a"] + (trial.parameters["b"] == "u")


RUNS = {
    "search": search("random"),
    "search by population": search(THREE),
    "search with guesses": search(THREE, guesses=[GUESS], known=KNOWN),
    "study": study("random"),
    "study by population": study(THREE),
    "study with guesses": study(
        THREE, guesses=[{"a": 0.5, "b": "v"}], known=[({"a": 0.25, "b": "u"}, 2.0), ({"a": 0.5, "b": "u"}, 1.0)]
    ),
}


def again(call, *arguments):
    """A call, and once more where it was refused; the answer and what was said."""
    try:
        return call(*arguments), None
    except UserError as error:
        return call(*arguments), str(error)


def play(run, path):
    """Two rounds of four trials side by side, told in another order; one is asked for and left. With what was said."""
    make, ask, value = run
    instance, *said = again(make, path)
    for _ in range(2):
        trials = []
        for _ in range(4):
            trial, refusal = again(getattr(instance, ask))
            trials.append(trial)
            said.append(refusal)
        for trial in (trials[2], trials[0], trials[3], trials[1]):
            said.append(again(instance.observe, trial, value(trial))[1])
    said.append(again(getattr(instance, ask))[1])
    instance.close()
    return seen(instance), [refusal for refusal in said if refusal]


def seen(instance):
    return [(t.number, getattr(t, "parameters", None) or t.x.tolist(), str(t.value), t.error) for t in instance.history]


@pytest.mark.parametrize("name", RUNS)
def test_a_failed_write_of_a_log_loses_nothing(name, tmp_path, monkeypatch):
    run = RUNS[name]
    with faults.disk(monkeypatch, tmp_path) as whole:
        expected, said = play(run, tmp_path / "whole")
    assert not said and whole.count > 20
    for k in range(whole.count):
        path = tmp_path / str(k)
        with faults.disk(monkeypatch, tmp_path, k, ERRORS[k % 2]) as disk:
            found, said = play(run, path)
        assert disk.count > k and found == expected, k
        in_folder = k == 2  # a file system that cannot sync a folder
        assert len(said) == (0 if in_folder else 1) and all("cannot be written" in each for each in said), (k, said)
        assert path.read_bytes() == (tmp_path / "whole").read_bytes(), k
        if k % 7 == 0:
            with run[0](path) as reopened:
                assert seen(reopened) == expected


def test_a_log_that_cannot_even_be_cut_is_cut_by_the_next_write(tmp_path, monkeypatch):
    with l2o.Search([(0, 1)], "random", budget=3, log=tmp_path / "log") as search:
        trial, file = search.ask(), search._log._file
        whole = (tmp_path / "log").read_bytes()

        class Broken(faults.File):
            def truncate(self, size):
                self._disk.raise_()

        search._log._file = Broken(faults.Disk(0, errno.EIO), file)
        with pytest.raises(UserError, match="cannot be written: Input/output error"):
            search.observe(trial, 1.0)
        assert len((tmp_path / "log").read_bytes()) > len(whole)
        search._log._file = file
        search.observe(trial, 2.0)
    with l2o.Search([(0, 1)], "random", budget=3, log=tmp_path / "log") as reopened:
        assert [t.value for t in reopened.history] == [2.0]


@pytest.mark.parametrize("name", ["search", "search by population", "study by population"])
def test_a_point_that_could_not_be_written_was_never_proposed(name, tmp_path):
    """What comes after room was made knows the values that came in between."""
    make, ask, value = RUNS[name]
    points = []
    for failing in (False, True):
        instance = make(tmp_path / f"{failing}")
        trials = [getattr(instance, ask)() for _ in range(3)]
        if failing:
            instance._log._file = faults.File(faults.Disk(0, errno.ENOSPC), instance._log._file)
            with pytest.raises(UserError, match="cannot be written"):
                getattr(instance, ask)()
        for trial in trials:
            instance.observe(trial, value(trial))
        getattr(instance, ask)()
        instance.close()
        points.append((tmp_path / f"{failing}").read_bytes())
    assert points[0] == points[1]


def test_what_was_told_is_on_the_disk(tmp_path, monkeypatch):
    """Each value is synced, after it is written and before `observe` returns."""
    synced, fsync = [], os.fsync

    def spy(descriptor):
        fsync(descriptor)
        synced.append(os.fstat(descriptor).st_size)

    monkeypatch.setattr(os, "fsync", spy)
    for name in ("search", "study"):
        make, ask, value = RUNS[name]
        with make(tmp_path / name) as instance:
            for _ in range(3):
                trial = getattr(instance, ask)()
                synced.clear()
                instance.observe(trial, value(trial))
                assert synced == [(tmp_path / name).stat().st_size]


def test_a_whole_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    done, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda d: (done.append(("sync", os.fstat(d).st_size)), fsync(d)))
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append(("name", os.path.getsize(a))), replace(a, b)))
    write_whole(tmp_path / "file", b"twelve bytes")
    assert done[:2] == [("sync", 12), ("name", 12)] and (tmp_path / "file").read_bytes() == b"twelve bytes"
