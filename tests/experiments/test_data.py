"""`l2o data`: from a config to a verified directory, stopped and resumed, and every mistake in one sentence."""

import signal
import time

import optuna
import pytest

from experiments.data import Data
from experiments.run import Experiment
from l2o.errors import UserError
from meta.recordings.rollouts import RolloutsConfig
from meta.recordings.trajectories import load, read_manifest
from tasks.bbob.mixed import HELD_OUT, UNUSED
from tasks.hpo.hpo import HPOConfig

MINE = """\
seed = 4

[source]
kind = "rollouts"
trials = 4
shard = 2

[source.task]
kind = "bbob_mixed"
functions = ["sphere"]
dimensions = [1]
noises = ["none"]

[[source.teachers]]
studies = 6
optimizer = { kind = "random" }
"""


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(MINE)
    return path


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("name", Data.names())
def test_bundled_recordings_round_trip_and_leave_alone_what_is_held_out(name, tmp_path):
    data = Data.load(name)
    (tmp_path / "again.toml").write_text(data.toml())
    assert Data.load(tmp_path / "again.toml") == data
    assert data.description
    if isinstance(data.source, RolloutsConfig) and isinstance(data.source.task, HPOConfig):
        names = data.source.task.names()
        assert not {"breast_cancer", "gradient_boosting"} & {word for name in names for word in name[::2]}
    elif isinstance(data.source, RolloutsConfig):
        assert not set(data.source.task.functions) & set(HELD_OUT + UNUSED)


def test_the_command_records_and_says_what(cli, mine, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = cli("data", mine)
    assert done.code == 0, done.err
    assert "data directory: runs/data/mine" in done.out and "finished: 6 studies in 3 shards" in done.out
    studies, origins, manifest = load(tmp_path / "runs" / "data" / "mine")
    assert studies.y.shape == (6, 4) and origins == ("f1_sphere",)
    assert manifest.config["source"]["trials"] == 4 and manifest.seed == 4
    assert "--resume" in cli("data", mine).sentence
    assert cli("data", "runs/data/mine", "--resume").code == 0


@pytest.mark.slow
def test_a_killed_recording_goes_on_to_the_same_bytes(cli, spawn, mine, tmp_path):
    text = MINE.replace("studies = 6", "studies = 400")
    mine.write_text(text)
    process = spawn("data", mine, "--out", tmp_path / "killed", cwd=tmp_path)
    manifest = tmp_path / "killed" / "manifest.json"
    deadline = time.monotonic() + 120
    while not (manifest.exists() and read_manifest(manifest.parent).shards):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    begun = read_manifest(tmp_path / "killed")
    assert 0 < len(begun.shards) < begun.planned == 200
    with pytest.raises(UserError, match="unfinished"):
        load(tmp_path / "killed")
    assert cli("data", mine, "--out", tmp_path / "killed", "--resume").code == 0
    assert cli("data", mine, "--out", tmp_path / "whole").code == 0
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def test_ctrl_c_says_how_to_go_on(cli, mine, tmp_path, monkeypatch):
    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(RolloutsConfig, "record", stop)
    done = cli("data", mine, "--out", tmp_path / "run")
    assert done.code == 130 and f"l2o data {tmp_path / 'run'} --resume" in done.out


def test_studies_of_optuna_are_imported(cli, tmp_path):
    url = f"sqlite:///{tmp_path}/mine.db"
    command = ("data", "import_optuna", "--set", f"source.url={url}", "--out", tmp_path / "out")
    assert "there is no file" in cli(*command).sentence
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    made = optuna.create_study(storage=url, study_name="mine", sampler=optuna.samplers.RandomSampler(0))
    made.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
    assert "finished: 1 studies in 1 shards" in cli(*command).out
    assert cli(*command, "--resume").code == 0
    assert load(tmp_path / "out").studies.about(0)["name"] == "mine"


@pytest.fixture
def server(tmp_path, monkeypatch):
    """What stands for a database server: the URLs that it was called with, which it takes with the right password."""
    url = f"sqlite:///{tmp_path}/mine.db"
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    made = optuna.create_study(storage=url, study_name="mine", sampler=optuna.samplers.RandomSampler(0))
    made.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
    called, connect = [], optuna.storages.RDBStorage.__init__

    def connecting(self, at, **options):
        called.append(at)
        if ":s3cret%21@" not in at and "=s3cret%21" not in at:
            raise RuntimeError(f"no entry for {at}, password {at.split(':')[2].split('@')[0]}")
        connect(self, url, **options)

    monkeypatch.setattr(optuna.storages.RDBStorage, "__init__", connecting)
    monkeypatch.delenv("L2O_STORAGE_PASSWORD", raising=False)
    return called


@pytest.mark.parametrize("url", ["postgresql://me:{}@host/db", "postgresql://host/db?user=me&password={}"])
def test_a_password_is_kept_nowhere_and_asked_for_again(cli, server, tmp_path, monkeypatch, url):
    out = tmp_path / "out"
    begun = cli("data", "import_optuna", "--set", f"source.url={url.format('s3cret%21')}", "--out", out)
    assert begun.code == 0 and server == [url.format("s3cret%21")]
    assert Data.load(out / "config.toml").source.url == url.format("***") == read_manifest(out).config["source"]["url"]
    written = b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file())
    assert b"s3cret" not in written and "s3cret" not in begun.out + begun.err
    refused = cli("data", out, "--resume").sentence
    assert url.format("***") in refused and "L2O_STORAGE_PASSWORD" in refused
    monkeypatch.setenv("L2O_STORAGE_PASSWORD", "s3cret!")
    assert cli("data", out, "--resume").code == 0
    assert server == [url.format("s3cret%21")] * 2
    other = url.format("s3cret%21").replace("host", "elsewhere")
    refused = cli("data", out, "--resume", "--set", f"source.url={other}").sentence
    assert "source.url changed" in refused and "elsewhere" in refused and "s3cret" not in refused


def test_no_message_has_a_password(cli, server, tmp_path):
    wrong, out = "postgresql://me:hidden@host/db", tmp_path / "out"
    refused = cli("data", "import_optuna", "--set", f"source.url={wrong}", "--out", out).sentence
    assert "cannot be read: no entry for postgresql://me:***@host/db, password ***" in refused
    for arguments in (
        ["data", wrong],
        ["data", "import_optuna", "--set", wrong],
        ["data", "import_optuna", "--set", f"source.url.x={wrong}"],
        ["data", "import_optuna", "--set", f"source.url=['{wrong}']"],
        ["data", "import_optuna", "--set", f"source.url={wrong.replace('hidden', 'hid@hidden')}"],
        ["data", "import_optuna", "--set", f"seed={wrong}"],
        ["train", wrong],
        ["finetune", wrong],
    ):
        assert "hidden" not in cli(*arguments, "--out", out).sentence, arguments
    source = Data.load("import_optuna", [f"source.url={wrong}"]).source
    assert "hidden" not in f"{source!r} {source} {source.model_dump()} {source.model_dump_json()}"
    assert "hidden" not in Data.load("import_optuna", [f"source.url={wrong}"]).toml()


def test_recordings_are_listed(cli):
    out = cli("list").out
    assert "recordings (l2o data)" in out and "bbob_tiny" in out and "rollouts" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing"], "no config 'nothing'"),
        (["MINE", "--set", "source.trails=3"], "source.trails is an unknown field"),
        (["MINE", "--set", "source.kind=rollout"], "did you mean 'rollouts'"),
        (["MINE", "--set", "source.task.dimensions=[0]"], "source.task.dimensions.0"),
        (["MINE", "--set", "source.teachers.0.optimizer.kind=tpe"], "algorithm"),
        (["MINE", "--set", "source.task.kind=quadratic"], "source.task"),
        (["MINE", "--resume"], "holds nothing to resume"),
    ],
)
def test_mistakes_are_one_sentence(cli, mine, tmp_path, arguments, words):
    arguments = [str(mine) if a == "MINE" else a for a in arguments]
    assert words in cli("data", *arguments, "--out", tmp_path / "out").sentence


def test_resume_refuses_another_config(cli, mine, tmp_path):
    assert cli("data", mine, "--out", tmp_path / "run").code == 0
    refused = cli("data", mine, "--out", tmp_path / "run", "--resume", "--set", "seed=5")
    assert "seed changed from 4 to 5" in refused.sentence


def test_a_recording_is_no_experiment(mine):
    with pytest.raises(UserError, match="source"):
        Experiment.load(mine)
