"""`l2o list` and `l2o show`: optimizers, directories and logs, for a person and as JSON."""

import json
import shutil
from pathlib import Path

import pytest
import tomli_w

import l2o
from experiments import show
from experiments.data import Data

GRADIENT = [name for name in l2o.names() if l2o.load(name).learned.native is not None]
OTHERS = [name for name in l2o.names() if name not in GRADIENT]


@pytest.fixture
def document(cli, strict_json):
    """What a command prints with --json."""

    def run(*arguments):
        found = cli(*arguments, "--json")
        assert found.code == 0 and found.err == "", found
        return strict_json(found.out)

    return run


def test_list_as_json_has_what_the_lines_have(cli, document):
    groups = document("list")
    assert list(groups) == list(show.TITLES)
    assert [entry["name"] for entry in groups["shipped_optimizers"]] == l2o.names()
    assert {entry["name"]: entry["state_bytes_per_parameter"] for entry in groups["baselines"]}["adam"] == 8
    assert {entry["name"]: entry["kind"] for entry in groups["studies"]}["digits"] == "curves"
    assert cli("list").out.splitlines() == show.listing_lines(groups)


@pytest.mark.parametrize("name", l2o.names())
def test_a_shipped_optimizer(name, cli, document):
    loaded, found = l2o.load(name), document("show", name)
    assert found["kind"] == loaded.config.kind and found["config"]["kind"] == loaded.config.kind
    for field in ("command", "seed", "meta_steps", "seconds", "device", "date"):
        assert found["training"][field] == loaded.provenance[field]
    assert found["held_out"] == loaded.provenance["held_out"]
    assert (found["state_bytes_per_parameter"] is None) == (name in OTHERS)
    assert len(found["use"]) == 3
    lines = cli("show", name).out.splitlines()
    assert lines[0] == f"{name}: {loaded.provenance['description']}"
    assert [line.strip() for line in lines[-3:]] == found["use"]
    assert f"  command     {loaded.provenance['command']}" in lines
    assert any(line.startswith("held-out scores: ") for line in lines)
    tables = loaded.provenance["held_out"].get("tables", {"": loaded.provenance["held_out"].get("table")})
    for rows in tables.values():
        assert all(any(str(row[column]) in line for line in lines) for row in rows for column in row)


@pytest.mark.parametrize("name", [*GRADIENT, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def test_the_three_lines_run(name):
    exec("\n".join(show.usage(name, l2o.load(name))), {})


def test_a_run_directory(trained, cli, document):
    found = document("show", trained)
    assert found["training"]["meta_steps"] == 6 and found["held_out"] is None
    assert found["experiment"]["task"]["kind"] == "quadratic"
    exec("\n".join(found["use"]), {})
    shown = cli("show", trained).out
    assert f"held-out scores: none; measure it with: l2o study STUDY --optimizer {trained}" in shown
    assert "meta-steps  6\n" in shown and "not finished" not in shown


def test_an_artifact_without_a_history(trained, tmp_path, cli):
    loaded = l2o.load(trained)
    l2o.save(tmp_path / "mine", loaded.config, loaded.theta)
    shown = cli("show", tmp_path / "mine").out
    assert "kind             lstm" in shown and "trained" not in shown


def test_a_training_that_has_only_begun(trained, tmp_path, cli, document):
    (tmp_path / "run").mkdir()
    shutil.copy(trained / "config.toml", tmp_path / "run")
    assert document("show", tmp_path / "run")["finished"] is False
    assert cli("show", tmp_path / "run").out.splitlines()[-1] == f"not finished; go on with: l2o resume {tmp_path}/run"


def test_a_study(tmp_path, trained, cli, document):
    study = {"horizon": 3, "runs": 2, "steps": [3], "task": {"kind": "quadratic", "dimension": 2}}
    (tmp_path / "mine.toml").write_text(tomli_w.dumps(study | {"baselines": [{"kind": "sgd", "learning_rate": 0.1}]}))
    printed = cli("study", tmp_path / "mine.toml", "--optimizer", trained, "--out", tmp_path / "s")
    assert printed.code == 0 and "ran sgd" in printed.progress and "ran sgd" not in printed.out
    assert cli("show", tmp_path / "s").out.splitlines() == [
        f"{tmp_path}/s: a study of kind curves",
        *printed.out.splitlines(),
    ]
    found = document("show", tmp_path / "s")
    assert [row["optimizer"] for row in next(iter(found["scores"]["tables"].values()))] == [trained.name, "sgd"]
    (tmp_path / "s" / "results.json").write_text("[]")
    assert "results.json is damaged" in cli("show", tmp_path / "s").sentence
    (tmp_path / "s" / "results.json").unlink()
    assert "not finished" in cli("show", tmp_path / "s").out


def test_a_recording(tmp_path, cli, document):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "config.toml").write_text(Data.load("bbob_tiny").toml())
    assert document("show", tmp_path / "r")["manifest"] is None
    shown = cli("show", tmp_path / "r").out
    assert f"{tmp_path}/r: a recording\n" in shown and "not finished" in shown


@pytest.mark.parametrize(
    ("name", "words"),
    [("lstn", "no optimizer named 'lstn' (did you mean 'lstm'?)"), ("empty", "empty holds nothing that l2o wrote"),
     ("other.txt", "other.txt is no log"), ("void.txt", "void.txt is no log"), ("broken", "is not valid TOML"),
     ("foreign", "foreign holds nothing that l2o wrote"), ("odd", "odd holds nothing that l2o wrote")],
)  # fmt: skip
def test_what_cannot_be_shown(name, words, tmp_path, monkeypatch, cli):
    monkeypatch.chdir(tmp_path)
    for folder, config in {"empty": None, "broken": "seed = ", "foreign": "a = 1", "odd": "kind = [1]"}.items():
        Path(folder).mkdir()
        if config is not None:
            Path(folder, "config.toml").write_text(config)
    Path("other.txt").write_text("{}\n")
    Path("void.txt").write_text("")
    for command in ("show", "resume") if "." not in name and name != "lstn" else ("show",):
        assert words in cli(command, name).sentence


SPACE = {"rate": {"kind": "float", "low": 1e-5, "high": 0.1, "scale": "log"}, "layers": [(8,), (8, 8)]}


@pytest.fixture
def log(tmp_path):
    """The log of a study: a known trial, a guess, one that failed and one that is open."""
    known, guess = {"rate": 0.01, "layers": (8,)}, {"rate": 0.02, "layers": (8, 8)}
    path = tmp_path / "study.jsonl"
    with l2o.Study(SPACE, name="mine", metric="accuracy", goal="maximize", optimizer="random", path=path,
                   known=[(known, 0.5)], guesses=[guess]) as study:  # fmt: skip
        study.observe(study.suggest(), 0.75)
        study.fail(study.suggest(), "out of memory")
        study.suggest()
    return path


def test_the_log_of_a_study(log, cli, document):
    trials = document("show", log)["trials"]
    assert [trial["state"] for trial in trials] == ["complete", "complete", "infeasible", "pending"]
    assert [trial["origin"] for trial in trials] == ["known", "guess", "asked", "asked"]
    assert [trial["value"] for trial in trials] == [0.5, 0.75, None, None]
    lines = cli("show", log).out.splitlines()
    assert lines[0] == f"{log}: a study 'mine', maximize accuracy"
    assert lines[2].split() == ["trial", "rate", "layers", "accuracy", "from", "state"]
    assert lines[4].split() == ["1", "0.02", "(8,", "8)", "0.75", "guess", "complete"]
    assert "infeasible: out of memory" in lines[5]
    assert lines[-1] == "best: accuracy 0.75 of trial 1"


def test_the_log_of_a_search(tmp_path, cli, document):
    path = tmp_path / "search.log"
    l2o.minimize(lambda x: float(x[0] ** 2), [(-1.0, 1.0)], "random", budget=3, log=path)
    trials = document("show", path)["trials"]
    assert [trial["number"] for trial in trials] == [0, 1, 2] and all(t["seconds"] >= 0 for t in trials)
    best = min(trial["value"] for trial in trials)
    lines = cli("show", path).out.splitlines()
    assert "x[0]" in lines[2] and lines[-1].startswith(f"best: value {best:.6g} of trial ")


def test_a_log_that_a_kill_tore_or_somebody_changed(log, cli, document):
    whole = log.read_text()
    log.write_text(whole + '{"told": 3, "val')
    assert len(document("show", log)["trials"]) == 4
    header, *events = whole.splitlines()
    for line in (
        "nonsense",
        '{"told": 99, "value": 1.0}',
        "{}",
        '{"asked": 0, "parameters": 3}',
        '{"asked": 0, "parameters": [3]}',
        '{"asked": [], "x": 1}',
    ):
        log.write_text("\n".join([header, line, *events, ""]))
        assert f"{log}, line 2 is damaged" in cli("show", log).sentence
    log.write_text(json.dumps(json.loads(header) | {"version": 99}) + "\n")
    assert "has format version 99" in cli("show", log).sentence
    log.write_text(header + "\n")
    assert "0 trials" in cli("show", log).out


def test_numbers_that_are_none_become_null(strict_json):
    assert strict_json(show.strict_json({"a": [float("nan"), 1.0], "b": (float("inf"),)})) == {
        "a": [None, 1.0],
        "b": [None],
    }
