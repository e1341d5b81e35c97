"""`l2o resume` for every kind of directory, `l2o ship`, `l2o bench`, help and completion."""

import shutil

import pytest
import shellingham
import tomli_w
from typer.core import TyperGroup
from typer.main import get_command

import l2o
from experiments import cli as module
from experiments import ship
from experiments.data import Data
from experiments.run import Experiment
from experiments.study import StudyConfig
from l2o import loaded
from meta.recordings.trajectories import read_manifest

COMMANDS = ("train", "study", "data", "finetune", "resume", "show", "list", "configure", "ship", "doctor", "bench")
BLACKBOX = {
    "kind": "blackbox", "tasks": {"branin": {"kind": "function", "function": "branin"}}, "evaluations": 2, "runs": 2,
    "steps": [2], "baselines": {"random": {"kind": "random"}},
}  # fmt: skip


def begun(folder, config):
    """A directory that a command was killed in before its first result."""
    folder.mkdir()
    (folder / "config.toml").write_text(config if isinstance(config, str) else tomli_w.dumps(config))
    return folder


@pytest.mark.slow
def test_a_training_goes_on(trained, tmp_path, cli):
    run = begun(tmp_path / "run", (trained / "config.toml").read_text())
    found = cli("resume", run)
    assert found.code == 0 and "finished: validation meta-loss" in found.out and "step 6/6" in found.progress
    assert l2o.load(run).sha256 == l2o.load(trained).sha256
    assert "nothing to do" in cli("resume", run).out
    assert "meta.steps changed from 6 to 8" in cli("resume", run, "--set", "meta.steps=8").sentence


@pytest.mark.slow
def test_a_recording_goes_on(tmp_path, cli):
    config = Data.load(
        "bbob_tiny", ['source.task.functions=["sphere"]', "source.trials=4", "source.task.dimensions=[1]"]
    )
    out = begun(tmp_path / "data", config.toml())
    found = cli("resume", out)
    assert found.code == 0 and "finished: " in found.out, found
    assert len(read_manifest(out).shards) == read_manifest(out).planned
    again = cli("resume", out)
    assert again.code == 0 and again.out == found.out
    assert "seed changed from 0 to 7" in cli("resume", out, "--set", "seed=7").sentence


def test_a_study_goes_on(tmp_path, cli):
    (tmp_path / "mine.toml").write_text(tomli_w.dumps(BLACKBOX))
    out = begun(tmp_path / "s", StudyConfig.load(tmp_path / "mine.toml").toml())
    found = cli("resume", out)
    assert found.code == 0 and f"report: {out / 'report.html'}" in found.out, found
    assert (out / "results.json").is_file()
    assert "runs changed from 2 to 3" in cli("resume", out, "--set", "runs=3").sentence
    shown = cli("show", out)
    assert shown.out.splitlines() == [f"{out}: a study of kind blackbox", *found.out.splitlines()]


@pytest.fixture
def called(monkeypatch):
    """What `l2o resume` hands to the command that wrote a directory."""
    calls = {}
    for name in ("train", "finetune", "data", "study"):
        monkeypatch.setattr(module, name, lambda *given, name=name, **fields: calls.update({name: (given, fields)}))
    return calls


def test_which_command_goes_on(tmp_path, trained, cli, called):
    config = (trained / "config.toml").read_text()
    train, finetune = begun(tmp_path / "t", config), begun(tmp_path / "f", config)
    (train / "tensorboard").mkdir()
    (finetune / "data").mkdir()
    (finetune / "data" / "manifest.json").touch()
    study = begun(tmp_path / "s", {"task": {"kind": "quadratic"}, "horizon": 3, "runs": 2, "optimizers": ["a/run"]})
    for folder in (train, finetune, study):
        assert cli("resume", folder, "--set", "seed=1", "--import", "json").code == 0
    assert called == {
        "train": ((str(train),), {"overrides": ["seed=1"], "resume": True, "tensorboard": True, "modules": ["json"]}),
        "finetune": ((str(finetune),), {"overrides": ["seed=1"], "resume": True}),
        "study": (
            (str(study / "config.toml"),), {"overrides": ["seed=1"], "out": study, "modules": ["json"], "resume": True}
        ),
    }  # fmt: skip


def test_resume_of_what_was_never_begun(tmp_path, cli):
    assert "nowhere holds nothing that l2o wrote" in cli("resume", tmp_path / "nowhere").sentence
    assert not (tmp_path / "nowhere").exists()


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    monkeypatch.setattr(loaded, "ZOO", tmp_path / "zoo")
    monkeypatch.setattr(ship, "ZOO", tmp_path / "zoo")
    return tmp_path / "zoo"


def test_ship(tmp_path, zoo, trained, cli):
    study = {"horizon": 3, "runs": 2, "steps": [3], "task": {"kind": "quadratic", "dimension": 2}}
    (tmp_path / "mine.toml").write_text(tomli_w.dumps(study))
    assert cli("study", tmp_path / "mine.toml", "--optimizer", trained, "--out", tmp_path / "s").code == 0
    found = cli("ship", trained, tmp_path / "s", "mine", "a line")
    assert found.code == 0 and found.out == f"shipped: {zoo / 'mine'}\n"
    assert l2o.load("mine").provenance["description"] == "a line"
    shown = cli("show", "mine").out
    assert shown.startswith("mine: a line\n") and "  run        learned " in shown
    for name, line, words in (("../mine", "a line", "expected small letters"), ("new", " ", "expected one line")):
        assert words in cli("ship", trained, tmp_path / "s", name, line).sentence
    assert "results.json is missing" in cli("ship", trained, tmp_path, "new", "a line").sentence
    assert "no optimizer named" in cli("ship", tmp_path / "no", tmp_path / "s", "new", "a line").sentence
    assert l2o.names() == ["mine"]


def test_bench_is_a_command(cli):
    found = cli("bench", "--help")
    assert found.code == 0 and "meta_step" in found.out and "--quick" in cli("bench", "update", "--help").out
    assert cli("bench", "no_such_thing").code == 2


def test_results_alone_go_to_standard_output(trained, tmp_path, cli):
    found = cli("train", trained / "config.toml", "--out", tmp_path / "run", "--set", "meta.steps=2")
    first, last = found.out.splitlines()
    assert first == f"run directory: {tmp_path / 'run'}" and last.startswith("finished: ")
    assert Experiment.load(tmp_path / "run" / "config.toml").meta.steps == 2
    shutil.rmtree(tmp_path / "run")


def test_help_fits_on_a_screen_and_has_an_example(cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    overview = cli("--help").out.replace("[ARGS]...", "")
    assert len(overview.splitlines()) <= 30 and "..." not in overview
    group = get_command(module.app)
    assert isinstance(group, TyperGroup) and set(group.commands) == set(COMMANDS)
    for name in COMMANDS:
        lines = cli(name, "--help").out.splitlines()
        assert len(lines) <= 30 and max(map(len, lines)) <= 80, name
        assert f"Example: l2o {name}" in " ".join(" ".join(lines).split())


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_of_a_shell(cli, shell, monkeypatch):
    """Whichever shell it is called from, and if the tests are called from none."""
    monkeypatch.setattr(shellingham, "detect_shell", lambda: (shell, f"/bin/{shell}"))
    found = cli("--show-completion")
    assert found.code == 0 and f"complete_{shell}" in found.out and " l2o" in found.out
