"""The files in examples/ run, and what they assert holds. In this process, so that what is compiled is shared."""

import runpy
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "examples"
FAST = {"haiku_loop", "evolved_policy"}
SLOW = {"flax_loop", "optuna_study", "plain_function", "several_devices"}


def test_every_example_is_run_here():
    assert {path.stem for path in FOLDER.glob("*.py")} == {*FAST, *SLOW}


@pytest.mark.parametrize("name", [*sorted(FAST), *(pytest.param(n, marks=pytest.mark.slow) for n in sorted(SLOW))])
def test_example_runs(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if name == "optuna_study":
        pytest.importorskip("optuna")
    runpy.run_path(str(FOLDER / f"{name}.py"))
    assert capsys.readouterr().out.strip()  # it says what came of it
