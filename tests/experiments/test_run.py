"""What a run directory holds, that it is never overwritten, and that the seed decides theta."""

import base64
import json
import math
import re
import shutil

import jax
import jax.numpy as jnp
import matplotlib.image
import numpy as np
import optax
import pytest

import l2o
from experiments import training_report
from experiments.directory import claim, fresh_directory
from experiments.run import Experiment, train
from l2o.errors import UserError
from l2o.files import write_whole
from meta.trainer import TrainingResult
from tasks.quadratic import QuadraticConfig


def theta_of(run):
    return (run / "theta.safetensors").read_bytes()


def test_everything_is_there(trained):
    names = {path.name for path in trained.iterdir()}
    assert names == {
        "config.toml", "metrics.jsonl", "checkpoints", "optimizer.json", "theta.safetensors", "curves.png",
        "report.html",
    }  # fmt: skip


def test_the_config_is_the_resolved_experiment(trained):
    again = Experiment.load(trained / "config.toml")
    assert again == Experiment.load(trained.parent / "tiny.toml")
    assert (trained / "config.toml").read_text() == again.toml()


def test_metrics_have_a_row_per_chunk(trained, strict_json):
    rows = [strict_json(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4, 6]
    for row in rows:
        assert {"meta_loss", "gradient_norm", "skipped", "steps_per_second", "seconds", "validation"} <= row.keys()
        assert np.isfinite(row["meta_loss"]) and row["skipped"] == 0
    assert [row["seconds"] for row in rows] == sorted(row["seconds"] for row in rows)


def test_the_last_checkpoint_is_the_last_step(trained):
    assert max(int(path.name) for path in (trained / "checkpoints").iterdir()) == 6


def test_curves_are_a_picture(trained):
    assert (trained / "curves.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    height, width, _ = matplotlib.image.imread(trained / "curves.png").shape
    assert width > height > 300


def self_contained(page):
    """No reference to anything but data: URIs, and a viewport for phones."""
    assert page.startswith("<!doctype html>") and page.rstrip().endswith("</html>")
    assert '<meta name="viewport" content="width=device-width' in page
    assert not re.search(r"https?://|file:|@import|<script|<link|<iframe", page)
    references = re.findall(r"""(?:src|href|srcset|poster)\s*=\s*["']?([^"'>\s]+)|url\(([^)]*)\)""", page)
    assert references and all("".join(found).startswith("data:") for found in references)


def test_the_report_is_self_contained(trained):
    page = (trained / "report.html").read_text(encoding="utf-8")
    self_contained(page)
    picture = re.search(r"data:image/png;base64,([^\"]+)", page).group(1)
    assert base64.b64decode(picture) == (trained / "curves.png").read_bytes()
    assert "hidden = 2" in page and "tiny" in page


@pytest.mark.slow
def test_text_in_a_report_is_escaped(tmp_path, tiny):
    run = tmp_path / "a<b>&c"
    Experiment.load(tiny, ["description='<script>alert(1)</script>'", "meta.steps=2"]).train(run, quiet=True)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page and "&lt;script&gt;" in page and "<b>&c" not in page
    self_contained(page)


def test_provenance(trained, strict_json):
    document = strict_json((trained / "optimizer.json").read_text())
    provenance = document["provenance"]
    experiment = Experiment.load(trained / "config.toml")
    assert Experiment.parse(provenance["experiment"], "provenance") == experiment
    assert provenance["seed"] == 3 and provenance["meta_steps"] == 6 and provenance["finished"] is True
    assert provenance["seconds"] >= 0 and "cpu" in provenance["device"] and provenance["licence"] == "Apache-2.0"
    assert provenance["command"] == "Experiment.train, from Python"
    assert {"l2o", "jax", "python"} <= provenance["versions"].keys()
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    best = min(rows, key=lambda row: row["validation"])
    assert provenance["validation_meta_loss"] == best["validation"]
    assert provenance["validation_step"] == best["step"]


def test_training_from_python_gives_an_optax_transformation(tmp_path, tiny, trained):
    loaded = Experiment.load(tiny).train(tmp_path / "run", quiet=True)
    assert isinstance(loaded, l2o.Loaded)
    assert theta_of(tmp_path / "run") == theta_of(trained), "the same seed twice gives the same theta, to the bit"
    tx = optax.chain(optax.clip_by_global_norm(1.0), loaded.optax())
    params = {"w": jnp.ones((2, 3)), "b": jnp.zeros(3)}
    state = tx.init(params)

    @jax.jit
    def step(params, state):
        value, gradient = jax.value_and_grad(lambda p: jnp.sum((p["w"].sum(0) + p["b"] - 1) ** 2))(params)
        updates, state = tx.update(gradient, state, params, value=value)
        return optax.apply_updates(params, updates), state

    for _ in range(3):
        new, state = step(params, state)
        assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(new))
        assert bool((new["w"] != params["w"]).all())
        params = new


@pytest.mark.slow
def test_another_seed_gives_another_theta(tmp_path, tiny, trained):
    Experiment.load(tiny, ["seed=4"]).train(tmp_path / "run", quiet=True)
    assert theta_of(tmp_path / "run") != theta_of(trained)


def test_the_default_directory_is_fresh_each_time(tmp_path, tiny, monkeypatch, cli, strict_json):
    monkeypatch.chdir(tmp_path)
    for n in (1, 2):
        found = cli("train", "tiny.toml", "--set", "meta.steps=2")
        assert found.code == 0
        assert f"run directory: runs/tiny-{n}\n" in found.out
        assert "step 2/2" in found.progress and "step 2/2" not in found.out
        assert (tmp_path / f"runs/tiny-{n}/report.html").is_file()
    assert theta_of(tmp_path / "runs/tiny-1") == theta_of(tmp_path / "runs/tiny-2")
    command = strict_json((tmp_path / "runs/tiny-2/optimizer.json").read_text())["provenance"]["command"]
    assert command == "l2o train tiny.toml --set meta.steps=2"


def test_the_default_directory_from_python(tmp_path, tiny, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Experiment.load(tiny, ["meta.steps=2"]).train(quiet=True)
    assert (tmp_path / "runs/lstm_quadratic-1/theta.safetensors").is_file()
    assert capsys.readouterr() == ("", "")


def test_fresh_directory_fills_no_gap_that_exists(tmp_path):
    (tmp_path / "name-1").mkdir()
    (tmp_path / "name-2").write_text("a file counts too")
    assert fresh_directory("name", tmp_path) == tmp_path / "name-3"
    assert not (tmp_path / "name-3").exists()


def test_a_directory_in_use_is_never_overwritten(tmp_path, tiny, trained, cli, snapshot):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    before = snapshot(run)
    with pytest.raises(UserError, match="not empty and is never overwritten"):
        Experiment.load(tiny).train(run, quiet=True)
    assert str(run) in cli("train", tiny, "--out", run).sentence
    assert snapshot(run) == before


def test_a_hidden_file_counts_as_contents(tmp_path):
    (tmp_path / ".keep").write_text("")
    with pytest.raises(UserError, match="not empty"):
        claim(tmp_path)


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_an_output_directory_that_cannot_be(tmp_path, name):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="cannot be used as an output directory"):
        claim(tmp_path / name)
    assert (tmp_path / "file").read_text() == "mine"


def test_an_empty_directory_is_taken(tmp_path):
    claim(tmp_path)
    claim(tmp_path / "new" / "deep")
    assert (tmp_path / "new" / "deep").is_dir()


def test_write_leaves_one_whole_file(tmp_path):
    write_whole(tmp_path / "a.txt", "old")
    write_whole(tmp_path / "a.txt", "new é")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "new é"


@pytest.mark.slow
def test_training_starts_from_another_run(tmp_path, tiny, trained):
    """With a meta learning rate below the last bit of theta, what comes out is what was put in."""
    Experiment.load(
        tiny, [f"meta.init={trained}", "meta.steps=2", "seed=9", "meta.optimizer.learning_rate=1e-30"]
    ).train(tmp_path / "run", quiet=True)
    before, after = l2o.load(trained).theta, l2o.load(tmp_path / "run").theta
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=3e-7), before, after)


def test_theta_is_chosen_on_other_tasks_where_there_are_some(tmp_path, tiny, trained):
    """The training is the same, and what is judged is another family: here the same one, in units of a thousand."""
    text = tiny.read_text()
    at = text.index("[task]")
    table = text[at:].split("\n\n", 1)[0].replace("[task]", "[validation.family]")
    judged = f'[validation]\nkind = "rescaled"\nobjective = 1e-6\n{table}\n\n'
    tiny.write_text(text[:at] + judged + text[at:])
    Experiment.load(tiny).train(tmp_path / "run", quiet=True)
    rows, plain = (
        [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for run in (tmp_path / "run", trained)
    )
    assert [row["meta_loss"] for row in rows] == [row["meta_loss"] for row in plain]
    chosen, without = ([row["validation"] for row in some if "validation" in row] for some in (rows, plain))
    assert chosen != without
    assert json.loads((tmp_path / "run" / "optimizer.json").read_text())["provenance"]["experiment"]["validation"]


@pytest.mark.parametrize("override", ["optimizer.hidden=3", "optimizer.output_scale=0.2"])
def test_another_architecture_cannot_start_there(tmp_path, tiny, trained, cli, override):
    out = tmp_path / "run"
    found = cli("train", tiny, "--out", out, "--set", f"meta.init={trained}", "--set", override)
    name, value = override.removeprefix("optimizer.").split("=")
    assert found.sentence.startswith("meta.init: ")
    assert f"{name}={value}" in found.sentence and str(trained) in found.sentence
    assert not out.exists()


def test_a_start_that_does_not_exist(tmp_path, tiny, cli):
    found = cli("train", tiny, "--out", tmp_path / "run", "--set", f"meta.init={tmp_path / 'nowhere'}")
    assert "nowhere" in found.sentence
    assert not (tmp_path / "run").exists()


def test_a_finished_run_resumes_without_its_data(trained, monkeypatch):
    """Nothing is left to do, so nothing that training needs may be asked for."""

    def gone(*arguments):
        raise UserError("the data is gone")

    monkeypatch.setattr(QuadraticConfig, "build", gone)
    monkeypatch.setattr("experiments.run._starting_theta", gone)
    assert train(Experiment.load(trained / "config.toml"), trained, resume=True) is None


def test_a_report_of_a_training_whose_validation_diverged(tmp_path, trained):
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    lost = [{**row, "meta_loss": None, "validation": None, "validation_final": None} for row in rows]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lost))
    experiment = Experiment.load(trained / "config.toml")
    training_report.write(tmp_path, experiment, TrainingResult({}, 6, math.inf, 0, 0, 1.0, True))
    assert "diverged" in (tmp_path / "report.html").read_text(encoding="utf-8")
