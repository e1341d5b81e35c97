"""Durations, and the plain lines of a training whose output is no terminal."""

import pytest

from experiments import progress as module
from experiments.progress import counted, duration, progress


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.4, "0s"), (-5, "0s"), (59.4, "59s"), (59.6, "1m00s"), (75, "1m15s"), (3599.7, "1h00m"),
     (3661, "1h01m"), (100_000, "27h46m")],
)  # fmt: skip
def test_duration(seconds, text):
    assert duration(seconds) == text


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def row(step, **more):
    return {"step": step, "meta_loss": 1.5, "skipped": 0, "steps_per_second": 2.0, **more}


def test_the_first_row_is_shown_at_once(clock, capsys):
    with progress(100) as show:
        show(row(10))
    told = capsys.readouterr()
    assert told.err == "step 10/100 | meta-loss 1.5000 | 2.0 steps/s | 45s left\n"
    assert told.out == "", "results alone go there"


def test_rows_in_between_are_left_out(clock, capsys):
    with progress(100) as show:
        show(row(10))
        clock[0] += module.PLAIN_EVERY - 1
        show(row(20))
        clock[0] += 2
        show(row(30))
        show(row(40))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" | ")[0] for line in lines] == ["step 10/100", "step 30/100"]


def test_validations_and_the_last_row_are_always_shown(clock, capsys):
    with progress(30) as show:
        show(row(10))
        show(row(20, validation=0.25, validation_final=0.125))
        show(row(30))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert "validation 0.2500 (final loss 0.125)" in lines[1]
    assert lines[2].endswith("| 0s left")


def test_skipped_steps_are_told(clock, capsys):
    with progress(30) as show:
        show(row(10, skipped=4))
    assert "skipped 4" in capsys.readouterr().err


def test_a_standstill_has_no_division_by_zero(clock, capsys):
    with progress(30) as show:
        show(row(10, steps_per_second=0.0))
    assert "left" in capsys.readouterr().err


def test_quiet_says_nothing(capsys):
    with progress(30, quiet=True) as show:
        show(row(30))
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(module.sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "160")
    with progress(30) as show:
        show(row(15, validation=0.25, validation_final=0.5))
        show(row(30))
    told = capsys.readouterr()
    out = told.err
    assert told.out == "" and "30/30" in out and "loss 1.5000" in out and "validation 0.2500" in out


def test_pieces_of_work_are_counted_and_the_last_one_is_always_shown(clock):
    said = []
    with counted(4, said.append) as done:
        for what in ("a", "b", "c", "d"):
            clock[0] += 6
            done(what)
    assert said == ["2/4 | b | 12s, 12s left", "4/4 | d | 24s, 0s left"]
