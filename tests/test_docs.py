"""What the documentation shows must run: the Python blocks of the README and of the manual, and every doctest."""

import doctest
import importlib
import importlib.util
import pkgutil
import re
import tomllib
from pathlib import Path

import pytest

import l2o
from l2o import registry

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SLOW = "<!-- slow -->"  # on the line before a block that is for `pytest -m slow`
BLOCK = re.compile(rf"^({SLOW}\n)?```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def _blocks():
    for page in PAGES:
        for number, (slow, code) in enumerate(BLOCK.findall(page.read_text(encoding="utf-8"))):
            name = f"{page.relative_to(ROOT).as_posix()}-{number}"
            yield pytest.param(name, code, marks=pytest.mark.slow if slow else (), id=name)


def _modules():
    for name in ("l2o", "tasks", "meta", "experiments"):
        package = importlib.import_module(name)
        yield name
        for found in pkgutil.walk_packages(package.__path__, f"{name}."):
            if not found.name.endswith("__main__"):
                yield found.name


@pytest.mark.parametrize(("name", "code"), list(_blocks()))
def test_block_runs(name, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    known = {room: dict(kinds) for room, kinds in registry._KINDS.items()}
    try:
        exec(compile(code, name, "exec"), {"__name__": re.sub(r"\W", "_", name)})
    finally:
        registry._KINDS.clear()
        registry._KINDS.update(known)


def test_readme_shows_each_family_and_is_short():
    text = PAGES[0].read_text(encoding="utf-8")
    for needed in (".optax(", "l2o.minimize", "l2o.Search", ".evosax(", "l2o.Sampler(", "l2o.register"):
        assert needed in text
    assert len(text.splitlines()) <= 250


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    """`mkdocs build --strict` sees more, anchors for example; here, what a reader of the files would miss."""
    made = {f"{name}.md" for name in ("examples", "config", "tree", "l2o", "tasks", "meta", "experiments")}  # by a hook
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        assert Path(target).name in made or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_toml_is_toml(page):
    for block in re.findall(r"^```toml\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
        tomllib.loads(block)


@pytest.mark.parametrize("name", list(_modules()))
def test_doctests(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_version_is_one():
    assert f'version = "{l2o.__version__}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_the_page_of_configuration_has_every_kind_once():
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "hooks.py")
    assert spec and spec.loader
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    anchors = re.findall(r"^###? .*\{ #(\S+) \}$", hooks._configuration(), re.MULTILINE)
    assert sorted(set(anchors)) == sorted(anchors)
    assert {"experiment", "studyconfig-curves", "optimizerconfig-mlp", "familyconfig-quadratic"} <= set(anchors)
