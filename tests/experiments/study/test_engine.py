"""What the engine does for a study of any kind, with the kind of docs/extend/study.md."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import tomli_w

from experiments import study as studies
from experiments.page import figure_of
from experiments.study import Figure, Section, Shown, StudyConfig, Table, engine
from experiments.study import report as reports
from experiments.study.base import kind_of, kind_of_results
from experiments.study.pieces import apart, arrays_of, together
from l2o import registry
from l2o.errors import UserError

PAGE = Path(__file__).parents[3] / "docs" / "extend" / "study.md"
BRANIN = {"kind": "function", "function": "branin"}
MINE = {"kind": "points", "description": "a <b>bold</b> claim", "points": 9, "tasks": {"one": BRANIN, "two": BRANIN}}


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The module of a person's own kind of study, in the working directory; registered when it is imported."""
    before = {room: dict(known) for room, known in registry._KINDS.items()}
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "points.py").write_text(code, encoding="utf-8")
    (tmp_path / "mine.toml").write_text(tomli_w.dumps(MINE))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("points", None)
    registry._KINDS.clear()
    registry._KINDS.update(before)


@pytest.fixture
def points(module):
    """The same, imported."""
    import points

    return points


def made(**fields):
    return StudyConfig.parse({**MINE, **fields}, "here")


def test_the_kind_of_the_documentation_is_short():
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 45


def test_a_persons_own_kind_comes_by_import(module, cli):
    assert "unknown kind 'points'" in cli("study", "mine.toml").sentence
    found = cli("study", "mine.toml", "--import", "points", "--out", "out")
    assert found.code == 0, found
    lines = found.out.splitlines()
    told = found.err.splitlines()
    assert told[0] == "9 points on 2 tasks" and told[1].startswith("2/2 | two | ")
    assert lines[0] == "Lowest values:" and lines[1].split() == ["task", "value"]
    assert lines[-2:] == ["Lower is better.", f"report: {Path('out') / 'report.html'}"]
    assert [path.name for path in sorted(Path("out").iterdir())] == [
        "cells",
        "config.toml",
        "report.html",
        "results.json",
    ]
    listed = cli("list", "--import", "points")
    assert listed.code == 0 and re.search(r"^  digits +curves ", listed.out, re.MULTILINE)


def test_json_is_all_of_standard_output(module, cli, strict_json):
    found = cli("study", "mine.toml", "--import", "points", "--out", "out", "--json")
    assert found.code == 0 and strict_json(found.out) == strict_json(Path("out/results.json").read_text())
    assert "9 points on 2 tasks" in found.err and "Lowest values:" in found.err and "report: out" in found.err


def test_results_are_those_of_the_pieces(points, tmp_path):
    said = []
    results = engine.run(made(), tmp_path / "out", said.append)
    assert results == json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["study"] == made().model_dump(mode="json") and results["seconds"] >= 0
    for name, lowest in results["lowest"].items():
        arrays = arrays_of(tmp_path / "out" / "cells" / f"{name}.npz")
        assert arrays["y"].min() == np.float32(lowest) and arrays["y"].shape == (9,) and arrays["took"] > 0
    assert StudyConfig.load(tmp_path / "out" / "config.toml") == made()


def test_a_killed_study_goes_on(points, tmp_path, monkeypatch):
    original, asked = points.values, []

    def killed(study, name):
        asked.append(name)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return original(study, name)

    monkeypatch.setattr(points, "values", killed)
    with pytest.raises(KeyboardInterrupt):
        engine.run(made(), tmp_path / "out", lambda line: None)
    assert not (tmp_path / "out" / "results.json").exists()
    results = engine.run(made(), tmp_path / "out", lambda line: None, resume=True)
    assert asked == ["one", "two", "two"], "what was made is not made again"
    again = engine.run(made(description="other"), tmp_path / "out", lambda line: None, resume=True)
    assert asked == ["one", "two", "two"] and again["lowest"] == results["lowest"]
    assert again["seconds"] == results["seconds"], "the seconds of pieces that were there count"


def test_another_study_is_not_resumed(points, tmp_path):
    engine.run(made(), tmp_path / "out", lambda line: None)
    for fields, words in [({"points": 8}, "points changed from 9 to 8"), ({"seed": 1}, "seed changed from 0 to 1"),
                          ({"tasks": {"one": BRANIN}}, "tasks")]:  # fmt: skip
        with pytest.raises(UserError, match=rf"cannot resume .*out: .*{words}"):
            engine.run(made(**fields), tmp_path / "out", resume=True)
    other = StudyConfig.parse({"task": {"kind": "quadratic"}, "baselines": [{"kind": "sgd"}]}, "here")
    with pytest.raises(UserError, match="kind changed from"):
        engine.begin(other, tmp_path / "out", resume=True)


def test_a_directory_in_use_is_never_overwritten(points, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("keep")
    for resume in (False, True):
        with pytest.raises(UserError, match="is not empty and is never overwritten: choose another --out, or --resume"):
            engine.run(made(), tmp_path / "out", lambda line: None, resume)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_what_the_plan_refuses_leaves_nothing(points, module, tmp_path, cli):
    free = {"free": {"kind": "quadratic"}}
    with pytest.raises(UserError, match=r"^tasks\.free: quadratic has no bounds to draw points from$"):
        engine.run(made(tasks=free), tmp_path / "out")
    (tmp_path / "mine.toml").write_text(tomli_w.dumps({**MINE, "tasks": free}))
    assert "tasks.free: quadratic has no bounds" in cli("study", "mine.toml", "--out", "out").sentence
    assert "expected its directory as --out" in cli("study", "mine.toml", "--resume").sentence
    assert not (tmp_path / "out").exists() and not (tmp_path / "runs").exists()


def test_provenance_is_the_study_in_short_and_its_tables(points, tmp_path):
    results = engine.run(made(), tmp_path / "out", lambda line: None)
    found = engine.provenance(json.loads(json.dumps(results)))
    assert set(found) == {"study", "tables"} and list(found["study"]) == ["description", "seed", "points", "tasks"]
    rows = [{"task": name, "value": f"{lowest:.3g}"} for name, lowest in results["lowest"].items()]
    assert found["tables"] == {"Lowest values": rows}


def test_a_report_is_made_again_from_the_results_alone(points, tmp_path):
    results = engine.run(made(), tmp_path / "out", lambda line: None)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    (tmp_path / "again").mkdir()
    reports.write(tmp_path / "again", results, kind_of_results(results).report(results))
    assert (tmp_path / "again" / "report.html").read_text(encoding="utf-8") == page.replace("Study out", "Study again")
    assert "&lt;b&gt;bold" in page and "<b>bold" not in page and "<h2>Lowest values</h2>" in page
    assert not re.search(r"https?://|<script|<link|@import", page)


def test_a_kind_whose_name_is_taken(module, points, cli):
    (module / "other.py").write_text((module / "points.py").read_text())
    assert "--import other: kind 'points' is already registered by points.Points" in cli(
        "study", "mine.toml", "--import", "other"
    ).sentence  # fmt: skip


def test_a_configuration_that_belongs_to_no_kind():
    class Lonely(StudyConfig):
        kind: str = "lonely"

    with pytest.raises(UserError, match="Lonely belongs to no kind of study"):
        kind_of(Lonely)
    with pytest.raises(UserError, match=r"results\.json is of kind 'grdi' \(did you mean 'grid'\?\), expected one of"):
        kind_of_results({"study": {"kind": "grdi"}})
    assert kind_of_results({"study": {}}).config.model_fields["kind"].default == "curves"


def test_all_kinds_have_different_names_and_fields_to_ship():
    kinds = registry.kinds(StudyConfig)
    names = "blackbox curves grid imitation population prediction surrogates tuning workloads"
    assert list(kinds) == names.split()
    for config in kinds.values():
        assert set(config.shipped) <= set(config.model_fields) and {"description", "seed"} <= set(config.shipped)


@pytest.fixture
def sections():
    """One of each kind of section."""
    rows = [["ours", Shown("1", "[0, 2]", "good")], ["<theirs>", "2"]]
    return [
        Section(figure=Figure("lines.png", "two <lines>", figure_of, dpi=20), where="page"),
        Section("Main", None, [Table(["name", "value"], rows, ours=["ours"])], ["ours is below <theirs>"], "A note."),
        Section(tables=[Table(["name"], [["a"]], title="more"), Table(["name"], [], title="none")]),
        Section("Kept", tables=[Table(["name"], [["b"]])], where="page and provenance"),
        Section("Details", tables=[Table(["name"], [["c"]])], notes="Small print", where="page"),
    ]


def test_sections_in_a_terminal(sections):
    assert reports.as_text(sections).splitlines() == [
        "Main:", "name      value", "ours      1 [0, 2]", "<theirs>  2", "ours is below <theirs>", "A note.",
        "more:", "name", "a",
    ]  # fmt: skip


def test_sections_as_provenance(sections):
    assert reports.as_tables(sections) == {
        "Main": [{"name": "ours", "value": "1 [0, 2]"}, {"name": "<theirs>", "value": "2"}],
        "more": [{"name": "a"}],
        "Kept": [{"name": "b"}],
    }


def test_sections_in_a_page(sections, tmp_path):
    reports.write(tmp_path, {"study": {"description": ""}, "seconds": 75.0}, sections)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert (tmp_path / "lines.png").stat().st_size > 100 and 'alt="two &lt;lines&gt;" src="data:image/png' in page
    assert '<tr class=ours><td>ours</td><td><span class="good">1</span> <small>[0, 2]</small></td></tr>' in page
    assert "<td>&lt;theirs&gt;</td>" in page and "<p>ours is below &lt;theirs&gt;.</p>" in page
    places = [
        page.index(words) for words in ("<img", "<h2>Main", "A note.", "more:", "<h2>Kept", "<h2>Details", "1m15s")
    ]
    assert places == sorted(places) and "none:" not in page


def test_intervals_as_text():
    assert reports.bracketed([1.0, 0.5, 2.0]) == "1.000 [0.500, 2.000]"
    assert reports.bracketed([1.0, None, 2.0]) == "failed" and reports.bracketed(None, missing="-") == "-"
    assert reports.plus_minus([1.0, 0.5, 1.5]) == "1 ± 0.5" and reports.plus_minus([None, None, None]) == "failed"
    assert reports.plus_minus([np.inf, -np.inf, np.inf], missing="diverged") == "diverged"
    assert reports.optional(None, missing="-") == "-" and reports.optional(0.25, ".1%") == "25.0%"


def test_parts_of_a_piece_are_told_apart():
    parts = {"": {"a": np.ones(2)}, "0.1": {"a": np.zeros(1), "b/c": np.ones(3)}}
    found = apart(together(parts))
    assert {name: {key: array.tolist() for key, array in of.items()} for name, of in found.items()} == {
        "": {"a": [1, 1]}, "0.1": {"a": [0], "b/c": [1, 1, 1]},
    }  # fmt: skip


def test_what_is_public():
    assert all(hasattr(studies, name) for name in studies.__all__)
