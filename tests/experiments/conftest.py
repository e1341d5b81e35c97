"""A tiny experiment, the command line in this process and in others, all with the compilation cache of the tests."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import pytest

from experiments.cli import main
from experiments.run import Experiment

TINY = """\
description = "tiny"
seed = 3

[optimizer]
kind = "lstm"
layers = 1
hidden = 2

[task]
kind = "quadratic"
dimension = 2

[meta]
steps = 6
tasks = 2
horizon = 4
log_every = 2
validate_every = 2
checkpoint_every = 2
validation_tasks = 4

[meta.estimator]
kind = "backprop"
unroll_length = 2
"""


class Outcome(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """The one line of a refusal, after whatever progress there was; fails when it is anything else."""
        assert self.code == 2, self
        *_, last = self.err.splitlines() or [""]
        assert last.startswith("error: ") and self.err.count("error: ") == 1, self.err
        assert "Traceback" not in self.err + self.out
        return last.removeprefix("error: ").strip()

    @property
    def progress(self) -> str:
        """What was said beside the results; fails when there was an error in it."""
        assert "error" not in self.err.lower() and "Traceback" not in self.err, self.err
        return self.err


# where tests/conftest.py has the cache
CACHE = Path(__file__).parents[2] / ".jax_cache"


@pytest.fixture(scope="session")
def environment():
    """The environment of child processes."""
    names = ("L2O_DATA", "XDG_CACHE_HOME", "COLUMNS")
    return {**{k: v for k, v in os.environ.items() if k not in names}, "XDG_CACHE_HOME": str(CACHE)}


@pytest.fixture(scope="session")
def spawn(environment):
    """Start `python -m l2o` in a directory; whatever still runs at the end is killed."""
    started = []

    def start(*arguments, cwd):
        command = [sys.executable, "-m", "l2o", *map(str, arguments)]
        process = subprocess.Popen(
            command, cwd=cwd, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def shell(spawn):
    """Run `python -m l2o` to its end."""

    def run(*arguments, cwd):
        process = spawn(*arguments, cwd=cwd)
        out, err = process.communicate(timeout=180)
        return Outcome(process.returncode, out, err)

    return run


@pytest.fixture
def cli(monkeypatch, capsys):
    """Run the command line in this process, where importing jax costs nothing."""
    jax.devices()  # there are four from now on, whatever the command line would choose
    options = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in options}
    path = list(sys.path)
    # JAX keeps the directory that it compiled its first program with
    monkeypatch.setenv("XDG_CACHE_HOME", str(CACHE))
    monkeypatch.delenv("L2O_DATA", raising=False)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["l2o", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        return Outcome(code, *capsys.readouterr())

    yield run
    sys.path[:] = path
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture
def tiny(tmp_path):
    """A config file that trains in a second."""
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A finished run directory; read it, never write it."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "tiny.toml").write_text(TINY)
    Experiment.load(folder / "tiny.toml").train(folder / "run", quiet=True)
    return folder / "run"


def strict_json(text: str):
    """Parse JSON as the standard has it, without NaN and Infinity."""

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def snapshot(folder: Path) -> dict:
    """Contents and modification time of every file of a folder."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


@pytest.fixture(name="strict_json", scope="session")
def _strict_json():
    return strict_json


@pytest.fixture(name="snapshot", scope="session")
def _snapshot():
    return snapshot
